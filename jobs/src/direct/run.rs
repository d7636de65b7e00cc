//! Runs the job of a command.

use std::path::{Path, PathBuf};

use legenda_pipeline::{
    PlanScope,
    export::{ExportOptions, LineLabel, export},
    ledger::{OutputFiles, Stale},
    store::{Folder, is_url},
};
use legenda_schemas::{job::Job, units::counted_as};

use super::{
    Request,
    destination::{Destination, kept_folder},
    input::Input,
    job::{build, folder_of, saved_output},
};
use crate::{
    command::{
        eprint,
        export::{export_failure, summary},
        plan_job, print,
        run::{Execution, Results, execute},
        write_new,
    },
    failure::{Exit, Failure},
    live::Lines,
    opening,
};

/// Runs a request, or saves its job.
pub(crate) fn run(request: &Request<'_>) -> Result<Exit, Failure> {
    let args = request.args;
    let destination = Destination::parse(args.to.as_deref())?;
    if let Some(file) = &args.save_job {
        return save(request, &destination, file);
    }
    destination.check(args.force)?;
    let input = Input::find(request)?;
    let mut job = build(request, &input, &destination, true)?;
    let (stale, results) = match &destination {
        Destination::Folder(_) => (Stale::Refuse, Results::Folder),
        Destination::File { .. } => (Stale::Redo, Results::File),
        Destination::Lines => (Stale::Redo, Results::Lines(lines(request, &input, &job))),
    };
    if !matches!(destination, Destination::Folder(_)) {
        let folder = kept_folder(&job, args.limit)?;
        job.output.path = folder.to_string_lossy().into_owned();
        if !args.overwrite {
            announce_earlier(&job.output.path)?;
        }
    }
    let output = job.output.path.clone();
    let scope = PlanScope { limit: args.limit, overwrite: args.overwrite };
    let checked = plan_job(job, PathBuf::from("."), scope, args.offline)?;
    let execution = Execution {
        offline: args.offline,
        overwrite: args.overwrite,
        stale,
        retry: None,
        results,
        args: &args.execution,
    };
    let exit = execute(checked, execution)?;
    if let (Exit::Done, Destination::File { path, format }) = (exit, &destination) {
        let options = ExportOptions {
            format: *format,
            has_rejects: false,
            columns: None,
            replaces: args.force,
        };
        let folder = Folder::at(&output, Path::new(".")).map_err(Failure::config)?;
        let exported = export(folder, path, &options).map_err(export_failure)?;
        print(&summary(&exported, path));
        for line in opening::file(*format, path) {
            print(&line);
        }
    }
    Ok(exit)
}

/// Writes the job file.
fn save(request: &Request<'_>, destination: &Destination, file: &Path) -> Result<Exit, Failure> {
    let input = Input::find(request)?;
    let (dir, is_elsewhere) = folder_of(file);
    let mut job = build(request, &input, destination, is_elsewhere)?;
    saved_output(&mut job, destination, &dir);
    write_new(file, &job.to_toml().map_err(Failure::internal)?, "--save-job")?;
    let shown = file.to_string_lossy();
    let limit = request.args.limit.map(|n| format!(" --limit {n}")).unwrap_or_default();
    eprint(&format!("job in {shown}"));
    eprint(&format!("to run it: legenda run {}{limit}", opening::shell_word(&shown)));
    Ok(Exit::Done)
}

/// Returns how rows are printed: by the path of a media file, the id of a row, or its number.
fn lines(request: &Request<'_>, input: &Input, job: &Job) -> Lines {
    let is_carried =
        |name: &String| job.output.columns.as_ref().is_none_or(|columns| columns.contains(name));
    let name = match input.is_media {
        true => Some("path".to_owned()),
        false => input.columns.id.clone(),
    };
    let label = name.filter(is_carried).map_or(LineLabel::Row, LineLabel::Column);
    // Paths are printed as they were given.
    let are_relative =
        request.paths.iter().all(|path| !is_url(path) && Path::new(path).is_relative());
    let here = || std::env::current_dir().and_then(|dir| dir.canonicalize()).ok();
    Lines { label, base: are_relative.then(here).flatten() }
}

/// Prints a note if an earlier run of the same command has answered rows.
fn announce_earlier(folder: &str) -> Result<(), Failure> {
    let at = Folder::at(folder, Path::new(".")).map_err(Failure::config)?;
    let Ok(output) = OutputFiles::find(at) else { return Ok(()) };
    let rows: u64 = output.read_entries().unwrap_or_default().iter().map(|it| it.rows_in).sum();
    if rows > 0 {
        let rows = counted_as(rows, "row is", "rows are");
        eprint(&format!(
            "resuming: {rows} answered by an earlier run of this command ({folder}); `--overwrite` \
             answers them again"
        ));
    }
    Ok(())
}
