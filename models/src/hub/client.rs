//! The Hub's HTTP API: lists the files of a repository and downloads them with resume.
//!
//! Redirects are followed here rather than by the HTTP client: large files are served by other
//! hosts, which must not see the token, and the headers of the first response describe the file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    time::Duration,
};

use legenda_schemas::cause::{Cause, chain};
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE},
    redirect,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    HubError, HubOptions, HubRepo,
    cache::{Listing, RemoteFile, RepoCache, create_parent, is_commit},
    options::Token,
};

/// The connect and read timeout.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The maximum number of attempts in a row that make no progress.
pub(super) const ATTEMPTS_MAX: u32 = 5;

/// The delay before the second attempt. It doubles with each attempt.
const BACK_OFF: Duration = Duration::from_millis(250);

const REDIRECTS_MAX: usize = 8;

/// The maximum size of a repository listing in bytes.
const LISTING_BYTES_MAX: usize = 64 << 20;

/// An HTTP client for the Hub.
#[derive(Debug)]
pub(super) struct Client {
    executor: tokio::runtime::Runtime,
    http: reqwest::Client,
    endpoint: Url,
    token: Option<Token>,
}

/// The response of `/api/models/…/revision/…?blobs=true`, and of its counterpart for datasets.
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

/// A response, and the ETag that the first host reported for the file.
struct Answer {
    response: Response,
    etag: Option<String>,
}

/// A file that is being downloaded into the cache.
#[derive(Clone, Copy)]
struct Download<'a> {
    repo: &'a HubRepo,
    /// The name used in messages.
    what: &'a str,
    url: &'a Url,
    /// The size in bytes, if the Hub reports it.
    size: Option<u64>,
    /// The path of the incomplete file.
    work: &'a Path,
    /// Receives the number of bytes fetched so far and the total.
    progress: &'a dyn Fn(u64, Option<u64>),
}

impl Client {
    pub(super) fn new(options: &HubOptions) -> Result<Self, HubError> {
        let refuse = |source: Cause| HubError::Endpoint { source };
        let endpoint = Url::parse(&options.endpoint).map_err(|error| refuse(error.into()))?;
        if !["http", "https"].contains(&endpoint.scheme()) || endpoint.cannot_be_a_base() {
            return Err(refuse("expected `https://…`".into()));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(SILENCE_MAX)
            .read_timeout(SILENCE_MAX)
            .build()
            .map_err(|error| refuse(error.without_url().into()))?;
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| refuse(error.into()))?;
        Ok(Self { executor, http, endpoint, token: options.token.clone() })
    }

    /// Fetches the file listing of a model, in at most `attempts_max` attempts.
    pub(super) fn listing(&self, repo: &HubRepo, attempts_max: u32) -> Result<Listing, HubError> {
        self.listing_of("model", repo, attempts_max)
    }

    /// Fetches the file listing of a dataset, in at most `attempts_max` attempts.
    pub(super) fn dataset_listing(
        &self,
        repo: &HubRepo,
        attempts_max: u32,
    ) -> Result<Listing, HubError> {
        self.listing_of("dataset", repo, attempts_max)
    }

    /// Returns the URL of a file of a dataset.
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
        let invalid =
            |problem: &str| HubError::Answer { what: what.clone(), source: problem.into() };
        if !is_commit(&info.sha) {
            return Err(invalid("missing commit"));
        }
        let files = info.siblings.into_iter().filter_map(|sibling| {
            // Names and digests are used as paths.
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
        while let Some(chunk) =
            response.chunk().await.map_err(|error| connection_error(what, error))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > LISTING_BYTES_MAX {
                let source = "response too large".into();
                return Err(HubError::Answer { what: what.to_owned(), source });
            }
        }
        serde_json::from_slice(&body)
            .map_err(|error| HubError::Answer { what: what.to_owned(), source: error.into() })
    }

    /// Fetches a file into the cache atomically and returns the name of its blob. `progress`
    /// receives the number of bytes fetched so far and the total.
    pub(super) fn fetch(
        &self,
        repo: &HubRepo,
        (commit, name, file): (&str, &str, &RemoteFile),
        cache: &RepoCache,
        progress: &dyn Fn(u64, Option<u64>),
    ) -> Result<String, HubError> {
        let what = format!("`{name}` of `{repo}`");
        let at_commit = repo.with_revision(commit);
        let url = self.url([], &at_commit, "resolve", name);
        let blob = match &file.blob {
            Some(blob) => blob.clone(),
            None => self.blob_of(repo, &what, &url, commit, name)?,
        };
        let lock = cache.lock(&blob)?;
        let target = cache.blob(&blob);
        let is_there =
            target.try_exists().map_err(|source| cache_error("read", &target, source))?;
        // The blob may already be there: from a file with the same content, another commit or
        // another process.
        if !is_there {
            create_parent(&target)?;
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

    /// Requests the digest of a file for which the listing has none.
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
        // If a mirror sends no digest, name the blob after the path of the file.
        let fallback_name = || {
            let path = [repo.name(), commit, name].map(str::as_bytes);
            format!("legenda-{}", legenda_schemas::sha256_hex(path))
        };
        Ok(answer.etag.filter(|etag| is_blob_name(etag)).unwrap_or_else(fallback_name))
    }

    /// Downloads a file with retries and resumes where an earlier call stopped.
    async fn complete(&self, download: &Download<'_>) -> Result<(), HubError> {
        let Download { what, work, .. } = *download;
        let mut attempt = 1;
        loop {
            let before = length(work)?;
            let fetched = self.append(download).await;
            match fetched {
                Ok(()) => return Ok(()),
                Err(HubError::Connection { source, .. }) => {
                    if length(work)? > before {
                        attempt = 1;
                    }
                    if attempt == ATTEMPTS_MAX {
                        return Err(HubError::Connection { what: what.to_owned(), source });
                    }
                    let error = chain(&*source);
                    tracing::warn!(what, attempt, error, "fetch failed; retrying");
                    back_off(attempt).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Requests the missing bytes of a file once.
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
            // The existing bytes are not a prefix of this file.
            File::create(work).map_err(|source| cache_error("write", work, source))?;
            let source = "the partial file does not match".into();
            return Err(HubError::Connection { what: what.to_owned(), source });
        }
        refuse_status(&response, repo, what, self.token.is_some())?;
        if response.status() != StatusCode::PARTIAL_CONTENT || range_start(&response) != Some(start)
        {
            if response.status() == StatusCode::PARTIAL_CONTENT && range_start(&response) != Some(0)
            {
                let source = "unexpected byte range".into();
                return Err(HubError::Answer { what: what.to_owned(), source });
            }
            // The server ignored the range and sends the whole file.
            start = 0;
        }
        let total = size.or_else(|| Some(start + response.content_length()?));
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(work)
            .map_err(|source| cache_error("write", work, source))?;
        let write_error = |source| cache_error("write", work, source);
        file.set_len(start).map_err(write_error)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(start)).map_err(write_error)?;
        let mut done = start;
        progress(done, total);
        while let Some(chunk) =
            response.chunk().await.map_err(|error| connection_error(what, error))?
        {
            file.write_all(&chunk).map_err(write_error)?;
            done += chunk.len() as u64;
            progress(done, total);
        }
        file.sync_all().map_err(write_error)?;
        if total.is_some_and(|total| done < total) {
            let source = "connection closed early".into();
            return Err(HubError::Connection { what: what.to_owned(), source });
        }
        Ok(())
    }

    /// Requests a URL from byte `start` on and follows redirects.
    async fn get(&self, mut url: Url, start: u64, what: &str) -> Result<Answer, HubError> {
        let invalid =
            |problem: &str| HubError::Answer { what: what.to_owned(), source: problem.into() };
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
            let response = request.send().await.map_err(|error| connection_error(what, error))?;
            etag = etag.or_else(|| etag_of(response.headers()));
            if !response.status().is_redirection() {
                return Ok(Answer { response, etag });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| invalid("redirect without a valid location"))?;
            if self.endpoint.scheme() == "https" && url.scheme() != "https" {
                return Err(invalid("redirect from https to another scheme"));
            }
        }
        Err(invalid("too many redirects"))
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
            // A slash in a branch name is escaped, not a path separator.
            segments.push(verb).push(repo.revision());
            if !file.is_empty() {
                segments.extend(file.split('/'));
            }
        }
        url
    }
}

/// Returns an error unless the status is a success.
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
            HubError::Connection { what: what.to_owned(), source: format!("HTTP {status}").into() }
        }
        _ => HubError::Answer { what: what.to_owned(), source: status.to_string().into() },
    })
}

fn connection_error(what: &str, error: reqwest::Error) -> HubError {
    // Redirect targets are signed.
    let (what, error) = (what.to_owned(), error.without_url());
    // The wording of rustls for a certificate whose issuer is not trusted.
    if chain(&error).contains("invalid peer certificate: UnknownIssuer") {
        return HubError::Certificate { what, source: error };
    }
    HubError::Connection { what, source: error.into() }
}

fn cache_error(action: &'static str, path: &Path, source: io::Error) -> HubError {
    HubError::Cache { action, path: path.to_owned(), source }
}

async fn back_off(attempt: u32) {
    tokio::time::sleep(BACK_OFF * 2_u32.pow(attempt - 1)).await;
}

/// Returns the size of a file in bytes, or 0 if it does not exist.
fn length(path: &Path) -> Result<u64, HubError> {
    match std::fs::metadata(path) {
        Ok(data) => Ok(data.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(cache_error("read", path, source)),
    }
}

/// Returns the digest of a file from the Hub's own header, else from the standard `ETag`.
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

/// Verifies the size of a file and, if its name is a SHA-256, its digest. Removes the file on
/// mismatch.
fn check(what: &str, path: &Path, size: Option<u64>, blob: &str) -> Result<(), HubError> {
    let actual = length(path)?;
    let mut problem = size
        .filter(|size| *size != actual)
        .map(|size| format!("expected {size} bytes, got {actual}"));
    if problem.is_none() && blob.len() == 64 && blob.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digest = digest(path).map_err(|source| cache_error("read", path, source))?;
        if digest != blob {
            problem = Some(format!("expected SHA-256 {blob}, got {digest}"));
        }
    }
    let Some(problem) = problem else { return Ok(()) };
    std::fs::remove_file(path).map_err(|source| cache_error("remove", path, source))?;
    Err(HubError::Damaged { what: what.to_owned(), problem })
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}
