//! `legenda models show`.

use legenda_models::{Bundle, BundleSource, HubRepo};
use legenda_schemas::units::ByteSize;
use serde_json::{Value, json};

use super::{open, open_hub, print_object, tasks};
use crate::{
    cli::ModelArgs,
    command::{bundle_failure, print},
    failure::{Exit, Failure},
    fetching::Fetching,
};

/// Shows what a model is, which graphs it has, and what it can do.
pub(crate) fn show(args: &ModelArgs) -> Result<Exit, Failure> {
    let bundle = match BundleSource::parse(&args.bundle) {
        BundleSource::Hub(name) => look(&name, args)?,
        _ => open(args)?,
    };
    let modalities = bundle.modalities();
    let reads: Vec<&str> =
        [("text", modalities.text), ("images", modalities.image), ("sounds", modalities.audio)]
            .into_iter()
            .filter_map(|(name, can)| can.then_some(name))
            .collect();
    let tasks: Vec<&str> = tasks(&bundle).into_iter().map(|task| task.as_str()).collect();
    let graphs = graphs(&bundle)?;
    let adapters: Vec<&str> = bundle.adapters().collect();
    let mut object = vec![
        ("name", json!(bundle.name())),
        ("revision", json!(bundle.revision())),
        ("family", json!(bundle.wiring())),
        ("architecture", json!(bundle.architecture())),
        ("tasks", json!(tasks)),
        ("reads", json!(reads)),
        ("context tokens", json!(bundle.context_tokens())),
        ("dialect", json!(bundle.dialect())),
        ("adapters", if adapters.is_empty() { Value::Null } else { json!(adapters) }),
        ("licence", json!(bundle.license())),
        ("published for", json!(bundle.published_dtype())),
    ];
    if args.json {
        object.push(("graphs", json!(graphs)));
        print_object(object, true);
        return Ok(Exit::Done);
    }
    // What the publisher sets for transformers.js is no setting here; it is told as such.
    for (name, value) in &mut object {
        if let ("published for", Value::String(text)) = (*name, value) {
            *text = format!("transformers.js in {text}");
        }
    }
    print_object(object, false);
    for graph in graphs {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let precisions = graph["precisions"].as_array().into_iter().flatten().map(|precision| {
            let mark = if precision["taken"] == json!(true) { "*" } else { "" };
            let size =
                precision["bytes"].as_u64().map_or("?".to_owned(), |n| ByteSize(n).to_string());
            format!("{}{mark} {size}", text(&precision["precision"]))
        });
        let precisions = precisions.collect::<Vec<_>>().join(", ");
        print(&format!("{:<14} {}: {precisions}", "graph", text(&graph["name"])));
    }
    Ok(Exit::Done)
}

/// Looks at a model of the Hub without its graphs.
fn look(name: &str, args: &ModelArgs) -> Result<Bundle, Failure> {
    let repo: HubRepo = name.parse().map_err(Failure::config)?;
    let fetching = Fetching::default();
    let hub = open_hub(args.offline);
    let looked = hub.look(&repo, &args.precision, &|state| fetching.show(state));
    fetching.end();
    looked.map_err(|error| bundle_failure(error, "the model cannot be shown", name))
}

/// Describes each graph: its precisions, their sizes, and which is taken.
fn graphs(bundle: &Bundle) -> Result<Vec<Value>, Failure> {
    let graphs = bundle.graphs().map_err(Failure::config)?;
    let describe = |graph: &legenda_models::GraphFile| {
        let precisions = bundle.precisions(graph.name).map_err(Failure::config)?;
        let precisions: Vec<Value> = precisions
            .into_iter()
            .map(|(precision, file)| {
                json!({
                    "precision": precision.as_str(),
                    "bytes": bundle.graph_size(&file),
                    "taken": precision == graph.precision,
                    "file": file,
                })
            })
            .collect();
        Ok(json!({ "name": graph.name, "precisions": precisions }))
    };
    graphs.iter().map(describe).collect()
}
