//! `legenda export`.

use std::path::Path;

use anyhow::anyhow;
use legenda_pipeline::{
    export::{ExportError, ExportOptions, Exported, export as export_output},
    store::{Folder, is_url},
};
use legenda_schemas::{job::Format, units::counted};

use super::{eprint, ledger_failure, print};
use crate::{
    cli::ExportArgs,
    failure::{Exit, Failure},
    opening,
};

/// Writes an output as one file.
pub(crate) fn export(args: &ExportArgs) -> Result<Exit, Failure> {
    let folder = Folder::at(&args.output, Path::new(".")).map_err(Failure::config)?;
    let options = ExportOptions {
        format: format_of(&args.to)?,
        has_rejects: args.rejects,
        columns: (!args.columns.is_empty()).then(|| args.columns.clone()),
        replaces: args.force,
    };
    let exported = export_output(folder, &args.to, &options).map_err(export_failure)?;
    print(&summary(&exported, &args.to));
    for line in opening::file(options.format, &args.to) {
        print(&line);
    }
    if exported.rows_missing > 0 {
        let rows = counted(exported.rows_missing, "row");
        eprint(&format!("warning: the output is incomplete: {rows} are not committed yet"));
    }
    Ok(Exit::Done)
}

/// Describes an exported file.
pub(crate) fn summary(exported: &Exported, path: &Path) -> String {
    let rejects = match exported.rejects {
        0 => String::new(),
        n => format!(" ({})", counted(n, "reject")),
    };
    format!("{}{rejects} in {}", counted(exported.rows, "row"), path.display())
}

/// Returns the format of a file to write, from its extension.
pub(crate) fn format_of(path: &Path) -> Result<Format, Failure> {
    if is_url(&path.to_string_lossy()) {
        let error = anyhow!("`{}` is a URL: only local files can be written", path.display());
        return Err(Failure::config(error));
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    Format::from_extension(extension).ok_or_else(|| {
        let error = anyhow!(
            "invalid file `{}`: expected the extension .csv, .parquet, .arrow or .jsonl",
            path.display()
        );
        Failure::config(error)
    })
}

/// Converts an error of an export.
pub(crate) fn export_failure(error: ExportError) -> Failure {
    match error {
        ExportError::Ledger(error) => ledger_failure(error),
        error if error.is_config() => Failure::config(error),
        error => Failure::resumable(error),
    }
}
