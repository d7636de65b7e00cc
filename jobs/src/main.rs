//! `legenda`: runs ONNX models over tables of text, images and audio.

mod allocator;
mod cli;
mod command;
mod console;
mod direct;
mod failure;
mod fetching;
mod hint;
mod invocation;
mod leave;
mod live;
mod opening;
mod progress;
#[cfg(test)]
mod reference;
mod schedule;
mod summary;
mod traces;

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    failure::{Exit, Failure},
    leave::leave,
    traces::Traces,
};

fn main() -> ExitCode {
    allocator::configure();
    legenda_pipeline::guard::quiet_panics();
    let cli = Cli::parse();
    let traces = match cli.command.runs_offline() {
        Some(is_offline) => Traces::start(is_offline),
        None => Traces::none(),
    };
    let quiet = match cli.command {
        // The log is the only output of a service.
        Command::Schedule(_) => "warn,ort=error,legenda::schedule=info",
        _ => "warn,ort=error",
    };
    start_logs(cli.verbose, quiet, &traces);
    arm_test_crash();
    let result = tracing::info_span!("job").in_scope(|| execute(cli.command));
    traces.finish();
    let result = match console::failure() {
        Some(error) if result.is_ok() => {
            Err(Failure::resumable(error).context("failed to write to standard output"))
        }
        _ => result,
    };
    match result {
        Ok(exit) => leave(exit),
        Err(failure) => {
            failure.print();
            leave(failure.exit)
        }
    }
}

fn execute(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => command::run::run(&args),
        Command::Caption(args) => direct::run(&args.as_ref().into()),
        Command::Ask(args) => direct::run(&args.as_ref().into()),
        Command::Transcribe(args) => direct::run(&args.as_ref().into()),
        Command::Embed(args) => direct::run(&args.as_ref().into()),
        Command::Batch(args) => command::batch::batch(&args),
        Command::Check(args) => command::check::check(&args),
        Command::Inspect(args) => command::inspect::inspect(&args),
        Command::Estimate(args) => command::estimate::estimate(&args),
        Command::Retry(args) => command::retry::retry(&args),
        Command::Export(args) => command::export::export(&args),
        Command::Eval(args) => command::eval::eval(&args),
        Command::Report(args) => command::report::report(&args),
        Command::Verify(args) => command::verify::verify(&args),
        Command::Schedule(args) => command::schedule::schedule(&args),
        Command::Models(args) => command::models::models(&args),
        Command::Doctor(args) => command::doctor::doctor(&args),
        Command::Schema(args) => command::schema::schema(&args),
        Command::Completions(args) => command::manual::completions(&args),
        Command::Man(args) => command::manual::man(&args),
    }
}

/// Crashes at the n-th write step if a test sets `LEGENDA_CRASH_AT=n`.
fn arm_test_crash() {
    let n = std::env::var("LEGENDA_CRASH_AT").ok().and_then(|n| n.parse().ok());
    legenda_pipeline::crash::at_step(n.unwrap_or(0));
}

/// Sends logs to stderr and spans to `traces`. The log filter is `quiet` unless `-v` or `RUST_LOG` sets
/// another.
fn start_logs(verbose: u8, quiet: &str, traces: &Traces) {
    use tracing_subscriber::{
        EnvFilter, Layer,
        filter::{FilterExt, filter_fn},
        fmt,
        layer::SubscriberExt,
        util::SubscriberInitExt,
    };
    let level = match verbose {
        0 => quiet,
        1 => "info,ort=warn",
        2 => "debug,ort=info",
        _ => "trace",
    };
    // HTTP clients log whole URLs, which may contain secrets.
    let level = match verbose {
        0 | 1 => level.to_owned(),
        _ => format!("{level},hyper=info,hyper_util=info,h2=info,object_store=info,reqwest=info"),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // Spans are for traces; as log context they would prefix every line.
    let filter = filter.and(filter_fn(|metadata| metadata.is_event()));
    let has_colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal();
    // If stderr is closed, reporting an internal error there would panic.
    let logs = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let logs = logs.with_ansi(has_colors).with_filter(filter);
    tracing_subscriber::registry().with(logs).with(traces.layer()).init();
}
