//! `legenda verify`.

use std::path::Path;

use legenda_pipeline::{
    store::Folder,
    verify::{Problem, verify as find},
};
use legenda_schemas::units::counted;

use super::{ledger_failure, print, tell};
use crate::{
    cli::VerifyArgs,
    failure::{Exit, Failure},
};

/// Proves that an output holds every input row once, or prints what is wrong with it.
pub(crate) fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let folder = Folder::at(&args.output, Path::new(".")).map_err(Failure::config)?;
    let found = find(folder).map_err(ledger_failure)?;
    if let [problem @ Problem::Unfinished { .. }] = found.problems.as_slice() {
        tell(&format!("error: {problem}"));
        return Ok(Exit::Unsound);
    }
    print(&format!(
        "rows_in {} == answers {} + rejects {} in {} spans",
        found.rows_in, found.answers, found.rejects, found.n_spans
    ));
    for problem in &found.problems {
        tell(&format!("error: {problem}"));
    }
    if found.problems.is_empty() {
        print("verified: every input row stands once in answers or rejects");
        return Ok(Exit::Done);
    }
    tell(&counted(found.problems.len() as u64, "problem"));
    Ok(Exit::Unsound)
}
