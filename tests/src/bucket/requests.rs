//! The requests of S3, and what the bucket replies.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Mutex,
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    BUCKET, CLOSED, FAR, FAR_REGION, FAULTS, Fault, Object, PAGE_KEYS, PUBLIC, SIGNED, State, lock,
};

pub(super) fn object(content: Vec<u8>) -> Object {
    let digest = Sha256::digest(&content);
    let digest: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    Object { content, etag: format!("\"{digest}\"") }
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Reply {
    head: String,
    body: Vec<u8>,
    /// The `Content-Length` of a response without a body.
    length: usize,
}

impl Reply {
    fn new(head: &str, body: Vec<u8>) -> Self {
        Self { head: head.to_owned(), length: body.len(), body }
    }

    fn error(head: &str, code: &str) -> Self {
        Self::new(head, format!("<Error><Code>{code}</Code></Error>").into_bytes())
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).ok().filter(|&n| n > 0)?;
        Some(text.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    while let Some(header) = line().filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A query string encodes a space as `+`, and a `+` as `%2B`.
        (unescape(name), unescape(&value.replace('+', " ")))
    });
    Some(Request { method, path: unescape(path), query: query.collect(), headers, body })
}

/// Handles one request and closes the connection.
pub(super) fn answer(mut stream: &TcpStream, state: &Mutex<State>) {
    let Some(request) = read_request(stream) else { return };
    let mut guard = lock(state);
    guard.calls += 1;
    let drawn = guard.draws.draw() >> 33;
    let mut fault = (drawn % 1000 < guard.faulty_permille)
        .then(|| FAULTS[usize::try_from(drawn / 1000).unwrap() % FAULTS.len()]);
    match guard.faulty_call.take() {
        Some((0, how)) => fault = Some(how),
        Some((n, how)) => guard.faulty_call = Some((n - 1, how)),
        None => {}
    }
    if let Some(fault) = fault {
        *guard.faults.entry(fault).or_default() += 1;
    }
    let reply = match fault {
        Some(Fault::Dropped) => return,
        Some(Fault::SlowDown) => Reply::error("503 Slow Down", "SlowDown"),
        Some(Fault::Twice) => {
            perform(&request, &mut guard);
            perform(&request, &mut guard)
        }
        _ => perform(&request, &mut guard),
    };
    if request.method == "GET" {
        guard.sent_bytes += reply.body.len() as u64;
    }
    drop(guard);
    match fault {
        Some(Fault::AnswerLost) => return,
        Some(Fault::Late) => thread::sleep(Duration::from_millis(200)),
        _ => {}
    }
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reply.head, reply.length
    );
    let sent = if fault == Some(Fault::Cut) { reply.body.len() / 2 } else { reply.body.len() };
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&reply.body[..sent])).ok();
}

const DATE: &str = "2026-01-02T03:04:05.000Z";
const HTTP_DATE: &str = "Fri, 02 Jan 2026 03:04:05 GMT";

fn perform(request: &Request, state: &mut State) -> Reply {
    let signed = request.headers.get("authorization").is_some_and(|text| text.contains("AWS4"));
    let path = request.path.trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if let Some(target) = key.strip_prefix("redirect/").filter(|_| bucket == PUBLIC) {
        let target = target.replacen(':', "://", 1);
        return Reply::new(&format!("302 Found\r\nLocation: {target}"), Vec::new());
    }
    if !signed && bucket != PUBLIC {
        return Reply::error("403 Forbidden", "AccessDenied");
    }
    match bucket {
        BUCKET | PUBLIC => {}
        FAR => {
            let head = format!("301 Moved Permanently\r\nx-amz-bucket-region: {FAR_REGION}");
            return Reply::error(&head, "PermanentRedirect");
        }
        CLOSED => return Reply::error("403 Forbidden", "AccessDenied"),
        _ => return Reply::error("404 Not Found", "NoSuchBucket"),
    }
    if bucket == PUBLIC && key.starts_with(SIGNED) {
        let is_signed = request.query.get("sig").is_some_and(|sig| sig == "a/b/c=d");
        if !is_signed || request.method != "GET" {
            return Reply::error("403 Forbidden", "SignatureDoesNotMatch");
        }
    }
    match request.method.as_str() {
        "GET" if key.is_empty() => list(request, state),
        "POST" if request.query.contains_key("delete") => {
            let body = String::from_utf8(request.body.clone()).unwrap();
            let keys =
                body.split("<Key>").skip(1).map(|piece| piece.split("</Key>").next().unwrap());
            let removed: String = keys
                .map(|key| {
                    state.objects.remove(key);
                    format!("<Deleted><Key>{key}</Key></Deleted>")
                })
                .collect();
            Reply::new("200 OK", format!("<DeleteResult>{removed}</DeleteResult>").into_bytes())
        }
        "DELETE" => {
            state.objects.remove(key);
            Reply::new("204 No Content", Vec::new())
        }
        "PUT" => put(request, key, state),
        "GET" | "HEAD" => get(request, key, state),
        _ => Reply::error("405 Method Not Allowed", "MethodNotAllowed"),
    }
}

fn put(request: &Request, key: &str, state: &mut State) -> Reply {
    let there = state.objects.get(key).map(|object| object.etag.clone());
    let refused = match (request.headers.get("if-none-match"), request.headers.get("if-match")) {
        _ if state.ignores_conditions => false,
        (Some(_), _) => there.is_some(),
        (_, Some(etag)) => there.as_ref() != Some(etag),
        _ => false,
    };
    if refused {
        return Reply::error("412 Precondition Failed", "PreconditionFailed");
    }
    let object = object(request.body.clone());
    let head = format!("200 OK\r\nETag: {}", object.etag);
    state.objects.insert(key.to_owned(), object);
    Reply::new(&head, Vec::new())
}

fn get(request: &Request, key: &str, state: &State) -> Reply {
    let Some(Object { content, etag }) = state.objects.get(key) else {
        return Reply::error("404 Not Found", "NoSuchKey");
    };
    if request.headers.get("if-match").is_some_and(|wanted| wanted != etag) {
        return Reply::error("412 Precondition Failed", "PreconditionFailed");
    }
    let told = format!("ETag: {etag}\r\nLast-Modified: {HTTP_DATE}");
    if request.method == "HEAD" {
        let head = format!("200 OK\r\n{told}");
        return Reply { head, body: Vec::new(), length: content.len() };
    }
    let range = request.headers.get("range").and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        let end = end.parse::<usize>().ok()?.min(content.len() - 1);
        Some((start.parse::<usize>().ok()?, end))
    });
    match range {
        None => Reply::new(&format!("200 OK\r\n{told}"), content.clone()),
        Some((start, end)) => Reply::new(
            &format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{end}/{}\r\n{told}",
                content.len()
            ),
            content[start..=end].to_vec(),
        ),
    }
}

fn in_xml(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\n', "&#10;")
}

fn list(request: &Request, state: &State) -> Reply {
    let query = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter, after) =
        (query("prefix"), query("delimiter"), query("continuation-token"));
    let mut pages = String::new();
    let mut folders: Vec<String> = Vec::new();
    let mut n_keys = 0;
    let mut last = String::new();
    let mut truncated = false;
    for (key, object) in &state.objects {
        if !key.starts_with(&prefix) || *key <= after {
            continue;
        }
        if n_keys == PAGE_KEYS {
            truncated = true;
            break;
        }
        let below = &key[prefix.len()..];
        match below.split_once('/').filter(|_| !delimiter.is_empty()) {
            Some((folder, _)) => {
                let folder = in_xml(&format!("{prefix}{folder}/"));
                if folders.last() != Some(&folder) {
                    folders.push(folder);
                }
            }
            None => {
                let Object { content, etag } = object;
                let (key, etag) = (in_xml(key), in_xml(etag));
                write!(
                    pages,
                    "<Contents><Key>{key}</Key><LastModified>{DATE}</LastModified>\
                     <ETag>{etag}</ETag><Size>{}</Size></Contents>",
                    content.len()
                )
                .unwrap();
            }
        }
        last.clone_from(key);
        n_keys += 1;
    }
    let folders: String = folders
        .iter()
        .map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"))
        .collect();
    let next = if truncated {
        format!("<NextContinuationToken>{}</NextContinuationToken>", in_xml(&last))
    } else {
        String::new()
    };
    let body = format!(
        "<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{pages}{folders}{next}\
         </ListBucketResult>"
    );
    Reply::new("200 OK", body.into_bytes())
}
