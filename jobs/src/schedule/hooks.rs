//! Delivery of hooks at the end of a run: commands receive the message on standard input, webhooks
//! receive it as a signed POST request.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use hmac::{Hmac, Mac};
use legenda_schemas::{
    cause::chain,
    job::{Hook, HookKind},
};
use reqwest::{Client, StatusCode, redirect};
use serde_json::Value;
use sha2::Sha256;
use tokio::runtime::Handle;

use super::{
    effects::{Delivery, DeliveryResult},
    service::Event,
};

/// The default timeout of a hook.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The delays before each retry of a webhook.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// The header with the signature of the body.
const SIGNATURE: &str = "Legenda-Signature";

/// Delivers hooks; each delivery runs on its own thread.
pub(crate) struct HookSender {
    client: Client,
    runtime: Handle,
    events: mpsc::Sender<Event>,
    /// The environment variable with the page token, removed from the environment of commands.
    secret_env: Option<String>,
}

impl HookSender {
    /// Creates a sender that reports results to `events`. The environment variable `secret_env` is removed
    /// from the environment of commands.
    pub(crate) fn new(
        runtime: Handle,
        events: mpsc::Sender<Event>,
        secret_env: Option<String>,
    ) -> reqwest::Result<Self> {
        let client = Client::builder()
            .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
            // Never forward a signed message to another address.
            .redirect(redirect::Policy::none())
            .build()?;
        Ok(Self { client, runtime, events, secret_env })
    }

    /// Runs the hooks of a delivery one after another, in the background.
    pub(crate) fn send(&self, delivery: Delivery) {
        let (client, runtime, events) =
            (self.client.clone(), self.runtime.clone(), self.events.clone());
        let secret_env = self.secret_env.clone();
        std::thread::spawn(move || {
            let Delivery { run, hooks, dir, message } = delivery;
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
            // The receiver is gone when the service stops.
            events.send(Event::HooksDelivered(DeliveryResult { run, problem })).ok();
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
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// Posts the message; retries transient errors.
async fn webhook(client: &Client, url: &str, hook: &Hook, message: &Value) -> Result<(), String> {
    // The path of a URL may be secret, so messages contain only the host.
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host = host.ok_or_else(|| "invalid webhook URL".to_owned())?;
    let body = message.to_string();
    let secret = match &hook.secret_env {
        None => None,
        Some(name) => Some(std::env::var(name).map_err(|_| {
            format!(
                "failed to call the webhook at {host}: environment variable `{name}` is not set"
            )
        })?),
    };
    let signature = secret.map(|secret| signature(secret.as_bytes(), body.as_bytes()));
    let mut delays = RETRY_DELAYS.iter();
    loop {
        let mut request = client
            .post(url)
            .timeout(timeout(hook))
            .header("Content-Type", "application/json")
            .body(body.clone());
        if let Some(signature) = &signature {
            request = request.header(SIGNATURE, signature);
        }
        let (is_transient, problem) = match request.send().await {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) => {
                let status = response.status();
                let is_transient = status.is_server_error()
                    || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS]
                        .contains(&status);
                (is_transient, format!("HTTP status {status}"))
            }
            Err(error) => (true, chain(&error.without_url())),
        };
        match delays.next() {
            Some(delay) if is_transient => tokio::time::sleep(*delay).await,
            _ => return Err(format!("failed to call the webhook at {host}: {problem}")),
        }
    }
}

/// Returns the command for a program and its arguments in `dir`, `None` without a program.
fn command(words: &[String], dir: &Path) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::null());
    Some(command)
}

/// Runs a command with the message on its standard input.
fn run_command(command: &mut Command, hook: &Hook, message: &Value) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |problem: String| format!("command `{program}` failed: {problem}");
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        let body = message.to_string();
        // The command may ignore its input, so do not wait for the write.
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
                    Ok(_) => format!("timed out after {limit} s and was killed"),
                    Err(error) => format!("timed out after {limit} s; failed to kill it: {error}"),
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

    use super::{HookSender, signature};
    use crate::schedule::{
        effects::{Delivery, DeliveryResult},
        service::Event,
    };

    /// A received request: its head in lower case, and its body.
    type Request = (String, String);

    /// Answers each connection with the next of `statuses`, and forwards the requests.
    fn listen(statuses: &'static [&'static str]) -> (String, mpsc::Receiver<Request>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret-path", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::channel();
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
                sender.send((head, String::from_utf8(body).unwrap())).unwrap();
                let response = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\nLocation: /\r\n\r\n"
                );
                stream.write_all(response.as_bytes()).unwrap();
            }
        });
        (url, requests)
    }

    fn deliver(hooks: Vec<Hook>, message: serde_json::Value) -> DeliveryResult {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (events, receiver) = mpsc::channel();
        let sender = HookSender::new(runtime.handle().clone(), events, None).unwrap();
        sender.send(Delivery { run: 7, hooks, dir: std::env::temp_dir(), message });
        match receiver.recv().unwrap() {
            Event::HooksDelivered(result) => result,
            _ => panic!("unexpected event"),
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
    fn a_webhook_is_signed_and_transient_errors_are_retried() {
        let (url, requests) = listen(&["503 Busy", "204 Done"]);
        // Any variable that is set works as a secret.
        let result = deliver(vec![webhook(url, Some("PATH"))], json!({ "event": "success" }));
        assert_eq!(result, DeliveryResult { run: 7, problem: String::new() });
        let secret = std::env::var("PATH").unwrap();
        for (head, body) in [requests.recv().unwrap(), requests.recv().unwrap()] {
            assert_eq!(body, r#"{"event":"success"}"#);
            let signed = signature(secret.as_bytes(), body.as_bytes());
            assert!(head.contains(&format!("legenda-signature: {signed}\r\n")), "{head}");
            assert!(head.starts_with("post /secret-path "), "{head}");
        }
    }

    #[test]
    fn problems_are_reported_without_the_address() {
        let (url, requests) = listen(&["404 Gone", "302 Elsewhere"]);
        for status in ["404", "302"] {
            let result = deliver(vec![webhook(url.clone(), None)], json!({}));
            assert!(result.problem.contains(status), "{}", result.problem);
            assert!(!result.problem.contains("secret-path"), "{}", result.problem);
            let (head, _) = requests.recv().unwrap();
            assert!(!head.contains("legenda-signature"), "{head}");
        }
        let result = deliver(vec![webhook(url, Some("LEGENDA_NO_SUCH_SECRET"))], json!({}));
        assert!(result.problem.contains("LEGENDA_NO_SUCH_SECRET"), "{}", result.problem);
        assert!(requests.try_recv().is_err(), "an unsigned message is not sent");
    }

    #[cfg(unix)]
    #[test]
    fn commands_receive_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message.json");
        let message = json!({ "event": "failure", "long": "x".repeat(1 << 20) });
        let hook = shell(&format!("cat > '{}'", path.display()));
        assert_eq!(deliver(vec![hook], message.clone()).problem, "");
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), message);
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_fails_or_hangs_does_not_block_the_next_hook() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last");
        let last = shell(&format!("echo > '{}'", path.display()));
        let hooks = vec![shell("exit 3"), shell("sleep 60"), last];
        let result = deliver(hooks, json!({ "long": "x".repeat(1 << 20) }));
        assert!(result.problem.contains("exit status: 3"), "{}", result.problem);
        assert!(result.problem.contains("timed out after 2 s"), "{}", result.problem);
        assert!(path.is_file());
    }
}
