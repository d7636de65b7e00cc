//! `legenda doctor`.

use legenda_models::{Bundle, BundleSource, Gpus, HubOptions, Runtime, RuntimeOptions};
use legenda_schemas::{cause::chain, job::Device, units::ByteSize};
use serde_json::{Value, json};

use super::{open_runtime, print};
use crate::{
    cli::DoctorArgs,
    failure::{Exit, Failure},
};

/// Prints the environment of this machine.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    let cache_dir = RuntimeOptions::from_env().cache_dir;
    let mut findings = vec![
        ("legenda", Value::from(env!("CARGO_PKG_VERSION"))),
        ("system", Value::from(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("cores", json!(std::thread::available_parallelism().map_or(1, usize::from))),
        ("memory", Value::from(memory())),
        (
            "cache",
            cache_dir.map_or(Value::from("none"), |dir| Value::from(dir.display().to_string())),
        ),
    ];
    let hub = HubOptions::from_env();
    if let Some(dir) = hub.cache_dir {
        findings.push(("hub cache", Value::from(dir.display().to_string())));
    }
    findings.push(("hub", Value::from(hub.endpoint)));
    findings.push(("hub token", Value::from(if hub.token.is_some() { "set" } else { "none" })));
    let embedded = Bundle::open(&BundleSource::Embedded).map_err(Failure::internal)?;
    findings.push((
        "embedded model",
        Value::from(format!("{} (revision {})", embedded.name(), &embedded.revision()[..12])),
    ));
    let runtime = open_runtime(args.offline, None);
    if let Ok(runtime) = &runtime {
        findings.extend(runtime_findings(runtime));
    }
    if args.json {
        let object: serde_json::Map<String, Value> =
            findings.into_iter().map(|(name, value)| (name.replace(' ', "_"), value)).collect();
        print(&Value::Object(object).to_string());
    } else {
        for (name, value) in findings {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            print(&format!("{name:<16} {value}"));
        }
    }
    runtime.map(|_| Exit::Done)
}

fn runtime_findings(runtime: &Runtime) -> Vec<(&'static str, Value)> {
    let mut findings = vec![
        ("onnxruntime", Value::from(runtime.version())),
        ("library", Value::from(runtime.path().display().to_string())),
        ("found by", Value::from(runtime.found_by().to_string())),
        ("providers", Value::from(runtime.providers().join(", "))),
    ];
    let gpus = Gpus::find(true);
    let names = if gpus.is_empty() { "none".to_owned() } else { gpus.names.join(", ") };
    findings.push(("gpu", Value::from(names)));
    match runtime.choose_device(Device::Auto) {
        Ok(choice) => {
            findings.push(("device", Value::from(choice.kind.to_string())));
            if let Some(note) = choice.note {
                findings.push(("device note", Value::from(note)));
            }
        }
        Err(error) => findings.push(("device", Value::from(format!("none: {}", chain(&error))))),
    }
    findings
}

/// Describes the memory of the machine, or of the cgroup if that is less.
fn memory() -> String {
    let Ok(mut system) = sysinfo::System::new() else { return "unknown".to_owned() };
    system.refresh_memory();
    let total = system.total_memory();
    let total = system.cgroup_limits().map_or(total, |limits| limits.total_memory.min(total));
    format!("{} ({} available)", ByteSize(total), ByteSize(system.available_memory()))
}
