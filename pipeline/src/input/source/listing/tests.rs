use std::{fs, io::Write, path::Path};

use legenda_schemas::job::SourceFormat;

use super::{Listed, SourceError, list_files};

#[test]
fn files_directories_and_patterns_are_listed_once_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for path in
        ["b.parquet", "a.parquet", "sub/c.pq", "_legenda/x.parquet", ".h/y.parquet", "n.txt"]
    {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap();
    }
    let names = |entries: &[&str]| -> Vec<String> {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        let root = dir.path().canonicalize().unwrap();
        let listing = list_files(&entries, dir.path(), None, false).unwrap();
        let name = |file: &Listed| {
            Path::new(&file.path).strip_prefix(&root).unwrap().display().to_string()
        };
        listing.files.iter().map(name).collect()
    };
    assert_eq!(names(&["."]), ["a.parquet", "b.parquet", "sub/c.pq"]);
    assert_eq!(names(&["*.parquet", "a.parquet"]), ["a.parquet", "b.parquet"]);
    assert_eq!(names(&["b.parquet", "*.parquet"]), ["b.parquet", "a.parquet"]);
    assert_eq!(names(&["**/*.pq"]), ["sub/c.pq"]);
    let missing = list_files(&["none/*.parquet".to_owned()], dir.path(), None, false);
    assert!(matches!(missing, Err(SourceError::NothingFound { .. })));
}

#[test]
fn a_folder_is_of_the_first_format_that_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let formats = |format: Option<SourceFormat>, entry: &str| -> Vec<(String, SourceFormat)> {
        let listing = list_files(&[entry.to_owned()], dir.path(), format, false);
        let name = |file: &Listed| {
            let name = Path::new(&file.path).file_name().unwrap();
            (name.to_string_lossy().into_owned(), file.format)
        };
        listing.unwrap_or_default().files.iter().map(name).collect()
    };
    let file = |name: &str| fs::File::create(dir.path().join(name)).unwrap();
    for name in ["a.PNG", "a.txt", "b.wav", "plain"] {
        drop(file(name));
    }
    let of = |name: &str, format| (name.to_owned(), format);
    let media = [of("a.PNG", SourceFormat::Media), of("b.wav", SourceFormat::Media)];
    assert_eq!(formats(None, "."), media);
    assert_eq!(formats(None, "*"), media);
    assert_eq!(formats(None, "plain"), [of("plain", SourceFormat::Parquet)]);
    assert_eq!(formats(None, "pl*"), [of("plain", SourceFormat::Parquet)]);
    drop(file("metadata.csv"));
    assert_eq!(formats(None, "."), [of("metadata.csv", SourceFormat::Csv)]);
    assert_eq!(formats(Some(SourceFormat::Media), "."), media);
    assert_eq!(formats(Some(SourceFormat::Jsonl), "plain"), [of("plain", SourceFormat::Jsonl)]);
    assert_eq!(formats(Some(SourceFormat::Tar), "."), []);
}

#[test]
fn every_file_of_a_folder_is_read_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";
    let taken =
        ["IMG_1.HEIC", "_DSC0042.JPG", "_album/a.png", "noextension", "photo.jfif", "photo.jpe"];
    let passed =
        ["._a.jpg", ".cache/b.png", "Thumbs.db", "LICENSE", "notes.txt", "_SUCCESS", "b.xlsx"];
    for path in taken.iter().chain(&passed) {
        let full = dir.path().join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        let contents: &[u8] = if *path == "LICENSE" { b"a text" } else { png };
        fs::File::create(full).unwrap().write_all(contents).unwrap();
    }
    let listing = list_files(&[".".to_owned()], dir.path(), None, false).unwrap();
    let root = dir.path().canonicalize().unwrap();
    let names: Vec<&str> = listing
        .files
        .iter()
        .map(|file| Path::new(&file.path).strip_prefix(&root).unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, taken);
    assert!(listing.files.iter().all(|file| file.format == SourceFormat::Media));
    assert_eq!(
        listing.skipped.to_string(),
        "skipped 7 files: 2 hidden, 1 TXT, 1 XLSX, 1 without an extension, 1 system file, \
         1 metadata file"
    );
}

#[cfg(unix)]
#[test]
fn links_bear_their_own_names_and_loops_end() {
    use std::os::unix::{ffi::OsStrExt, fs::symlink};
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for path in ["blobs", "data/lang=de", "other/deep"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for path in ["blobs/aa11", "other/deep/o.csv"] {
        drop(fs::File::create(root.join(path)).unwrap());
    }
    let link = |target: &str, path: &str| symlink(target, root.join(path)).unwrap();
    link("../../blobs/aa11", "data/lang=de/train.csv");
    link("../../blobs/aa11", "data/lang=de/again.csv");
    link("../other", "data/linked");
    link("nowhere", "data/dangling.csv");
    link("..", "data/up");
    link("../../data", "other/deep/back");
    link("itself.csv", "data/itself.csv");
    let odd = root.join("data").join(std::ffi::OsStr::from_bytes(b"odd\xff.csv"));
    drop(fs::File::create(odd).unwrap());
    let listing = list_files(&["data".to_owned()], &root, None, true).unwrap();
    let names: Vec<&str> = listing
        .files
        .iter()
        .map(|file| file.path.strip_prefix(root.to_str().unwrap()).unwrap())
        .collect();
    let expected =
        ["/data/lang=de/again.csv", "/data/lang=de/train.csv", "/data/linked/deep/o.csv"];
    assert_eq!(names, expected);
    assert_eq!(
        listing.skipped.to_string(),
        "skipped 5 files: 3 link loops, 1 dangling link, 1 name that is not UTF-8"
    );
    // All of them, if links out of the folder are followed.
    for (entry, n_within, n_all) in
        [("data", 2, 3), ("data/*/*.csv", 2, 2), ("data/*/*/*.csv", 0, 1)]
    {
        for (follows, n_files) in [(false, n_within), (true, n_all)] {
            let found = list_files(&[entry.to_owned()], &root, None, follows);
            let n_found = found.map_or(0, |found| found.files.len());
            assert_eq!(n_found, n_files, "{entry} {follows}");
        }
    }
    // `..` after a link is the parent of its target.
    let above = list_files(&["data/linked/../data/lang=de".to_owned()], &root, None, true).unwrap();
    assert_eq!(above.files, listing.files[..2]);
}
