//! `legenda models show`.

use std::path::Path;

use legenda_models::{Bundle, BundleSource, HubRepo};
use legenda_schemas::units::ByteSize;
use serde_json::{Value, json};

use super::{
    bundle::{open, tasks},
    object::print_object,
};
use crate::{
    cli::ModelArgs,
    command::{bundle_failure, open_hub, print},
    failure::{Exit, Failure},
    fetching::FetchProgress,
};

/// Shows a model's properties, tasks and graphs.
pub(crate) fn show(args: &ModelArgs) -> Result<Exit, Failure> {
    let bundle = match BundleSource::resolve(&args.bundle, Path::new("")) {
        BundleSource::Hub(name) => open_without_graphs(&name, args)?,
        _ => open(args)?,
    };
    let modalities = bundle.modalities();
    let reads: Vec<&str> =
        [("text", modalities.text), ("images", modalities.image), ("audio", modalities.audio)]
            .into_iter()
            .filter_map(|(name, can)| can.then_some(name))
            .collect();
    let tasks: Vec<&str> = tasks(&bundle).into_iter().map(|task| task.as_str()).collect();
    let graphs = graphs(&bundle)?;
    let adapters: Vec<&str> = bundle.adapters().collect();
    let rewritings = legenda_models::rewritings(&bundle);
    let mut object = vec![
        ("name", json!(bundle.name())),
        ("revision", json!(bundle.revision())),
        ("family", json!(bundle.wiring())),
        ("architecture", json!(bundle.architecture())),
        ("tasks", json!(tasks)),
        ("reads", json!(reads)),
        ("context tokens", json!(bundle.context_tokens())),
        ("dialect", json!(bundle.dialect())),
        ("rewritings", if rewritings.is_empty() { Value::Null } else { json!(rewritings) }),
        ("adapters", if adapters.is_empty() { Value::Null } else { json!(adapters) }),
        ("licence", json!(bundle.license())),
        ("published for", json!(bundle.published_dtype())),
    ];
    if args.json {
        object.push(("graphs", json!(graphs)));
        print_object(object, true);
        return Ok(Exit::Done);
    }
    // The publisher's setting is for transformers.js and has no effect here; the text says so.
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

/// Opens a Hub model without fetching its graphs.
fn open_without_graphs(name: &str, args: &ModelArgs) -> Result<Bundle, Failure> {
    let repo: HubRepo = name.parse().map_err(Failure::config)?;
    let progress = FetchProgress::default();
    let hub = open_hub(args.offline);
    let bundle = hub.look(&repo, &args.precision, &|state| progress.show(state));
    progress.end();
    bundle.map_err(|error| bundle_failure(error, "failed to open the model", name))
}

/// Describes each graph: its precisions, their sizes, and the selected one.
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
