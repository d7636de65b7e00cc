//! `legenda verify`.

use std::path::Path;

use legenda_pipeline::{
    store::Folder,
    verify::{Problem, verify as verify_output},
};
use legenda_schemas::{cause::chain, units::counted};

use super::{eprint, ledger_failure, print};
use crate::{
    cli::VerifyArgs,
    failure::{Exit, Failure},
};

/// Verifies that an output accounts for every input row exactly once; prints the problems.
pub(crate) fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let folder = Folder::at(&args.output, Path::new(".")).map_err(Failure::config)?;
    let found = verify_output(folder).map_err(ledger_failure)?;
    if let [problem @ Problem::Unfinished { .. }] = found.problems.as_slice() {
        eprint(&format!("error: {problem}"));
        return Ok(Exit::VerifyFailed);
    }
    print(&format!(
        "rows_in {} == answers {} + rejects {} in {} spans",
        found.rows_in, found.answers, found.rejects, found.n_spans
    ));
    for problem in &found.problems {
        eprint(&format!("error: {}", chain(problem)));
    }
    if found.problems.is_empty() {
        print("verified: every input row is in the answers or rejects exactly once");
        return Ok(Exit::Done);
    }
    eprint(&counted(found.problems.len() as u64, "problem"));
    Ok(Exit::VerifyFailed)
}
