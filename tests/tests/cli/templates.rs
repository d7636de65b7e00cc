//! Prompts over columns with arbitrary names, and the errors that `legenda check` detects in them.

use legenda_tests::{TEXT_JOB, Workplace, text_column};

/// Returns a CSV table whose second column, of questions, has the given name.
fn table(name: &str) -> String {
    format!("id,\"{name}\"\nrow-0,What is five plus four?\nrow-1,What is dog in German?\n")
}

fn job(prompt: &str) -> String {
    let job = TEXT_JOB.replace("table.parquet", "table.csv");
    let job =
        job.replace("columns = { id = \"id\", text = \"question\" }", "columns = { id = \"id\" }");
    job.replace("kind = \"generate\"", &format!("kind = \"generate\"\nprompt = '{prompt}'"))
}

#[test]
fn a_column_of_any_name_can_be_used_in_a_prompt() {
    let mut all = Vec::new();
    for (name, prompt) in [
        ("question", "{{ question }}"),
        ("range", "{{ range }}"),
        ("debug", "{{ debug }}"),
        ("row", "{{ row }}"),
        ("Review Text", "{{ row[\"Review Text\"] }}"),
        ("what?", "{% set name = \"what\" ~ \"?\" %}{{ row[name] }}"),
        ("问题", "{{ 问题 }}"),
        ("größe", "{{ größe }}"),
    ] {
        let place = Workplace::new();
        place.write("table.csv", &table(name));
        place.write("job.toml", &job(prompt));
        let checked = place.run(&["check", "job.toml"]).expect(0);
        let first = "first row  What is five plus four?";
        assert!(checked.stdout.contains(first), "{name}: {}", checked.stdout);
        let ended = place.run(&["run", "job.toml"]).expect(0);
        assert!(ended.stdout.contains("answers 2 + rejects 0"), "{name}: {}", ended.stdout);
        all.push((name, text_column(&place.answers("out"), "answer")));
    }
    for (name, answers) in &all {
        assert_eq!(answers, &all[0].1, "{name}");
    }
}

#[test]
fn check_detects_templates_that_fail_on_rows() {
    let place = Workplace::new();
    place.write("table.csv", &table("question"));
    for (prompt, texts) in [
        (
            "{{ question | uper }}",
            ["task.prompt", "unknown filter `uper`", "did you mean `upper`?"],
        ),
        ("{{ qestion }}", ["`qestion`", "`id`, `question`", "did you mean `question`?"]),
        ("{{ row[\"Qestion\"] }}", ["row[\"Qestion\"]", "`question`", "did you mean `question`?"]),
        ("{% if question is strng %}{% endif %}", ["unknown test `strng`", "line 1", "`string`"]),
        ("{{ upper(question) }}", ["task.prompt", "unknown function `upper`", "line 1"]),
        (
            "{{ (question | length) / 0 * id }}",
            ["row 0", "table.csv", "{\"id\":\"row-0\",\"question\":\"What is five plus four?\"}"],
        ),
    ] {
        place.write("job.toml", &job(prompt));
        place.run(&["check", "job.toml"]).expect(2).stderr_contains(&texts);
    }
    // A row that is rejected for another reason is not an error of the job.
    let long = format!("id,question\nrow-0,{}\n", "x".repeat(3000));
    place.write("table.csv", &long);
    place.write("job.toml", &job("{{ question }}"));
    let args = ["check", "job.toml", "--set", "limits.text_bytes=1KiB"];
    let checked = place.run(&args).expect(0);
    checked.stderr_contains(&["row 0", "will be rejected", "limits.text_bytes"]);
    let shown = place.run(&["check", "job.toml"]).expect(0).stdout;
    assert!(shown.contains("xxx…") && !shown.contains(&"x".repeat(250)), "{shown}");
}
