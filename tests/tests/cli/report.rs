//! The report page of a run: self-contained, without scripts or network access, for any row
//! content.

use std::fs;

use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, references, texts, write_table,
};

fn page(place: &Workplace, path: &str) -> String {
    // The template also escapes slashes.
    let html = fs::read_to_string(place.path(path)).unwrap().replace("&#x2f;", "/");
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>"), "{html}");
    // Anything that a browser would fetch or run.
    for hole in ["<script", "http://", "https://", "<link", "onerror=", "javascript:"] {
        assert!(!html.contains(hole), "`{hole}` in {html}");
    }
    html
}

#[test]
fn a_run_writes_a_page_with_images_and_reject_reasons() {
    let place = Workplace::new();
    let cell = |row: u8| Some(if row % 4 == 1 { b"junk".to_vec() } else { png(row) });
    let cells: Vec<_> = (0..40).map(cell).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 50);
    place.write("job.toml", IMAGE_JOB);
    let told = place.run(&["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("out.legenda/report.html"), "{}", told.stdout);
    let html = page(&place, "out.legenda/report.html");
    for text in [
        "media_unknown_format",
        "complete",
        "peak memory",
        "tokens per second",
        "25 %",
        "The model inside Legenda",
    ] {
        assert!(html.contains(text), "no `{text}`");
    }
    // The report shows rows of every span, each with its image and answer, and rows with odd
    // answers: here all of them, because the model gives few different answers to such images.
    assert_eq!(html.matches("data:image/jpeg;base64,").count(), 30);
    let (rejected, odd) = (html.find("Rejected rows"), html.find("Odd answers"));
    assert!(rejected < odd && odd < html.find("Sample rows"), "{html}");
    assert_eq!(html.matches("<span class=\"badge bad\">media_unknown_format</span>").count(), 10);
    assert_eq!(html.matches(">very frequent</span>").count(), 30);
    let answers = place.answers("out");
    let (ids, texts) = (
        legenda_tests::text_column(&answers, "id"),
        legenda_tests::text_column(&answers, "answer"),
    );
    let article = |id: &str| html.split("<article").find(|one| one.contains(&format!("id: {id}<")));
    let mut shown = 0;
    for (id, text) in ids.iter().flatten().zip(texts.iter().flatten()) {
        if let Some(article) = article(id) {
            let answer = article.find(&format!("<p class=\"answer\">{text}</p>"));
            assert!(answer.is_some() && answer < article.find("<img"), "{article}");
            assert!(article.contains(" % per token</span>"), "{article}");
            shown += 1;
        }
    }
    assert_eq!(shown, 30);
    // With inline rejects, the page shows the same rejects.
    let inline =
        ["run", "job.toml", "--set", "output.path=inline", "--set", "output.rejects=inline"];
    let _inline = place.run(&inline).expect(0);
    let inline = page(&place, "inline.legenda/report.html");
    assert!(inline.contains("unknown image format") || inline.contains("media_unknown_format"));
    assert!(inline.matches("<span class=\"badge bad\">media_unknown_format</span>").count() >= 8);
    let reasons = |html: &str| {
        html.split("Reject reasons").nth(1)?.split("</table>").next().map(str::to_owned)
    };
    assert_eq!(reasons(&inline), reasons(&html));
    assert!(!html.contains("then</th>"), "there is no previous run");

    // A second run is compared with the first, and with another output on request.
    let again = place.run(&["run", "job.toml", "--overwrite"]).expect(0);
    assert!(again.stdout.contains("rows_in 40"), "{}", again.stdout);
    assert!(page(&place, "out.legenda/report.html").contains("Compared with the previous run"));
    let limited = ["run", "job.toml", "--limit", "4", "--set", "output.path=other"];
    assert!(place.run(&limited).expect(0).stdout.contains("rows_in 4"));
    let told = place.run(&["report", "out", "--compare", "other"]).expect(0);
    assert!(told.stdout.contains("report in report.html"), "{}", told.stdout);
    let html = page(&place, "report.html");
    assert!(html.contains("Compared with `other`"), "{html}");
    let rows = "<td data-label=\"quantity\">rows</td><td class=\"n\" data-label=\"before\">4</td>\
                <td class=\"n\" data-label=\"now\">40</td>";
    assert!(html.contains(rows), "{html}");
    // The page says how it was made and what to do next.
    let output = place.path("out").display().to_string();
    for text in [
        "<code>legenda run job.toml --overwrite</code>",
        &format!("<code>legenda retry {output}</code>"),
        &format!("<code>legenda verify {output}</code>"),
        "<dt><code>task.kind</code></dt><dd><code>&quot;caption&quot;</code></dd>",
        "revision <code>",
    ] {
        assert!(html.contains(text), "no `{text}` in {html}");
    }
    place.run(&["report", "elsewhere"]).expect(2).stderr_contains(&["not the output of a run"]);
}

#[test]
fn row_texts_are_escaped() {
    let place = Workplace::new();
    let hostile = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "{{ 7 * 7 }} {% raw %}",
        "</p></body></html>",
    ];
    write_table(&place.path("table.parquet"), &texts(&hostile), 50);
    place.write("job.toml", TEXT_JOB);
    let told = place.run(&["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("rows_in 4 == answers 4"), "{}", told.stdout);
    let html = fs::read_to_string(place.path("out.legenda/report.html")).unwrap();
    assert!(html.contains("&lt;script&gt;alert(1)"), "{html}");
    assert!(html.contains("{{ 7 * 7 }}"), "{html}");
    assert_eq!(html.matches("</html>").count(), 1);
    assert!(!html.contains("<script") && !html.contains("<img src=x"), "{html}");
}

#[test]
fn embeddings_are_shown_with_their_nearest_neighbours() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["a boat", "a dog", "a boat", "<b>"]), 50);
    let bundle = references::bundle("minilm");
    let job = TEXT_JOB.replace("kind = \"generate\"", "kind = \"embed\"");
    place.write("job.toml", &format!("{job}\n[model]\nbundle = \"{}\"\n", bundle.display()));
    let told = place.run(&["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("rows_in 4 == answers 4"), "{}", told.stdout);
    let html = page(&place, "out.legenda/report.html");
    let articles: Vec<&str> = html.split("<article").skip(1).collect();
    assert_eq!(articles.len(), 4, "{html}");
    let nearest = articles[0].split("<li>").nth(1).unwrap();
    assert!(nearest.contains("<b>1.00</b> a boat"), "{nearest}");
    assert_eq!(articles[0].matches("<li>").count(), 3, "{}", articles[0]);
    assert!(html.contains("Nearest neighbours") && !html.contains("The model inside"), "{html}");
}
