//! `legenda report`.

use std::path::Path;

use anyhow::Context;
use legenda_pipeline::{
    ledger::OutputFiles,
    report::{StoredReport, page, read_gallery},
    store::Folder,
};

use super::{ledger_failure, print};
use crate::{
    cli::ReportArgs,
    failure::{Exit, Failure},
};

/// Renders the report of an output's last run, compared with another output if one is given.
pub(crate) fn report(args: &ReportArgs) -> Result<Exit, Failure> {
    let (output, report) = read(&args.output)?;
    let gallery = read_gallery(&output).map_err(ledger_failure)?;
    let other = args.compare.as_deref().map(read).transpose()?.map(|(_, report)| report);
    let name = args.compare.clone().unwrap_or_default();
    let html = page(&report, &gallery, other.as_ref(), &format!("`{name}`"));
    let html = html.map_err(Failure::internal)?;
    write(&args.to, html.as_bytes())
        .with_context(|| format!("failed to write `{}`", args.to.display()))
        .map_err(Failure::resumable)?;
    print(&format!("report in {}", args.to.display()));
    Ok(Exit::Done)
}

fn read(location: &str) -> Result<(OutputFiles, StoredReport), Failure> {
    let folder = Folder::at(location, Path::new(".")).map_err(Failure::config)?;
    let output = OutputFiles::find(folder).map_err(ledger_failure)?;
    let report = StoredReport::read(&output).map_err(ledger_failure)?;
    let report = report
        .with_context(|| format!("`{location}` has no report that this version can read"))
        .map_err(Failure::config)?;
    Ok((output, report))
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::io::Write::write_all(&mut std::fs::File::create(path)?, bytes)
}
