//! Talks to the Hub: what a repository holds, and its files, part by part.
//!
//! Redirects are followed here rather than by the HTTP client: large files lie on other hosts, which
//! must not see the token, and the headers of the first answer say what a file is.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    time::Duration,
};

use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE},
    redirect,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    HubError, HubOptions, HubRepo,
    cache::{Listing, RemoteFile, RepoCache, is_commit, make_folder_of},
    options::Token,
};

/// How long the Hub may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often a file is asked for without one more byte of it arriving.
pub(super) const ATTEMPTS_MAX: u32 = 5;

/// The wait before a second attempt; it doubles.
const BACK_OFF: Duration = Duration::from_millis(250);

const REDIRECTS_MAX: usize = 8;

/// The most bytes of what a repository is said to hold.
const LISTING_BYTES_MAX: usize = 64 << 20;

/// A connection to the Hub.
#[derive(Debug)]
pub(super) struct Client {
    executor: tokio::runtime::Runtime,
    http: reqwest::Client,
    endpoint: Url,
    token: Option<Token>,
}

/// What `/api/models/…/revision/…?blobs=true` answers, and its like for datasets.
#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default, rename = "blobId")]
    blob_id: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// An answer, and what the first host said of the file.
struct Answer {
    response: Response,
    etag: Option<String>,
}

/// A file on its way into the cache.
#[derive(Clone, Copy)]
struct Download<'a> {
    repo: &'a HubRepo,
    /// What it is called in messages.
    what: &'a str,
    url: &'a Url,
    /// Its bytes, where the Hub says.
    size: Option<u64>,
    /// Where it grows.
    work: &'a Path,
    /// Gets the bytes that are there and those of the whole.
    progress: &'a dyn Fn(u64, Option<u64>),
}

impl Client {
    pub(super) fn new(options: &HubOptions) -> Result<Self, HubError> {
        let refuse = |message: String| HubError::Endpoint { message };
        let endpoint = Url::parse(&options.endpoint).map_err(|error| refuse(error.to_string()))?;
        if !["http", "https"].contains(&endpoint.scheme()) || endpoint.cannot_be_a_base() {
            return Err(refuse("write `https://…`".to_owned()));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(SILENCE_MAX)
            .read_timeout(SILENCE_MAX)
            .build()
            .map_err(|error| refuse(words(error)))?;
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Self { executor, http, endpoint, token: options.token.clone() })
    }

    /// Asks what a repository holds, so many times as long as there is no answer.
    pub(super) fn listing(&self, repo: &HubRepo, attempts_max: u32) -> Result<Listing, HubError> {
        self.listing_of("model", repo, attempts_max)
    }

    /// Asks what a dataset holds, in the same way.
    pub(super) fn dataset_listing(
        &self,
        repo: &HubRepo,
        attempts_max: u32,
    ) -> Result<Listing, HubError> {
        self.listing_of("dataset", repo, attempts_max)
    }

    /// Returns where a file of a dataset is read.
    pub(super) fn dataset_url(&self, repo: &HubRepo, name: &str) -> Url {
        self.url(["datasets"], repo, "resolve", name)
    }

    fn listing_of(
        &self,
        kind: &str,
        repo: &HubRepo,
        attempts_max: u32,
    ) -> Result<Listing, HubError> {
        let what = format!("{kind} `{repo}`");
        let mut url = self.url(["api", &format!("{kind}s")], repo, "revision", "");
        url.set_query(Some("blobs=true"));
        let info: ModelInfo = self.executor.block_on(async {
            let mut attempt = 1;
            loop {
                let asked = self.listing_once(repo, &what, &url).await;
                match asked {
                    Err(HubError::Connection { .. }) if attempt < attempts_max => {
                        back_off(attempt).await;
                        attempt += 1;
                    }
                    asked => break asked,
                }
            }
        })?;
        let unusable =
            |message: &str| HubError::Answer { what: what.clone(), message: message.to_owned() };
        if !is_commit(&info.sha) {
            return Err(unusable("it names no commit"));
        }
        let files = info.siblings.into_iter().filter_map(|sibling| {
            // Names and digests become paths.
            let plain = |name: &str| !name.is_empty() && name != "." && name != "..";
            let inside = sibling.rfilename.split('/').all(plain)
                && !sibling.rfilename.contains(['\\', ':', '\0']);
            let (blob, size) = match sibling.lfs {
                Some(lfs) => (Some(lfs.sha256), Some(lfs.size)),
                None => (sibling.blob_id, sibling.size),
            };
            let blob = blob.filter(|blob| is_blob_name(blob));
            inside.then_some((sibling.rfilename, RemoteFile { size, blob }))
        });
        Ok(Listing { commit: info.sha, files: files.collect() })
    }

    async fn listing_once(
        &self,
        repo: &HubRepo,
        what: &str,
        url: &Url,
    ) -> Result<ModelInfo, HubError> {
        let mut response = self.get(url.clone(), 0, what).await?.response;
        refuse_status(&response, repo, what, self.token.is_some())?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(what, error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LISTING_BYTES_MAX {
                let message = "it is too long".to_owned();
                return Err(HubError::Answer { what: what.to_owned(), message });
            }
        }
        serde_json::from_slice(&body)
            .map_err(|error| HubError::Answer { what: what.to_owned(), message: error.to_string() })
    }

    /// Fetches a file into the cache, where it appears whole or not at all, and returns the name of
    /// its blob. `progress` gets the bytes that are there and those of the whole.
    pub(super) fn fetch(
        &self,
        repo: &HubRepo,
        (commit, name, file): (&str, &str, &RemoteFile),
        cache: &RepoCache,
        progress: &dyn Fn(u64, Option<u64>),
    ) -> Result<String, HubError> {
        let what = format!("`{name}` of `{repo}`");
        let at_commit = repo.at(commit);
        let url = self.url([], &at_commit, "resolve", name);
        let blob = match &file.blob {
            Some(blob) => blob.clone(),
            None => self.blob_of(repo, &what, &url, commit, name)?,
        };
        let lock = cache.lock(&blob)?;
        let target = cache.blob(&blob);
        let is_there =
            target.try_exists().map_err(|source| cache_error("read", &target, source))?;
        // Another file of the same content, another commit, or another process may have brought it.
        if !is_there {
            make_folder_of(&target)?;
            let work = cache.blob(&format!("{blob}.incomplete"));
            let download =
                Download { repo, what: &what, url: &url, size: file.size, work: &work, progress };
            self.executor.block_on(self.complete(&download))?;
            check(&what, &work, file.size, &blob)?;
            std::fs::rename(&work, &target)
                .map_err(|source| cache_error("write", &target, source))?;
        }
        drop(lock);
        Ok(blob)
    }

    /// Asks for the digest of a file that the listing gives none for.
    fn blob_of(
        &self,
        repo: &HubRepo,
        what: &str,
        url: &Url,
        commit: &str,
        name: &str,
    ) -> Result<String, HubError> {
        let answer = self.executor.block_on(self.get(url.clone(), 0, what))?;
        refuse_status(&answer.response, repo, what, self.token.is_some())?;
        // Where a mirror names no digest, the place of the file is as good a name.
        let place = || {
            let place = [repo.name(), commit, name].map(str::as_bytes);
            format!("legenda-{}", legenda_schemas::sha256_hex(place))
        };
        Ok(answer.etag.filter(|etag| is_blob_name(etag)).unwrap_or_else(place))
    }

    /// Appends to a file until it is whole; goes on where an earlier call ended.
    async fn complete(&self, download: &Download<'_>) -> Result<(), HubError> {
        let Download { what, work, .. } = *download;
        let mut attempt = 1;
        loop {
            let before = length(work)?;
            let fetched = self.append(download).await;
            match fetched {
                Ok(()) => return Ok(()),
                Err(HubError::Connection { message, .. }) => {
                    if length(work)? > before {
                        attempt = 1;
                    }
                    if attempt == ATTEMPTS_MAX {
                        return Err(HubError::Connection { what: what.to_owned(), message });
                    }
                    tracing::warn!(what, attempt, message, "fetch failed, will go on");
                    back_off(attempt).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks once for what is missing of a file.
    async fn append(&self, download: &Download<'_>) -> Result<(), HubError> {
        let Download { repo, what, url, size, work, progress } = *download;
        let mut start = length(work)?;
        if size == Some(start) {
            return File::create_new(work).map(drop).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(cache_error("write", work, error)),
            });
        }
        if size.is_some_and(|size| start > size) {
            start = 0;
        }
        let mut response = self.get(url.clone(), start, what).await?.response;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // What is there is no beginning of this file.
            File::create(work).map_err(|source| cache_error("write", work, source))?;
            let message = "the part that is there does not fit".to_owned();
            return Err(HubError::Connection { what: what.to_owned(), message });
        }
        refuse_status(&response, repo, what, self.token.is_some())?;
        if response.status() != StatusCode::PARTIAL_CONTENT || range_start(&response) != Some(start)
        {
            if response.status() == StatusCode::PARTIAL_CONTENT && range_start(&response) != Some(0)
            {
                let message = "it is another part than was asked for".to_owned();
                return Err(HubError::Answer { what: what.to_owned(), message });
            }
            // The whole file, whatever was asked for.
            start = 0;
        }
        let total = size.or_else(|| Some(start + response.content_length()?));
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(work)
            .map_err(|source| cache_error("write", work, source))?;
        let unwritable = |source| cache_error("write", work, source);
        file.set_len(start).map_err(unwritable)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(start)).map_err(unwritable)?;
        let mut done = start;
        progress(done, total);
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(what, error))? {
            file.write_all(&chunk).map_err(unwritable)?;
            done += chunk.len() as u64;
            progress(done, total);
        }
        file.sync_all().map_err(unwritable)?;
        if total.is_some_and(|total| done < total) {
            let message = "the connection ended early".to_owned();
            return Err(HubError::Connection { what: what.to_owned(), message });
        }
        Ok(())
    }

    /// Asks for an address from byte `start` on, and follows where it leads.
    async fn get(&self, mut url: Url, start: u64, what: &str) -> Result<Answer, HubError> {
        let unusable =
            |message: &str| HubError::Answer { what: what.to_owned(), message: message.to_owned() };
        let mut etag = None;
        for _ in 0..REDIRECTS_MAX {
            let mut request = self.http.get(url.clone());
            if let Some(token) = &self.token
                && url.origin() == self.endpoint.origin()
            {
                request = request.bearer_auth(token.secret());
            }
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            let response = request.send().await.map_err(|error| broken(what, error))?;
            etag = etag.or_else(|| etag_of(response.headers()));
            if !response.status().is_redirection() {
                return Ok(Answer { response, etag });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| unusable("it leads nowhere"))?;
            if self.endpoint.scheme() == "https" && url.scheme() != "https" {
                return Err(unusable("it leads from https to another protocol"));
            }
        }
        Err(unusable("it leads from place to place"))
    }

    /// Returns `{endpoint}/{before}/{owner}/{name}/{verb}/{revision}/{file}`.
    fn url<const N: usize>(
        &self,
        before: [&str; N],
        repo: &HubRepo,
        verb: &str,
        file: &str,
    ) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(before).extend(repo.name().split('/'));
            // A branch may have a slash in its name, which is then no border between segments.
            segments.push(verb).push(repo.revision());
            if !file.is_empty() {
                segments.extend(file.split('/'));
            }
        }
        url
    }
}

/// Turns a status that is no success into an error.
fn refuse_status(
    response: &Response,
    repo: &HubRepo,
    what: &str,
    with_token: bool,
) -> Result<(), HubError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            HubError::Refused { repo: repo.to_string(), status: status.as_u16(), with_token }
        }
        StatusCode::NOT_FOUND => HubError::NotFound { what: what.to_owned() },
        _ if status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT =>
        {
            HubError::Connection {
                what: what.to_owned(),
                message: format!("the Hub says {status}"),
            }
        }
        _ => HubError::Answer { what: what.to_owned(), message: status.to_string() },
    })
}

/// Says what broke, without the address: where a redirect leads is signed.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn broken(what: &str, error: reqwest::Error) -> HubError {
    let (what, message) = (what.to_owned(), words(error));
    // As rustls words that nobody it trusts has signed what a server shows of itself.
    if message.contains("invalid peer certificate: UnknownIssuer") {
        return HubError::Certificate { what, message };
    }
    HubError::Connection { what, message }
}

fn cache_error(action: &'static str, path: &Path, source: io::Error) -> HubError {
    HubError::Cache { action, path: path.to_owned(), source }
}

async fn back_off(attempt: u32) {
    tokio::time::sleep(BACK_OFF * 2_u32.pow(attempt - 1)).await;
}

/// Returns the bytes of a file; 0 if there is none.
fn length(path: &Path) -> Result<u64, HubError> {
    match std::fs::metadata(path) {
        Ok(data) => Ok(data.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(cache_error("read", path, source)),
    }
}

/// Returns the digest that names a file: of the Hub's own header, else of the standard one.
fn etag_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-linked-etag").or_else(|| headers.get(ETAG))?.to_str().ok()?;
    Some(value.trim_start_matches("W/").trim_matches('"').to_owned())
}

/// Returns the first byte of `bytes 100-199/200`.
fn range_start(response: &Response) -> Option<u64> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn is_blob_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=128).contains(&name.len()) && name.bytes().all(plain)
}

/// Holds a file to its size and, where its name is one, to its SHA-256; removes it otherwise.
fn check(what: &str, path: &Path, size: Option<u64>, blob: &str) -> Result<(), HubError> {
    let actual = length(path)?;
    let mut problem = size
        .filter(|size| *size != actual)
        .map(|size| format!("it has {actual} bytes, expected {size}"));
    if problem.is_none() && blob.len() == 64 && blob.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digest = digest(path).map_err(|source| cache_error("read", path, source))?;
        if digest != blob {
            problem = Some(format!("its SHA-256 is {digest}, expected {blob}"));
        }
    }
    let Some(message) = problem else { return Ok(()) };
    std::fs::remove_file(path).map_err(|source| cache_error("remove", path, source))?;
    Err(HubError::Damaged { what: what.to_owned(), message })
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}
