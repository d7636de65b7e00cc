//! The failures of an output.

use legenda_pipeline::{
    ledger::LedgerError,
    store::{StoreFault, fault_of},
};

use crate::failure::Failure;

/// Converts an error of an output: transient errors are resumable, the others are configuration errors.
pub(crate) fn ledger_failure(error: LedgerError) -> Failure {
    if is_config(&error) { Failure::config(error) } else { Failure::resumable(error) }
}

/// Returns whether an output error needs a change of the configuration.
pub(crate) fn is_config(error: &LedgerError) -> bool {
    match error {
        LedgerError::Write(_) | LedgerError::Store(_) => {
            fault_of(error).is_some_and(StoreFault::is_configuration)
        }
        _ => true,
    }
}
