//! Links between documents work, and the book has every page.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use legenda_tests::{files_with_extension, repository};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The links and the anchors of a document.
#[derive(Default)]
struct Document {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

impl Document {
    fn read(path: &Path) -> Self {
        Self::parse(&fs::read_to_string(path).unwrap())
    }

    fn parse(text: &str) -> Self {
        let mut this = Self::default();
        let mut heading: Option<String> = None;
        let mut repeated = BTreeMap::<String, usize>::new();
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    this.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap_or_default());
                    let n_before = repeated.entry(slug.clone()).or_default();
                    let is_first = *n_before == 0;
                    this.anchors.insert(if is_first { slug } else { format!("{slug}-{n_before}") });
                    *n_before += 1;
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        *heading += &text;
                    }
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    if let Some((_, rest)) = html.split_once("id=\"") {
                        this.anchors.extend(rest.split('"').next().map(str::to_owned));
                    }
                }
                _ => {}
            }
        }
        this
    }
}

/// Returns the anchor that GitHub and mdBook give a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

/// Removes `.` and `..` from a path.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Returns the Markdown files of the repository, without build outputs.
fn documents() -> Vec<PathBuf> {
    let root = repository();
    let mut found = Vec::new();
    for folder in ["docs", "tests", "jobs", "models/tiny", ".github"] {
        if root.join(folder).is_dir() {
            found.extend(files_with_extension(&root.join(folder), "md"));
        }
    }
    for folder in ["", "models/training"] {
        let entries = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.extension().is_some_and(|found| found == "md")));
    }
    found
}

#[test]
fn relative_links_and_anchors_exist() {
    let documents = documents();
    assert!(documents.len() > 40, "only {} documents", documents.len());
    let book = repository().join("docs");
    let mut problems = Vec::new();
    let mut n_links = 0;
    for path in &documents {
        let document = Document::read(path);
        for link in &document.links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            n_links += 1;
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(f, a)| (f, Some(a)));
            let target = match file {
                "" => path.clone(),
                file => plain(&path.parent().unwrap().join(file)),
            };
            let problem = if fs::metadata(&target).is_err() {
                "no such file"
            } else if path.starts_with(&book) && !target.starts_with(&book) {
                "the book does not contain this file"
            } else if anchor.is_some_and(|anchor| !Document::read(&target).anchors.contains(anchor))
            {
                "no such heading"
            } else {
                continue;
            };
            problems.push(format!("{}: `{link}`: {problem}", path.display()));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(n_links > 100, "only {n_links} links");
}

#[test]
fn the_summary_of_the_book_lists_every_page_once() {
    let book = repository().join("docs");
    let mut listed = Document::read(&book.join("SUMMARY.md")).links;
    listed.sort();
    let mut pages: Vec<String> = files_with_extension(&book, "md")
        .iter()
        .map(|path| path.strip_prefix(&book).unwrap().display().to_string().replace('\\', "/"))
        .filter(|path| path != "SUMMARY.md")
        .collect();
    pages.sort();
    assert_eq!(listed, pages);
}

#[test]
fn anchors_are_those_of_github() {
    let text = "# Files: `a.rs`, b\n\n## Twice\n\n## Twice\n\n<a id=\"here\"></a> [x](#twice-1) `[no](link)`\n";
    let document = Document::parse(text);
    let anchors: Vec<&str> = document.anchors.iter().map(String::as_str).collect();
    assert_eq!(anchors, ["files-ars-b", "here", "twice", "twice-1"]);
    assert_eq!(document.links, ["#twice-1"]);
}
