//! Attacks on `legenda schedule`: exhausting its connections, DNS rebinding, finding its token or
//! the secrets of a broken job file, reading its files.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use legenda_tests::{TEXT_JOB, Workplace, binary, service::TOKEN, texts, write_table};

/// The environment variable that holds the token.
const TOKEN_ENV: &str = "LEGENDA_TEST_TOKEN";

/// The timeout of each wait, generous for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A service under the resource limits of a shell; it is killed on drop.
struct Limited {
    child: Child,
    address: SocketAddr,
}

impl Limited {
    /// Starts a service over the folder `jobs`, after running the shell commands `before`.
    fn start(place: &Workplace, before: &str, listen: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(binary());
        command.args(["schedule", "jobs", "--listen", listen, "--token-env", TOKEN_ENV]);
        command.args(arguments).env(TOKEN_ENV, TOKEN).env_remove("RUST_LOG");
        command.current_dir(place.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let url = lines.find_map(|line| line.strip_prefix("page at http://").map(str::to_owned));
        let address = url.expect("no page").trim_end_matches('/').parse().unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        let this = Self { child, address };
        this.wait_until("the folder was scanned", |this| this.status("localhost") == Some(200));
        this
    }

    /// Sends a request; returns `None` if the connection closes early or the response takes too
    /// long.
    fn ask(&self, method: &str, path: &str, headers: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.address.port())).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    }

    fn get(&self, path: &str) -> String {
        self.ask("GET", path, "Host: localhost\r\n").unwrap_or_default()
    }

    fn status(&self, host: &str) -> Option<u16> {
        let answer = self.ask("GET", "/healthz", &format!("Host: {host}\r\n"))?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    fn press(&self, path: &str) -> String {
        let headers = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
        self.ask("POST", path, &headers).unwrap()
    }

    fn wait_until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            assert!(since.elapsed() < TIMEOUT, "timed out waiting until {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens a connection and sends part or all of a request.
    fn begin(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.address.port())).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    fn n_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // It may have exited already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn workplace() -> Workplace {
    let place = Workplace::new();
    fs::create_dir(place.path("jobs")).unwrap();
    write_table(&place.path("jobs/table.parquet"), &texts(&["What is one plus one?"; 3]), 50);
    place
}

/// Opens 300 connections that send `begin` to a service limited to 256 descriptors, and calls
/// `drip` on them periodically. A scheduled job still runs, and the page responds once the first
/// `waited` connections have timed out.
fn withstands(begin: &str, mut drip: impl FnMut(&mut [TcpStream]), waited: usize) {
    let place = workplace();
    let service = Limited::start(&place, "ulimit -n 256", "127.0.0.1:0", &[]);
    // A report larger than the system buffers for an unread connection.
    let report = place.path("jobs/.legenda/reports/99.html");
    fs::File::create(report).unwrap().set_len(8 << 20).unwrap();
    let mut connections: Vec<TcpStream> = (0..300).map(|_| service.begin(begin)).collect();
    let schedule = "[schedule]\ncron = \"* * * * * *\"\n";
    let hook = |event| {
        format!(
            "[[hooks.{event}]]\ncommand = [\"sh\", \"-c\", \"cat > part; mv part told.json\"]\n"
        )
    };
    let hooks = hook("on_success") + &hook("on_failure");
    place.write("jobs/often.toml", &format!("{TEXT_JOB}{schedule}{hooks}"));
    let told = place.path("jobs/told.json");
    service.wait_until("a run has ended", |service| {
        drip(&mut connections);
        assert!(service.n_descriptors() < 192, "{}", service.n_descriptors());
        told.is_file()
    });
    let message = fs::read_to_string(told).unwrap();
    let message: serde_json::Value = serde_json::from_str(&message).unwrap();
    assert_eq!(message["event"], "success", "{message}");
    assert_eq!(message["tries"], 1, "{message}");
    connections.truncate(waited);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| service.status("localhost"));
        while !answer.is_finished() {
            drip(&mut connections);
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(answer.join().unwrap(), Some(200));
    });
}

#[test]
fn half_sent_requests_do_not_starve_others() {
    withstands("GET / HT", |_| {}, 300);
}

#[test]
fn slow_requests_do_not_starve_others() {
    let mut dripped = Instant::now();
    let drip = |connections: &mut [TcpStream]| {
        if dripped.elapsed() > Duration::from_secs(1) {
            dripped = Instant::now();
            for connection in connections {
                // Many are closed by now.
                connection.write_all(b"x").ok();
            }
        }
    };
    withstands("GET / HTTP/1.1\r\nHost: localhost\r\nX-Drip: ", drip, 300);
}

#[test]
fn keep_alive_connections_do_not_starve_others() {
    withstands("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", |_| {}, 300);
}

#[test]
fn endless_bodies_do_not_starve_others() {
    let request = "POST /jobs/often.toml/start HTTP/1.1\r\nHost: localhost\r\n\
                   Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntok";
    withstands(request, |_| {}, 64);
}

#[test]
fn unread_responses_do_not_starve_others() {
    withstands("GET /runs/99/report HTTP/1.1\r\nHost: localhost\r\n\r\n", |_| {}, 64);
}

/// Returns a non-loopback address of this machine, if any.
fn outer_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // No packet is sent: the system only selects the source address.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip().to_string())
}

#[test]
fn requests_with_a_foreign_host_header_are_refused() {
    let place = workplace();
    let local = Limited::start(&place, ":", "127.0.0.1:0", &[]);
    let port = local.address.port();
    for host in ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:1", &format!("127.0.0.1:{port}")] {
        assert_eq!(local.status(host), Some(200), "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "192.0.2.1", "page.example", ""] {
        assert_eq!(local.status(host), Some(421), "{host}");
    }
    let refused = local.ask("GET", "/", "Host: evil.example\r\n").unwrap();
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.lines().count(), 1, "{body}");
    assert!(body.contains("invalid `Host`") && body.contains("--page-host"), "{body}");
    assert!(head.contains("nosniff"), "{head}");
    drop(local);

    let names = ["--page-host", "page.example", "--page-host", "192.0.2.7"];
    let open = Limited::start(&place, ":", "0.0.0.0:0", &names);
    for host in ["localhost", "127.0.0.1:9", "page.example", "Page.Example:80", "192.0.2.7"] {
        assert_eq!(open.status(host), Some(200), "{host}");
    }
    for host in ["evil.example", "x.page.example", "192.0.2.1", "0.0.0.0", ""] {
        assert_eq!(open.status(host), Some(421), "{host}");
    }
    if let Some(address) = outer_address() {
        assert_eq!(open.status(&address), Some(421), "the connection reached a loopback address");
        let mut stream = TcpStream::connect((address.as_str(), open.address.port())).unwrap();
        let request = format!("GET /healthz HTTP/1.0\r\nHost: {address}:9\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
    }
    let wrong = ["schedule", "jobs", "--page-host", "http://page.example"];
    place.run(&wrong).expect(2).stderr_contains(&["--page-host", "without a port"]);
}

/// Returns the environments of the active runs that a service started.
fn environments_of_runs(service: u32) -> Vec<String> {
    let line = format!("PPid:\t{service}\n");
    let read = |dir: &Path, name: &str| {
        String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap_or_default()).into_owned()
    };
    // Between fork and exec, a process has the command line and environment of the service.
    let is_run = |dir: &Path| {
        read(dir, "status").contains(&line) && read(dir, "cmdline").contains("legenda\0run\0")
    };
    let dirs = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let environments = dirs.filter(|dir| is_run(dir)).map(|dir| read(&dir, "environ"));
    // A process that has just exited has an empty environment.
    environments.filter(|environment| !environment.is_empty()).collect()
}

#[test]
fn neither_runs_nor_hooks_receive_the_token() {
    let place = workplace();
    let hook =
        "[[hooks.on_success]]\ncommand = [\"sh\", \"-c\", \"env > env.part; mv env.part env\"]\n";
    place.write("jobs/texts.toml", &format!("{TEXT_JOB}{hook}"));
    let service = Limited::start(&place, "export LEGENDA_TEST_OTHER=kept", "127.0.0.1:0", &[]);
    assert!(service.press("/jobs/texts.toml/start").contains(" 303 "));
    let mut environments = Vec::new();
    service.wait_until("the hook was called", |service| {
        environments.extend(environments_of_runs(service.child.id()));
        place.path("jobs/env").is_file()
    });
    assert!(!environments.is_empty(), "no run was observed");
    environments.push(fs::read_to_string(place.path("jobs/env")).unwrap());
    for environment in environments {
        assert!(environment.contains("LEGENDA_TEST_OTHER=kept"), "{environment}");
        assert!(!environment.contains(TOKEN_ENV) && !environment.contains(TOKEN), "{environment}");
    }
}

#[test]
fn only_token_holders_see_the_text_of_a_broken_job_file() {
    let place = workplace();
    place.write("jobs/broken.toml", "version = 1\nkey = \"AKIA-SECRET\n");
    place.write("jobs/odd.toml", "[task]\nkind = \"AKIA-SECRET\"\n");
    let service = Limited::start(&place, ":", "127.0.0.1:0", &[]);
    for path in ["/", "/jobs/broken.toml", "/jobs/odd.toml", "/metrics"] {
        let page = service.get(path);
        assert!(page.contains(" 200 ") && !page.contains("SECRET"), "{path}: {page}");
        if path != "/metrics" {
            assert!(page.contains("invalid job file") && page.contains("log"), "{path}: {page}");
        }
    }
    let with_token = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    for path in ["/", "/jobs/broken.toml", "/jobs/odd.toml"] {
        let page = service.ask("GET", path, &with_token).unwrap();
        assert!(page.contains("AKIA-SECRET"), "{path}: {page}");
        let other = "Host: localhost\r\nAuthorization: Bearer another\r\n";
        assert!(!service.ask("GET", path, other).unwrap().contains("SECRET"), "{path}");
    }
    // The button on the page.
    assert!(service.get("/jobs/broken.toml").contains("formaction=\"/jobs/broken.toml/problem\""));
    let shown = service.press("/jobs/broken.toml/problem");
    assert!(shown.contains(" 200 ") && shown.contains("AKIA-SECRET"), "{shown}");
    let refused = service.ask("POST", "/jobs/broken.toml/problem", "Host: localhost\r\n").unwrap();
    assert!(refused.contains(" 401 ") && !refused.contains("SECRET"), "{refused}");
}

/// Returns the permissions of a folder and everything in it.
fn modes(dir: &Path) -> Vec<(String, bool, u32)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        found.push((dir.display().to_string(), true, mode(&dir)));
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.push((path.display().to_string(), false, mode(&path)));
            }
        }
    }
    found
}

#[test]
fn the_state_folder_is_private_under_any_umask() {
    let place = workplace();
    place.write("jobs/texts.toml", TEXT_JOB);
    // As an earlier version created it, with open permissions.
    fs::create_dir_all(place.path("jobs/.legenda/reports")).unwrap();
    for dir in ["jobs/.legenda", "jobs/.legenda/reports"] {
        fs::set_permissions(place.path(dir), fs::Permissions::from_mode(0o777)).unwrap();
    }
    for state in ["jobs/.legenda", "new/state"] {
        let service = Limited::start(&place, "umask 000", "127.0.0.1:0", &["--state", state]);
        assert!(service.press("/jobs/texts.toml/start").contains(" 303 "));
        let page = "/runs/1/report";
        service.wait_until("the report exists", |service| service.get(page).contains(" 200 "));
        service.wait_until("the run is done", |service| {
            service.get("/metrics").contains("{job=\"texts.toml\",state=\"done\"} 1")
        });
        let modes = modes(&place.path(state));
        for name in ["lock", "history.db", "history.db-wal", "history.db-shm", "reports/1.html"] {
            assert!(modes.iter().any(|(path, ..)| path.ends_with(name)), "no {name} in {modes:?}");
        }
        for (path, is_dir, mode) in modes {
            assert_eq!(mode, if is_dir { 0o700 } else { 0o600 }, "{path} is {mode:o}");
        }
    }
}
