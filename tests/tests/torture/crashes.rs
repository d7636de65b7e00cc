//! After any interrupted run, the next run completes the output. The tests crash a run after each
//! write step, kill it at random times, and fill its disk.
//!
//! A small share runs with the other tests. `LEGENDA_TORTURE=<folder>` (`just torture`) runs all
//! cases, and every test writes its row of `docs/torture.md` to that folder.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, time::Instant};

use arrow::array::RecordBatch;
use legenda_tests::{
    CommandResult, IMAGE_JOB, TEXT_JOB, Workplace, binary, image_table, png, run_command,
    text_column, texts,
    torture::{Instants, TortureRow, is_torture},
    write_table,
};

/// Counts faults and compares each resumed output with that of an undisturbed run.
struct Torture {
    place: Workplace,
    calm: Vec<Vec<Option<String>>>,
    asked: usize,
    fired: usize,
    compared: usize,
    /// The operations that the faults hit, with their counts.
    struck: BTreeMap<String, usize>,
}

impl Torture {
    /// Runs `job.toml` of `place` undisturbed.
    fn new(place: Workplace) -> Self {
        let ended = place.run(&["run", "job.toml", "--set", "output.path=calm"]).expect(0);
        assert!(ended.stderr.contains("rows"), "{}", ended.stderr);
        let calm = contents(&place, "calm");
        Self { place, calm, asked: 0, fired: 0, compared: 0, struck: BTreeMap::new() }
    }

    fn fires(&mut self, struck: &str) {
        self.fired += 1;
        *self.struck.entry(struck.to_owned()).or_default() += 1;
    }

    /// Resumes the job on a disturbed output and checks the output.
    fn finish(&mut self, output: &str) {
        let path = format!("output.path={output}");
        let told = self.place.run(&["run", "job.toml", "--set", &path]).expect(0);
        assert!(told.stdout.contains("rows_in"), "{}", told.stdout);
        let told = self.place.run(&["verify", output]).expect(0);
        assert!(told.stdout.contains("verified"), "{}", told.stdout);
        assert!(
            contents(&self.place, output) == self.calm,
            "{output} differs from the undisturbed output"
        );
        let tmp = self.place.path(&format!("{output}.legenda/tmp"));
        assert_eq!(fs::read_dir(tmp).unwrap().count(), 0, "temporary files are left");
        self.compared += 1;
        self.place.remove_output(output);
    }

    /// Asserts that faults fired, and writes a row of the table. `finish` fails the test at the
    /// first lost, duplicated or different row, so those counts are 0.
    fn report(&self, name: &str) {
        assert!(self.fired > 0 && self.fired * 10 >= self.asked * 9, "the faults did not fire");
        let row = TortureRow {
            fault: name,
            asked: self.asked,
            fired: self.fired,
            compared: self.compared,
            struck: &self.struck,
        };
        row.leave();
    }
}

/// Returns answers and rejects, column by column, in the order of part names.
fn contents(place: &Workplace, output: &str) -> Vec<Vec<Option<String>>> {
    let columns = |rows: &RecordBatch, names: &[&str]| -> Vec<Vec<Option<String>>> {
        names.iter().map(|name| text_column(rows, name)).collect()
    };
    let mut all = columns(&place.answers(output), &["id", "answer", "legenda_input_sha256"]);
    let rejects = place.path(&format!("{output}.legenda/rejects"));
    if fs::read_dir(rejects).unwrap().count() > 0 {
        all.extend(columns(&place.rejects(output), &["id", "legenda_code", "legenda_message"]));
    }
    all
}

/// Creates a job over `n_rows` images in spans of four; every third image is broken.
fn image_workplace(n_rows: u8) -> Workplace {
    let place = Workplace::new();
    let cell = |row: u8| Some(if row % 3 == 2 { b"junk".to_vec() } else { png(row) });
    let cells: Vec<_> = (0..n_rows).map(cell).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 8);
    place.write("job.toml", IMAGE_JOB);
    place
}

#[test]
fn a_crash_after_any_write_step_loses_nothing() {
    // A span takes about 15 steps; the share is every fourth step of one span.
    let (n_rows, stride) = if is_torture() { (10, 1) } else { (4, 4) };
    let mut torture = Torture::new(image_workplace(n_rows));
    for step in (1_usize..).step_by(stride) {
        let mut command = torture.place.command(&["run", "job.toml"]);
        let crashed = run_command(command.env("LEGENDA_CRASH_AT", step.to_string()));
        match crashed.code {
            None => {
                torture.asked += 1;
                torture.fires("a step");
            }
            // The run has no such step: all steps are covered.
            Some(_) => {
                torture.finish("out");
                break;
            }
        }
        torture.finish("out");
    }
    assert!(torture.fired * stride > 20, "only {} steps", torture.fired * stride);
    torture.report("crash after a step");
}

#[test]
fn kills_at_random_times_lose_nothing() {
    let place = Workplace::new();
    let questions: Vec<String> = (0..200).map(|n| format!("What is {n} plus one?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 50);
    place.write("job.toml", TEXT_JOB);
    let kills = if is_torture() { 200 } else { 4 };
    let mut torture = Torture::new(place);
    let start = Instant::now();
    torture.finish("out");
    let whole = start.elapsed();
    let mut instants = Instants::within(whole);
    while torture.fired < kills {
        for _ in 0..4 {
            let instant = instants.draw();
            torture.asked += 1;
            let mut child = torture.place.start(&["run", "job.toml"]);
            std::thread::sleep(instant);
            let over = child.try_wait().unwrap().is_some();
            child.kill().unwrap();
            child.wait().unwrap();
            // The output may already be complete; then the job has less to do and is not killed.
            if over {
                torture.asked -= 1;
                break;
            }
            let ledger = torture.place.path("out.legenda/ledger");
            let begun = fs::read_dir(ledger).map_or(0, Iterator::count);
            torture.fires(if begun == 0 { "before the first commit" } else { "between commits" });
        }
        torture.finish("out");
    }
    torture.report("kill -9 at a random instant");
}

/// Returns the kind of file that a run failed to write.
fn unwritten(ended: &CommandResult) -> &'static str {
    let line =
        ended.stderr.lines().find(|line| line.contains("failed to write")).unwrap_or_default();
    for (piece, kind) in [
        (".legenda/ledger/", "ledger entry"),
        ("/rejects-", "rejects"),
        ("/part-", "part"),
        ("/plan.json", "plan"),
        ("/report.json", "report"),
    ] {
        if line.contains(piece) {
            return kind;
        }
    }
    "another file"
}

#[cfg(unix)]
#[test]
fn a_file_size_limit_ends_the_run_resumable() {
    let mut torture = Torture::new(image_workplace(12));
    // Blocks of 512 bytes (POSIX).
    for blocks in 0..64 {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -f {blocks} && exec \"$0\" \"$@\"")]).arg(binary());
        command.args(["run", "job.toml"]).current_dir(torture.place.path(""));
        let limited = run_command(&mut command);
        if limited.code == Some(0) {
            break;
        }
        let limited = limited.expect(4);
        limited.stderr_contains(&["failed to write"]);
        torture.asked += 1;
        torture.fires(unwritten(&limited));
        torture.finish("out");
    }
    for kind in ["plan", "part"] {
        assert!(torture.struck.contains_key(kind), "{:?}", torture.struck);
    }
    torture.report("limit on file sizes");
}

/// An in-memory file system of fixed size, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, kib: usize) -> Self {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={kib}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .status();
        assert!(mounted.unwrap().success(), "`just torture` mounts disks: run it as root");
        Self(path)
    }

    fn enlarge(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=16m"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_ends_the_run_resumable() {
    if !is_torture() {
        // Mounting requires root; the small share uses the file size limit instead.
        return;
    }
    let mut torture = Torture::new(image_workplace(24));
    for kib in (4..).step_by(4) {
        let disk = SmallDisk::mount(torture.place.path("disk"), kib);
        let full = torture.place.run(&["run", "job.toml", "--set", "output.path=disk/out"]);
        if full.code == Some(0) {
            break;
        }
        let full = full.expect(4);
        torture.asked += 1;
        torture.fires(unwritten(&full));
        disk.enlarge();
        torture.finish("disk/out");
    }
    for kind in ["part", "rejects", "ledger entry"] {
        assert!(torture.struck.contains_key(kind), "{:?}", torture.struck);
    }
    torture.report("full disk");
}
