//! Starts `legenda schedule` in tests and requests its page as a browser does.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use crate::Workplace;

/// The token of every service started here.
pub const TOKEN: &str = "a token <of> \"tests\"";

/// The timeout of each wait, generous for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A running service; it is killed on drop.
#[derive(Debug)]
pub struct Service {
    child: Child,
    /// The address of its page, such as `127.0.0.1:40000`.
    pub address: String,
}

/// An HTTP response of the page.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The status line and headers, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Service {
    /// Starts a service over the folder `jobs` of a workplace.
    #[must_use]
    pub fn start(place: &Workplace, arguments: &[&str]) -> Self {
        let mut command = place.command(&["schedule", "jobs", "--listen", "127.0.0.1:0"]);
        command.args(["--token-env", "LEGENDA_TEST_TOKEN"]).args(arguments);
        command.env("LEGENDA_TEST_TOKEN", TOKEN).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = None;
        for line in lines.by_ref() {
            let line = line.unwrap();
            if let Some(url) = line.strip_prefix("page at http://") {
                address = Some(url.trim_end_matches('/').to_owned());
                break;
            }
            show(&line);
        }
        let address = address.expect("the service did not print the address of its page");
        // Keep draining stderr; the test harness prints it if the test fails.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| show(&line)));
        let this = Self { child, address };
        this.wait_until("the folder was looked at", |this| this.get("/healthz").status == 200);
        this
    }

    /// Sends a request with `headers` (`Name: value`) and a body.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let has_host = headers.iter().any(|header| header.starts_with("Host:"));
        let host = if has_host { String::new() } else { format!("Host: {}\r\n", self.address) };
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// Sends a `GET` request.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    /// Sends the `POST` request of a button, with the correct token.
    #[must_use]
    pub fn press(&self, path: &str) -> Answer {
        self.ask("POST", path, &[&format!("Authorization: Bearer {TOKEN}")], "")
    }

    /// Returns the number of runs of a job in a state.
    #[must_use]
    pub fn n_runs(&self, job: &str, state: &str) -> u64 {
        let line = format!("legenda_schedule_runs{{job=\"{job}\",state=\"{state}\"}} ");
        let metrics = self.get("/metrics").body;
        let value = metrics.lines().find_map(|metric| metric.strip_prefix(&line));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a condition holds.
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            let page = || self.get("/").body;
            assert!(since.elapsed() < TIMEOUT, "timed out waiting until {what}\n{}", page());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends SIGTERM and returns the exit code.
    #[must_use]
    pub fn end(mut self) -> Option<i32> {
        let mut kill = std::process::Command::new("kill");
        assert!(kill.arg(self.child.id().to_string()).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    /// Kills the service (SIGKILL).
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have exited already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Prints a line of the service; the test harness shows it if the test fails.
#[expect(clippy::print_stderr, reason = "a line for the person who looks why a test failed")]
fn show(line: &str) {
    eprintln!("service: {line}");
}
