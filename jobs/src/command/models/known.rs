//! `legenda models known`.

use legenda_models::{KNOWN_MODELS, KnownModel};
use serde_json::{Value, json};

use crate::{
    cli::ModelsKnownArgs,
    command::print,
    failure::{Exit, Failure},
};

/// What is true of every entry.
const UNTRIED: &str = "The Hub models were not run when this version was tested, only small models with the \
                       same architectures. `main` is the newest version; add `@revision` to pin one: \
                       hf://owner/name@revision";

/// Lists the short names of Hub models.
pub(crate) fn known(args: &ModelsKnownArgs) -> Result<Exit, Failure> {
    if args.json {
        let models: Vec<Value> = KNOWN_MODELS.iter().map(describe).collect();
        print(&Value::Array(models).to_string());
        return Ok(Exit::Done);
    }
    table().iter().for_each(|line| print(line));
    print(&format!("\n{UNTRIED}"));
    Ok(Exit::Done)
}

/// Returns the table of short names as aligned lines.
pub(super) fn table() -> Vec<String> {
    let header = ["name", "parameters", "licence", "model", "good at"].map(str::to_owned);
    let row = |known: &KnownModel| {
        [known.name, known.parameters, known.licence, known.repo, known.good_at].map(str::to_owned)
    };
    let rows: Vec<[String; 5]> =
        std::iter::once(header).chain(KNOWN_MODELS.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let [a, b, c, d] = [0, 1, 2, 3].map(width);
    let line = |[name, size, licence, repo, good_at]: &[String; 5]| {
        format!("{name:<a$}  {size:>b$}  {licence:<c$}  {repo:<d$}  {good_at}")
    };
    rows.iter().map(line).collect()
}

fn describe(known: &KnownModel) -> Value {
    let tasks: Vec<&str> = known.tasks.iter().map(|task| task.as_str()).collect();
    json!({
        "name": known.name,
        "model": known.uri(),
        "revision": known.revision,
        "parameters": known.parameters,
        "licence": known.licence,
        "tasks": tasks,
        "good_at": known.good_at,
        "tried": false,
    })
}
