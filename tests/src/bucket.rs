//! An in-memory S3 bucket in this process. It serves the calls that Legenda makes, including
//! conditional ones, and injects faults into a share of them.

mod requests;

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use arrow::{array::RecordBatch, compute::concat_batches};

use self::requests::{answer, object};
use crate::{
    CommandResult, Workplace, image_table, numbered_png, read_rows, run_command, text_column,
    torture::Draws, write_table,
};

/// The name of the bucket.
pub const BUCKET: &str = "bucket";

/// A second name of the bucket, readable by anyone over HTTP. `redirect/http:host/x` redirects to
/// `http://host/x`.
pub const PUBLIC: &str = "public";

/// A bucket in region [`FAR_REGION`].
pub const FAR: &str = "far";
/// The region of [`FAR`].
pub const FAR_REGION: &str = "eu-south-2";
/// A bucket that denies every request.
pub const CLOSED: &str = "closed";
/// Keys of [`PUBLIC`] under this prefix require the query [`SIGNATURE`] and reject `HEAD`.
pub const SIGNED: &str = "signed/";
/// The query string of a signed URL.
pub const SIGNATURE: &str = "sig=a%2Fb/c=d";

/// The secret key that clients sign with.
pub const SECRET: &str = "ThisIsTheSecretKey";

/// The number of keys per listing page.
const PAGE_KEYS: usize = 5;

/// A fault injected into a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The bucket responds with `SlowDown` and does nothing.
    SlowDown,
    /// Nothing is done and no response is sent.
    Dropped,
    /// The call is done, but no response is sent.
    AnswerLost,
    /// The call is done twice; the second response is sent.
    Twice,
    /// The response is delayed.
    Late,
    /// The response is cut off.
    Cut,
}

/// All faults.
pub const FAULTS: [Fault; 6] =
    [Fault::SlowDown, Fault::Dropped, Fault::AnswerLost, Fault::Twice, Fault::Late, Fault::Cut];

struct Object {
    content: Vec<u8>,
    etag: String,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    /// The number of calls per thousand that fail.
    faulty_permille: u64,
    /// Counts down to the one call that fails, with its fault.
    faulty_call: Option<(usize, Fault)>,
    draws: Draws,
    calls: usize,
    faults: BTreeMap<Fault, usize>,
    sent_bytes: u64,
    ignores_conditions: bool,
}

/// A bucket server. It lives as long as the process.
pub struct BucketServer {
    state: Arc<Mutex<State>>,
    endpoint: String,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for BucketServer {
    fn default() -> Self {
        Self::start()
    }
}

impl BucketServer {
    /// Starts a server with an empty bucket.
    #[must_use]
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State { draws: Draws(1), ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                thread::spawn(move || answer(&stream, &state));
            }
        });
        Self { state, endpoint }
    }

    /// Returns the endpoint URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Stores an object.
    pub fn put(&self, key: &str, content: &[u8]) {
        lock(&self.state).objects.insert(key.to_owned(), object(content.to_vec()));
    }

    /// Returns the objects whose keys start with `prefix`.
    #[must_use]
    pub fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let state = lock(&self.state);
        let found = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        found.map(|(key, object)| (key.clone(), object.content.clone())).collect()
    }

    /// Removes the objects whose keys start with `prefix`.
    pub fn clear(&self, prefix: &str) {
        lock(&self.state).objects.retain(|key, _| !key.starts_with(prefix));
    }

    /// Injects faults into `permille` per thousand calls, chosen by `seed`; clears other faults.
    pub fn fail(&self, permille: u64, seed: u64) {
        let mut state = lock(&self.state);
        (state.faulty_permille, state.draws) = (permille, Draws(seed));
        state.faulty_call = None;
    }

    /// Injects a fault into the `n`-th call from now, counted from 0.
    pub fn fail_at(&self, n: usize, fault: Fault) {
        lock(&self.state).faulty_call = Some((n, fault));
    }

    /// Ignores the conditions of writes and overwrites existing objects, as some stores do.
    pub fn ignore_conditions(&self) {
        lock(&self.state).ignores_conditions = true;
    }

    /// Returns the number of calls since the last call of this method, and the number of each
    /// fault.
    #[must_use]
    pub fn calls(&self) -> (usize, BTreeMap<Fault, usize>) {
        let mut state = lock(&self.state);
        (std::mem::take(&mut state.calls), std::mem::take(&mut state.faults))
    }

    /// Returns the object bytes sent since the last call of this method.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        std::mem::take(&mut lock(&self.state).sent_bytes)
    }

    /// Returns the answers and rejects of an output in the bucket, column by column, in the order
    /// of part names.
    #[must_use]
    pub fn contents(&self, output: &str) -> Vec<Vec<Option<String>>> {
        let rows = |prefix: &str| -> RecordBatch {
            let parts = self.objects(&format!("{output}{prefix}"));
            let batches: Vec<RecordBatch> = parts.into_values().flat_map(read_rows).collect();
            concat_batches(&batches[0].schema(), &batches).unwrap()
        };
        let of = |rows: &RecordBatch, names: &[&str]| -> Vec<Vec<Option<String>>> {
            names.iter().map(|name| text_column(rows, name)).collect()
        };
        let answers = of(&rows("/part-"), &["id", "answer", "legenda_input_sha256"]);
        let rejects =
            of(&rows(".legenda/rejects/rejects-"), &["id", "legenda_code", "legenda_message"]);
        [answers, rejects].concat()
    }

    /// Runs a command against this bucket and waits for it to exit.
    #[must_use]
    pub fn run(&self, place: &Workplace, args: &[&str]) -> CommandResult {
        run_command(&mut self.command(place, args))
    }

    /// Returns a command configured for this bucket, with leases of half a second.
    #[must_use]
    pub fn command(&self, place: &Workplace, args: &[&str]) -> Command {
        let mut command = place.command(args);
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
            .env("AWS_ENDPOINT", &self.endpoint)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("LEGENDA_LEASE_SECONDS", "0.5");
        command
    }
}

/// A job that reads tables from a bucket, captions their images, and writes the output there.
pub const JOB: &str = r#"
version = 1
[task]
kind = "caption"
[source]
paths = ["s3://bucket/tables/*.parquet"]
columns = { id = "id", image = "image" }
[output]
path = "s3://bucket/out"
span_rows = 4
"#;

/// Creates a workplace with [`JOB`] as `job.toml`, and a bucket with a table of `n_rows` images in
/// row groups of eight; every fifth image is broken. The workplace also has the table as
/// `table.parquet`.
#[must_use]
pub fn bucket_with_images(n_rows: u16) -> (Workplace, BucketServer) {
    let (place, bucket) = (Workplace::new(), BucketServer::start());
    let cell = |row: u16| Some(if row % 5 == 2 { b"junk".to_vec() } else { numbered_png(row) });
    let cells: Vec<_> = (0..n_rows).map(cell).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 8);
    bucket.put("tables/t.parquet", &fs::read(place.path("table.parquet")).unwrap());
    bucket.put("tables/_hidden/t.parquet", b"not read");
    place.write("job.toml", JOB);
    (place, bucket)
}
