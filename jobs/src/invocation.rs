//! The command of this process, as it may be stored and shown.

/// Options of `legenda schedule` for its runs, which a person does not type, with the number of their values.
const INTERNAL: [(&str, usize); 4] =
    [("--progress", 1), ("--until-eof", 0), ("--grace", 1), ("--report-to", 1)];

/// Returns the command of this process without its secrets.
pub(crate) fn shown_command() -> String {
    shown(std::env::args().skip(1))
}

fn shown(words: impl Iterator<Item = String>) -> String {
    let mut shown = vec!["legenda".to_owned()];
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if let Some((_, n_values)) = INTERNAL.iter().find(|(option, _)| *option == word) {
            words.by_ref().take(*n_values).for_each(drop);
            continue;
        }
        shown.push(quoted(&without_secrets(word)));
    }
    shown.join(" ")
}

/// Replaces a value that may be a secret: the address of a hook, or a URL with a user or a query.
fn without_secrets(word: String) -> String {
    let is_secret = word.contains("://") && !word.contains("hf://") && word.contains(['@', '?']);
    match word.split_once('=') {
        Some((key, _)) if is_secret || key.starts_with("hooks") => format!("{key}=…"),
        _ if is_secret => "…".to_owned(),
        _ => word,
    }
}

/// Quotes a word for a shell if it needs quotes.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:@+=,…".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn commands_are_quoted_and_hide_secrets() {
        for (words, command) in [
            (vec!["run", "job.toml", "--limit", "4"], "legenda run job.toml --limit 4"),
            (
                vec!["run", "my job.toml", "--set", "task.prompt=it's"],
                r"legenda run 'my job.toml' --set 'task.prompt=it'\''s'",
            ),
            (
                vec!["run", "a.toml", "--progress", "json", "--until-eof", "--grace", "30"],
                "legenda run a.toml",
            ),
            (
                vec!["run", "a.toml", "--set", "source.paths=https://host/t?sig=secret"],
                "legenda run a.toml --set source.paths=…",
            ),
            (
                vec!["run", "a.toml", "--set", "hooks.on_success=[{url=\"https://h/secret\"}]"],
                "legenda run a.toml --set hooks.on_success=…",
            ),
            (
                vec!["run", "a.toml", "--set", "model.bundle=hf://owner/name@main"],
                "legenda run a.toml --set model.bundle=hf://owner/name@main",
            ),
        ] {
            assert_eq!(shown(words.into_iter().map(str::to_owned)), command);
        }
    }
}
