//! Completions, manual pages and the examples of `--help`.

use legenda_tests::{Workplace, repository};

#[test]
fn completions_and_manual_pages_know_the_commands() {
    let place = Workplace::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).expect(0).stdout;
        for word in ["transcribe", "completions", "save-job"] {
            assert!(script.contains(word), "no `{word}` in the completions of {shell}");
        }
    }
    let page = place.run(&["man"]).expect(0).stdout;
    assert!(page.contains(".TH legenda") && page.contains("transcribe"), "{page}");
    let page = place.run(&["man", "caption"]).expect(0).stdout;
    assert!(page.contains(".TH legenda-caption") && page.contains("\\-\\-save\\-job"), "{page}");
    place.run(&["man", "captoin"]).expect(2).stderr_contains(&["did you mean `caption`?"]);
}

#[test]
fn every_help_has_examples_whose_commands_exist() {
    let place = Workplace::new();
    let help = place.run(&["--help"]).expect(0).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().filter(|_| line.starts_with("  ")))
        .filter(|name| name.chars().all(char::is_lowercase) && *name != "help")
        .collect();
    assert!(names.len() > 18, "{names:?}");
    for name in &names {
        let help = place.run(&[name, "--help"]).expect(0).stdout;
        let (_, examples) = help.split_once("Examples:").unwrap_or_else(|| panic!("{name}"));
        let used = examples.lines().filter_map(|line| line.trim().strip_prefix("legenda "));
        let used: Vec<&str> = used.filter_map(|line| line.split_whitespace().next()).collect();
        assert!(used.contains(name), "the examples of `{name}` use {used:?}");
        assert!(used.iter().all(|used| names.contains(used)), "{name}: {used:?}");
    }
}

#[test]
fn short_names_stand_for_models_of_the_hub_unless_a_folder_has_the_name() {
    let place = Workplace::new();
    let shown = place.run(&["models"]).expect(0).stdout;
    let listed = place.run(&["models", "list"]).expect(0).stdout;
    assert_eq!(shown, listed);
    let known = place.run(&["models", "known", "--json"]).expect(0).stdout;
    let known: serde_json::Value = serde_json::from_str(&known).unwrap();
    for model in known.as_array().unwrap() {
        let name = model["name"].as_str().unwrap();
        assert!(shown.lines().any(|line| line.starts_with(&format!("{name} "))), "{shown}");
        assert_eq!(model["tried"], false);
        let uri = model["model"].as_str().unwrap();
        let mut command = place.command(&["models", "show", name, "--offline"]);
        command.env("HF_HUB_CACHE", place.path("hub"));
        legenda_tests::run_command(&mut command).expect(2).stderr_contains(&[uri]);
    }
    // The same in a job.
    place.write("t.csv", "text\none\n");
    place.write(
        "job.toml",
        "[task]\nkind = \"embed\"\n[source]\npaths = [\"t.csv\"]\ncolumns = { text = \"text\" }\n\
         [model]\nbundle = \"minilm\"\n[output]\npath = \"out\"\n",
    );
    let check = || {
        let mut command = place.command(&["check", "job.toml", "--offline"]);
        legenda_tests::run_command(command.env("HF_HUB_CACHE", place.path("hub")))
    };
    check().expect(2).stderr_contains(&["hf://Xenova/all-MiniLM-L6-v2"]);
    let bundle = repository().join("tests/references/bundles/minilm");
    std::os::unix::fs::symlink(bundle, place.path("minilm")).unwrap();
    let _checked = check().expect(0);
}
