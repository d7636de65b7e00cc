//! A Hub server in this process: serves the files of a directory through the Hugging Face Hub's
//! API.
//!
//! Large files redirect to a second host, as on the real Hub. The server records all requests, and
//! [`Fault`] injects network faults.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Workplace;

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The token that the Hub requires after [`HubServer::require_token`].
pub const TOKEN: &str = "hf_ThisIsSecret";

/// Files of at least this size are served by the second host.
const LARGE_BYTES: usize = 50_000;

/// A fault injected into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first `times` responses are cut off.
    Cut {
        /// The number of responses to cut off.
        times: usize,
        /// The number of bytes sent first.
        after_bytes: usize,
    },
    /// The response stalls for a minute.
    Hang {
        /// The number of bytes sent first.
        after_bytes: usize,
    },
    /// One byte is changed.
    Damage,
    /// Range requests are ignored: the response is the whole file.
    NoRanges,
}

/// A request as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRequest {
    /// The path and query.
    pub path: String,
    /// The first byte of the requested range.
    pub range_start: Option<usize>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// Whether the second host received it.
    pub at_second_host: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    requests: Vec<HubRequest>,
    faults: BTreeMap<String, Fault>,
    requires_token: bool,
}

/// A Hub with one model, `owner/model`, and one dataset, `owner/data`, which share their files. It
/// lives as long as the process.
pub struct HubServer {
    state: Arc<Mutex<State>>,
    endpoint: String,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HubServer {
    /// Starts a Hub that serves the files of a directory.
    #[must_use]
    pub fn start(directory: &Path) -> Self {
        let mut files = BTreeMap::new();
        read_folder(directory, directory, &mut files);
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |listener: &TcpListener| {
            format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port())
        };
        let (endpoint, cdn) = (address(&first), address(&second));
        for (listener, at_second_host) in [(first, false), (second, true)] {
            let (state, cdn) = (Arc::clone(&state), cdn.clone());
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let (state, cdn) = (Arc::clone(&state), cdn.clone());
                    thread::spawn(move || answer(&stream, &state, &cdn, at_second_host));
                }
            });
        }
        Self { state, endpoint }
    }

    /// Returns the endpoint URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Adds a file to the repository.
    pub fn put(&self, name: &str, content: &[u8]) {
        lock(&self.state).files.insert(name.to_owned(), content.to_vec());
    }

    /// Injects a fault into a file.
    pub fn fault(&self, name: &str, fault: Fault) {
        lock(&self.state).faults.insert(name.to_owned(), fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// Requires the token to access the model.
    pub fn require_token(&self) {
        lock(&self.state).requires_token = true;
    }

    /// Returns the requests since the last call of this method.
    #[must_use]
    pub fn requests(&self) -> Vec<HubRequest> {
        std::mem::take(&mut lock(&self.state).requests)
    }

    /// Returns the names of the files requested since the last call, without duplicates.
    #[must_use]
    pub fn requested_files(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .requests()
            .into_iter()
            .filter_map(|asked| {
                let path = asked.path.split('?').next()?;
                Some(path.split_once("/resolve/")?.1.split_once('/')?.1.to_owned())
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns a command that uses this Hub only, with its cache in the workplace.
    #[must_use]
    pub fn command(&self, place: &Workplace, args: &[&str]) -> std::process::Command {
        let mut command = place.command(args);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        for name in ["HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", place.path("hf"));
        command
    }
}

fn read_folder(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            read_folder(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listing(state: &State) -> Value {
    let sibling = |(name, content): (&String, &Vec<u8>)| {
        let digest = sha256(content);
        let mut sibling =
            json!({"rfilename": name, "size": content.len(), "blobId": &digest[..40]});
        if content.len() >= LARGE_BYTES {
            sibling["lfs"] = json!({"sha256": digest, "size": content.len(), "pointerSize": 130});
        }
        sibling
    };
    json!({"id": "owner/model", "sha": COMMIT, "siblings": state.files.iter().map(sibling).collect::<Vec<_>>()})
}

/// Handles one request and closes the connection.
fn answer(mut stream: &TcpStream, state: &Mutex<State>, cdn: &str, at_second_host: bool) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let is_head = first.starts_with("HEAD ");
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    let range =
        headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range_start = range.and_then(|(start, _)| start.parse::<usize>().ok());
    let range_end = range.and_then(|(_, end)| end.parse::<usize>().ok()).map(|last| last + 1);
    let authorization = headers.get("authorization").cloned();
    let is_known = authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
    let mut guard = lock(state);
    guard.requests.push(HubRequest {
        path: path.clone(),
        range_start,
        authorization,
        at_second_host,
    });
    let mut reply = |head: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
    };
    if !at_second_host && guard.requires_token && !is_known {
        return reply("401 Unauthorized", b"who are you?");
    }
    let revision = |rest: &str| rest == "main" || rest == COMMIT;
    let bare = path.split('?').next().unwrap_or_default();
    let of_kind = |model: &str, dataset: &str| {
        bare.strip_prefix(model).or_else(|| bare.strip_prefix(dataset))
    };
    if let Some(rest) =
        of_kind("/api/models/owner/model/revision/", "/api/datasets/owner/data/revision/")
    {
        if !revision(rest) {
            return reply("404 Not Found", b"no such revision");
        }
        return reply("200 OK", listing(&guard).to_string().as_bytes());
    }
    let file = of_kind("/owner/model/resolve/", "/datasets/owner/data/resolve/");
    let file = file.and_then(|rest| rest.split_once('/'));
    let Some((name, content)) = file
        .filter(|(rest, _)| revision(rest))
        .and_then(|(_, name)| Some((name.to_owned(), guard.files.get(name)?.clone())))
    else {
        return reply("404 Not Found", b"no such file");
    };
    let etag = sha256(&content);
    if content.len() >= LARGE_BYTES && !at_second_host {
        let head = format!(
            "302 Found\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{etag}\"\r\n\
             X-Linked-Size: {}\r\nLocation: {cdn}{path}?signature=hidden",
            content.len()
        );
        return reply(&head, b"");
    }
    let fault = guard.faults.get(&name).copied();
    if let Some(Fault::Cut { times, after_bytes }) = fault {
        let left = times.checked_sub(1).map(|times| Fault::Cut { times, after_bytes });
        match left {
            Some(left) => guard.faults.insert(name, left),
            None => guard.faults.remove(&name),
        };
    }
    drop(guard);
    let quoted = format!("\"{etag}\"");
    if headers.get("if-match").is_some_and(|wanted| *wanted != quoted) {
        return reply("412 Precondition Failed", b"");
    }
    let range = range_start.map(|start| start..range_end.unwrap_or(content.len()).max(start));
    send(stream, &content, &etag, (range, is_head), fault);
}

fn send(
    mut stream: &TcpStream,
    content: &[u8],
    etag: &str,
    (range, is_head): (Option<Range<usize>>, bool),
    fault: Option<Fault>,
) {
    let mut content = content.to_vec();
    if fault == Some(Fault::Damage) {
        content[100] ^= 1;
    }
    let range = range.filter(|_| fault != Some(Fault::NoRanges));
    let wanted = range.clone().unwrap_or(0..content.len());
    let end = wanted.end.min(content.len());
    let body = &content[wanted.start.min(end)..end];
    let status = match range {
        Some(range) if range.start >= content.len() => "416 Range Not Satisfiable".to_owned(),
        Some(Range { start, .. }) => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{}",
            end - 1,
            content.len()
        ),
        None => "200 OK".to_owned(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = match fault {
        _ if is_head => &[],
        Some(Fault::Cut { times: 1.., after_bytes } | Fault::Hang { after_bytes }) => {
            &body[..after_bytes.min(body.len())]
        }
        _ => body,
    };
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
    if matches!(fault, Some(Fault::Hang { .. })) {
        thread::sleep(Duration::from_secs(60));
    }
}
