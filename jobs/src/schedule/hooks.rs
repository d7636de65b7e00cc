//! Tells somebody how a run went: a command that is given the message on its standard input, or a
//! webhook that it is posted to, signed.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use hmac::{Hmac, Mac};
use legenda_schemas::job::{Hook, HookKind};
use reqwest::{Client, StatusCode, redirect};
use serde_json::Value;
use sha2::Sha256;
use tokio::runtime::Handle;

use super::{
    outside::{Tell, Told},
    service::Event,
};

/// How long a hook may take that does not say.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The waits before a webhook is tried again.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// The header with the signature of the body.
const SIGNATURE: &str = "Legenda-Signature";

/// Tells hooks, each message on a thread of its own.
pub(crate) struct Teller {
    client: Client,
    runtime: Handle,
    events: mpsc::Sender<Event>,
    /// An environment variable that commands are not given: it holds the page's token.
    secret_env: Option<String>,
}

impl Teller {
    /// Returns a teller; how each message went goes to `events`. Commands are not given the environment
    /// variable `secret_env`.
    pub(crate) fn new(
        runtime: Handle,
        events: mpsc::Sender<Event>,
        secret_env: Option<String>,
    ) -> reqwest::Result<Self> {
        let client = Client::builder()
            .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
            // A signed message is for the address that was written down, and for no other.
            .redirect(redirect::Policy::none())
            .build()?;
        Ok(Self { client, runtime, events, secret_env })
    }

    /// Tells every hook of `telling`, one after another.
    pub(crate) fn tell(&self, telling: Tell) {
        let (client, runtime, events) =
            (self.client.clone(), self.runtime.clone(), self.events.clone());
        let secret_env = self.secret_env.clone();
        std::thread::spawn(move || {
            let Tell { run, hooks, dir, message } = telling;
            let mut problems = Vec::new();
            for hook in &hooks {
                let result = match hook.kind() {
                    Some(HookKind::Command(words)) => match command(words, &dir) {
                        Some(mut command) => {
                            if let Some(name) = &secret_env {
                                command.env_remove(name);
                            }
                            run_command(&mut command, hook, &message)
                        }
                        None => Ok(()),
                    },
                    Some(HookKind::Webhook(url)) => {
                        runtime.block_on(webhook(&client, url, hook, &message))
                    }
                    None => Ok(()),
                };
                if let Err(problem) = result {
                    tracing::warn!(run, problem, "hook failed");
                    problems.push(problem);
                }
            }
            let problem = problems.join("; ");
            // Nobody listens any more when the service ends.
            events.send(Event::Told(Told { run, problem })).ok();
        });
    }
}

fn timeout(hook: &Hook) -> Duration {
    hook.timeout.map_or(TIMEOUT, legenda_schemas::units::Period::duration)
}

/// Returns the signature of `body`: `sha256=` and its HMAC-SHA256 (RFC 2104) in hex.
fn signature(secret: &[u8], body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(body);
    let mut text = "sha256=".to_owned();
    for byte in mac.finalize().into_bytes() {
        write!(text, "{byte:02x}").expect("a string takes what is written");
    }
    text
}

/// Posts the message; tried again where that may help.
async fn webhook(client: &Client, url: &str, hook: &Hook, message: &Value) -> Result<(), String> {
    // The path of an address may be a secret, so messages name its host alone.
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host = host.ok_or_else(|| "a hook has an address that is none".to_owned())?;
    let body = message.to_string();
    let secret = match &hook.secret_env {
        None => None,
        Some(name) => Some(std::env::var(name).map_err(|_| {
            format!("the webhook at {host} was not told: `{name}` of its `secret_env` is not set")
        })?),
    };
    let signature = secret.map(|secret| signature(secret.as_bytes(), body.as_bytes()));
    let mut waits = WAITS.iter();
    loop {
        let mut request = client
            .post(url)
            .timeout(timeout(hook))
            .header("Content-Type", "application/json")
            .body(body.clone());
        if let Some(signature) = &signature {
            request = request.header(SIGNATURE, signature);
        }
        let (may_pass, problem) = match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let may_pass = status.is_server_error()
                    || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS]
                        .contains(&status);
                (may_pass, format!("it answered {status}"))
            }
            Err(error) => (true, reason(error.without_url())),
        };
        match waits.next() {
            Some(wait) if may_pass => tokio::time::sleep(*wait).await,
            _ => return Err(format!("the webhook at {host} was not told: {problem}")),
        }
    }
}

/// Returns the last cause of an error, which says most.
fn reason(error: reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Returns the command of a program and its arguments, in `dir`; none without a program.
fn command(words: &[String], dir: &Path) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::null());
    Some(command)
}

/// Runs a command with the message on its standard input.
fn run_command(command: &mut Command, hook: &Hook, message: &Value) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |problem: String| format!("the command `{program}` failed: {problem}");
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        let body = message.to_string();
        // A command need not read what it is told, so nobody waits for it to do so.
        std::thread::spawn(move || stdin.write_all(body.as_bytes()).ok());
    }
    let until = Instant::now() + timeout(hook);
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(status.to_string())),
            Ok(None) if Instant::now() >= until => {
                let killed = child.kill().and_then(|()| child.wait());
                let limit = timeout(hook).as_secs();
                return Err(failed(match killed {
                    Ok(_) => format!("it took longer than {limit} s and was killed"),
                    Err(error) => format!("it took longer than {limit} s: {error}"),
                }));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
        sync::mpsc,
    };

    use legenda_schemas::{job::Hook, units::Period};
    use serde_json::json;

    use super::{Teller, signature};
    use crate::schedule::{
        outside::{Tell, Told},
        service::Event,
    };

    /// A request as it came: its head in lower case, and its body.
    type Request = (String, String);

    /// Answers each connection with the next of `statuses`; sends on what was asked.
    fn listen(statuses: &'static [&'static str]) -> (String, mpsc::Receiver<Request>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret-path", listener.local_addr().unwrap());
        let (asked, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    reader.read_line(&mut head).unwrap();
                }
                let head = head.to_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                asked.send((head, String::from_utf8(body).unwrap())).unwrap();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\nLocation: /\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        (url, requests)
    }

    fn told(hooks: Vec<Hook>, message: serde_json::Value) -> Told {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (events, heard) = mpsc::channel();
        let teller = Teller::new(runtime.handle().clone(), events, None).unwrap();
        teller.tell(Tell { run: 7, hooks, dir: std::env::temp_dir(), message });
        match heard.recv().unwrap() {
            Event::Told(told) => told,
            _ => panic!("another event"),
        }
    }

    fn webhook(url: String, secret_env: Option<&str>) -> Hook {
        Hook { url: Some(url), secret_env: secret_env.map(str::to_owned), ..Hook::default() }
    }

    fn shell(script: &str) -> Hook {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { command: Some(command), timeout: Some(Period(2)), ..Hook::default() }
    }

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        // Test case 2 of RFC 4231, section 4.3.
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_webhook_is_posted_signed_and_again_where_it_may_help() {
        let (url, requests) = listen(&["503 Busy", "204 Done"]);
        // Any variable that is set will do as a secret here.
        let told = told(vec![webhook(url, Some("PATH"))], json!({ "event": "success" }));
        assert_eq!(told, Told { run: 7, problem: String::new() });
        let secret = std::env::var("PATH").unwrap();
        for (head, body) in [requests.recv().unwrap(), requests.recv().unwrap()] {
            assert_eq!(body, r#"{"event":"success"}"#);
            let signed = signature(secret.as_bytes(), body.as_bytes());
            assert!(head.contains(&format!("legenda-signature: {signed}\r\n")), "{head}");
            assert!(head.starts_with("post /secret-path "), "{head}");
        }
    }

    #[test]
    fn refusals_redirects_and_missing_secrets_are_told_without_the_address() {
        let (url, requests) = listen(&["404 Gone", "302 Elsewhere"]);
        for status in ["404", "302"] {
            let told = told(vec![webhook(url.clone(), None)], json!({}));
            assert!(told.problem.contains(status), "{}", told.problem);
            assert!(!told.problem.contains("secret-path"), "{}", told.problem);
            let (head, _) = requests.recv().unwrap();
            assert!(!head.contains("legenda-signature"), "{head}");
        }
        let told = told(vec![webhook(url, Some("LEGENDA_NO_SUCH_SECRET"))], json!({}));
        assert!(told.problem.contains("LEGENDA_NO_SUCH_SECRET"), "{}", told.problem);
        assert!(requests.try_recv().is_err(), "an unsigned message is not sent");
    }

    #[cfg(unix)]
    #[test]
    fn commands_are_given_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message.json");
        let message = json!({ "event": "failure", "long": "x".repeat(1 << 20) });
        let hook = shell(&format!("cat > '{}'", path.display()));
        assert_eq!(told(vec![hook], message.clone()).problem, "");
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), message);
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_fails_or_never_ends_does_not_keep_the_next_from_being_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last");
        let last = shell(&format!("echo > '{}'", path.display()));
        let hooks = vec![shell("exit 3"), shell("sleep 60"), last];
        let told = told(hooks, json!({ "long": "x".repeat(1 << 20) }));
        assert!(told.problem.contains("exit status: 3"), "{}", told.problem);
        assert!(told.problem.contains("longer than 2 s"), "{}", told.problem);
        assert!(path.is_file());
    }
}
