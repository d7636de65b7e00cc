//! The real service over a folder of real jobs: each slot runs once, across shutdowns and kills;
//! its page.

use std::{fs, path::Path};

use legenda_tests::{
    TEXT_JOB, Workplace,
    service::{Service, TOKEN},
    texts, write_table,
};

/// A slot every second; of missed slots only the last one runs.
const EVERY_SECOND: &str = "\n[schedule]\ncron = \"* * * * * *\"\n";

fn workplace(n_rows: usize) -> Workplace {
    let place = Workplace::new();
    fs::create_dir(place.path("jobs")).unwrap();
    let questions: Vec<String> = (0..n_rows).map(|n| format!("What is {n} plus one?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("jobs/table.parquet"), &texts(&questions), 50);
    place
}

/// Returns the numbers that follow `before` in a page.
fn numbers(page: &str, before: &str) -> Vec<u64> {
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
    page.split(before).skip(1).filter_map(|part| digits(part).parse().ok()).collect()
}

fn entries(output: &Path) -> usize {
    fs::read_dir(output.with_extension("legenda").join("ledger"))
        .map_or(0, |entries| entries.count())
}

#[test]
fn slots_run_in_order_across_shutdowns_and_kills_of_the_service() {
    let place = workplace(3);
    place.write("jobs/often.toml", &format!("{TEXT_JOB}{EVERY_SECOND}"));
    let done = |service: &Service| service.n_runs("often.toml", "done");

    let service = Service::start(&place, &[]);
    service.wait_until("two slots are done", |service| done(service) >= 2);
    assert_eq!(service.get("/healthz").body, "ok\n");
    assert_eq!(service.end(), Some(0), "expected a clean shutdown");

    let service = Service::start(&place, &[]);
    let before = done(&service);
    assert!(before >= 2, "the history is lost");
    service.wait_until("a slot is running", |service| service.n_runs("often.toml", "running") == 1);
    service.kill();

    let service = Service::start(&place, &[]);
    service.wait_until("more slots run", |service| done(service) >= before + 2);
    assert_eq!(service.n_runs("often.toml", "failed"), 0);
    let page = service.get("/jobs/often.toml").body;
    let runs = numbers(&page, "data-key=\"run-");
    assert!(runs.len() >= 4 && runs.is_sorted_by(|later, earlier| later > earlier), "{runs:?}");
    let slots: Vec<&str> = page
        .lines()
        .filter(|line| line.contains("data-label=\"Due\"><time datetime=\"20"))
        .collect();
    assert!(page.contains("every second") && page.contains("Times are in UTC."), "{page}");
    assert_eq!(slots.len(), runs.len());
    assert!(slots.is_sorted_by(|later, earlier| later > earlier), "a slot ran twice: {slots:?}");
    // A second service cannot use the same state.
    let second = place.run(&["schedule", "jobs", "--no-page"]).expect(2);
    second.stderr_contains(&["used by another service"]);
    assert_eq!(service.end(), Some(0));
    let verified = place.run(&["verify", "jobs/out"]).expect(0);
    assert!(verified.stdout.contains("answers 3"), "{}", verified.stdout);
}

#[test]
fn a_run_cut_off_by_a_kill_of_the_service_resumes_in_the_same_slot() {
    let place = workplace(1500);
    let job = format!("{TEXT_JOB}[model]\nslots = 2\n");
    place.write("jobs/long.toml", &job);
    let output = place.path("jobs/out");

    let service = Service::start(&place, &[]);
    assert_eq!(service.press("/jobs/long.toml/start").status, 303);
    service.wait_until("spans are committed", |_| entries(&output) >= 4);
    service.wait_until("progress is shown", |service| {
        let page = service.get("/runs/1").body;
        page.contains("<progress") && page.contains(" of 1\u{202f}500 rows")
    });
    let metrics = service.get("/metrics").body;
    assert!(metrics.contains("legenda_schedule_run_rows{job=\"long.toml\",kind=\"planned\"} 1500"));
    service.kill();
    assert!(entries(&output) < 375, "the run finished before the service was killed");

    let service = Service::start(&place, &[]);
    service.wait_until("the run is done", |service| service.n_runs("long.toml", "done") == 1);
    let page = service.get("/runs/1").body;
    assert!(page.contains("cut off: the service ended"), "{page}");
    assert!(page.contains("<dt>rows in the output</dt><dd>1\u{202f}500</dd>"), "{page}");
    assert_eq!(service.get("/runs/2").status, 404, "unexpected second run");
    assert_eq!(service.end(), Some(0));
    assert!(place.run(&["verify", "jobs/out"]).expect(0).stdout.contains("rows_in 1500"));
}

#[test]
fn a_run_can_be_stopped_and_restarted_manually() {
    let place = workplace(600);
    place.write("jobs/long.toml", &format!("{TEXT_JOB}[model]\nslots = 2\n"));
    let service = Service::start(&place, &[]);
    assert_eq!(service.press("/jobs/long.toml/start").status, 303);
    service.wait_until("a span is committed", |_| entries(&place.path("jobs/out")) >= 1);
    assert_eq!(service.press("/runs/1/stop").status, 303);
    service.wait_until("the run is stopped", |service| service.n_runs("long.toml", "stopped") == 1);
    assert_eq!(service.press("/runs/1/stop").status, 409);
    assert_eq!(service.press("/runs/1/retry").status, 303);
    service.wait_until("the run is done", |service| service.n_runs("long.toml", "done") == 1);
    assert_eq!(service.press("/runs/1/retry").status, 409);
    assert_eq!(service.press("/runs/7/retry").status, 404);
    assert_eq!(service.press("/jobs/other.toml/start").status, 404);
}

#[test]
fn an_invalid_job_fails_once_and_calls_its_hook() {
    let place = workplace(3);
    let hook = "[[hooks.on_failure]]\ncommand = [\"sh\", \"-c\", \"cat > told.json\"]\n";
    let job = TEXT_JOB.replace("table.parquet", "nowhere.parquet");
    place.write("jobs/wrong.toml", &format!("{job}{EVERY_SECOND}{hook}"));
    let service = Service::start(&place, &[]);
    service.wait_until("a run failed", |service| service.n_runs("wrong.toml", "failed") >= 1);
    let told = place.path("jobs/told.json");
    let mut message = serde_json::Value::Null;
    service.wait_until("the hook was called", |_| {
        let text = fs::read_to_string(&told).unwrap_or_default();
        serde_json::from_str(&text).map(|read| message = read).is_ok()
    });
    assert_eq!(message["event"], "failure");
    assert_eq!(message["job"], "wrong.toml");
    assert_eq!(message["tries"], 1, "invalid jobs must not be retried");
    assert!(message["message"].as_str().unwrap().contains("nowhere.parquet"), "{message}");
    let page = service.get("/runs/1").body;
    assert!(page.contains("exit code 2") && page.contains("nowhere.parquet"), "{page}");

    // The fixed file is picked up without a restart.
    place.write("jobs/wrong.toml", &format!("{TEXT_JOB}{EVERY_SECOND}"));
    service.wait_until("a run is done", |service| service.n_runs("wrong.toml", "done") >= 1);
}

/// Starts the service with its log in `log`, and waits until the log contains all of `texts`.
fn log_with(place: &Workplace, texts: &[&str]) -> String {
    let log = fs::File::create(place.path("log")).unwrap();
    let mut command = place.command(&["schedule", "jobs", "--no-page"]);
    let mut child = command.stderr(log).spawn().unwrap();
    let start = std::time::Instant::now();
    let found = loop {
        let log = fs::read_to_string(place.path("log")).unwrap();
        let is_late = start.elapsed() > std::time::Duration::from_secs(180);
        if is_late || texts.iter().all(|text| log.contains(text)) {
            break log;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    for text in texts {
        assert!(found.contains(text), "no `{text}` in\n{found}");
    }
    found
}

#[test]
fn the_log_has_an_uncolored_line_for_each_start_end_retry_and_failure() {
    let place = workplace(3);
    place.write("jobs/good.toml", &format!("{TEXT_JOB}{EVERY_SECOND}"));
    let wrong = TEXT_JOB.replace("table.parquet", "nowhere.parquet").replace("\"out\"", "\"no\"");
    place.write("jobs/wrong.toml", &format!("{wrong}{EVERY_SECOND}"));
    // An unreachable store is a transient error.
    let away = TEXT_JOB.replace("table.parquet", "http://127.0.0.1:9/t.parquet");
    let away = away.replace("\"out\"", "\"away\"");
    place.write("jobs/away.toml", &format!("{away}{EVERY_SECOND}retries = 1\nbackoff = \"1s\"\n"));
    let lines = [
        "run done job=\"good.toml\"",
        "run failed job=\"wrong.toml\"",
        "run will be retried job=\"away.toml\"",
    ];
    let log = log_with(&place, &lines);
    assert!(!log.contains('\u{1b}'), "{log}");
    let line = |job: &str, event: &str| {
        let found = log.lines().find(|line| line.contains(event) && line.contains(job));
        found.unwrap_or_else(|| panic!("no line of {job} with `{event}` in\n{log}")).to_owned()
    };
    for job in ["good.toml", "wrong.toml", "away.toml"] {
        let started = line(job, "run started");
        assert!(started.contains("run=") && started.contains("attempt=1"), "{started}");
    }
    let done = line("good.toml", "run done");
    assert!(done.contains("exit=\"0\"") && done.contains("seconds="), "{done}");
    let failed = line("wrong.toml", "run failed");
    assert!(failed.contains("exit=\"2\"") && failed.contains("nowhere.parquet"), "{failed}");
    let retried = line("away.toml", "run will be retried");
    assert!(
        retried.contains("wait_seconds=") && retried.contains("failed to connect"),
        "{retried}"
    );
}

#[test]
fn the_report_of_each_run_is_kept_and_shown_sandboxed() {
    let place = workplace(3);
    place.write("jobs/texts.toml", TEXT_JOB);
    let service = Service::start(&place, &[]);
    assert_eq!(service.press("/jobs/texts.toml/start").status, 303);
    service.wait_until("the run is done", |service| service.n_runs("texts.toml", "done") == 1);
    assert!(service.get("/runs/1").body.contains("href=\"/runs/1/report\""));
    let shown = service.get("/runs/1/report");
    let report = place.path("jobs/out.legenda/report.html");
    assert_eq!(shown.body, fs::read_to_string(&report).unwrap());
    assert!(shown.head.contains("content-security-policy: sandbox; default-src 'none'"));
    // The output has only the report of its last run; the service keeps that of the first.
    let first = shown.body;
    // Two starts within one second are one run, so wait.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(service.press("/jobs/texts.toml/start").status, 303);
    service
        .wait_until("the second run is done", |service| service.n_runs("texts.toml", "done") == 2);
    assert_eq!(service.get("/runs/2/report").body, fs::read_to_string(&report).unwrap());
    assert!(service.get("/runs/2/report").body != first);
    place.remove_output("jobs/out");
    assert_eq!(service.get("/runs/1/report").body, first);
    // A run that failed before it started has no report.
    place.write("jobs/wrong.toml", &TEXT_JOB.replace("table.parquet", "none.parquet"));
    let is_known = |service: &Service| service.get("/").body.contains("wrong.toml");
    service.wait_until("the job is loaded", is_known);
    assert_eq!(service.press("/jobs/wrong.toml/start").status, 303);
    service.wait_until("the run has failed", |service| service.n_runs("wrong.toml", "failed") == 1);
    assert_eq!(service.get("/runs/3/report").status, 404);
    assert!(!service.get("/runs/3").body.contains("/runs/3/report"));
}

#[test]
fn the_page_escapes_text_and_requires_the_token_for_actions() {
    let place = workplace(3);
    let name = "<img src=x onerror=alert(1)>&\".toml";
    place.write(&format!("jobs/{name}"), "version = \"<script>alert(1)</script>\"");
    place.write("jobs/texts.toml", TEXT_JOB);
    let service = Service::start(&place, &[]);
    let page = service.get("/");
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("<img") && !page.body.contains("<script>alert"), "{}", page.body);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let whole = service.ask("GET", "/", &[&bearer], "").body;
    assert!(!whole.contains("<img") && !whole.contains("<script>alert"), "{whole}");
    assert!(whole.contains("&lt;script&gt;alert(1)"), "{whole}");
    assert!(page.head.contains("default-src 'none'") && page.head.contains("nosniff"));
    assert!(
        !page.body.contains(TOKEN) && !page.body.contains("a token"),
        "the page shows the token"
    );
    let link = page.body.split("href=\"/jobs/").find(|part| part.contains("img")).unwrap();
    let link = link.split('"').next().unwrap();
    let odd = service.get(&format!("/jobs/{link}"));
    assert_eq!(odd.status, 200, "{link}");
    assert!(!odd.body.contains("<img"));
    let refused = service.press(&format!("/jobs/{link}/start"));
    assert_eq!(refused.status, 409, "{}", refused.body);

    let form = "Content-Type: application/x-www-form-urlencoded";
    let encoded = "token=a+token+%3Cof%3E+%22tests%22";
    let start = "/jobs/texts.toml/start";
    for (headers, body, expected) in [
        (vec![], "", 401),
        (vec![form], "", 401),
        (vec![form], "token=", 401),
        (vec![form], "token=another", 401),
        (vec!["Authorization: Bearer another"], "", 401),
        (vec!["Authorization: Bearer another", form], encoded, 401),
        (vec!["Sec-Fetch-Site: cross-site", form], encoded, 403),
        (vec!["Host: evil.example", form], encoded, 421),
        (vec![form], encoded, 303),
    ] {
        let answer = service.ask("POST", start, &headers, body);
        assert_eq!(answer.status, expected, "{headers:?} {body}: {}", answer.body);
    }
    assert_eq!(service.ask("GET", start, &[], "").status, 405);
    // A browser gets a page with a way back, and can try again with the token.
    for (method, path, status, link) in [
        ("POST", start, 401, "href=\"/jobs/texts.toml\""),
        ("GET", start, 405, "href=\"/jobs/texts.toml\""),
        ("POST", "/runs/7/stop", 401, "href=\"/runs/7\""),
        ("GET", "/nowhere/%3Cscript%3E", 404, "href=\"/\""),
    ] {
        let answer = service.ask(method, path, &["Accept: text/html", form], "token=another");
        // The template also escapes slashes.
        let body = answer.body.replace("&#x2f;", "/");
        assert_eq!(answer.status, status, "{path}: {body}");
        assert!(
            body.contains(link) && answer.head.contains("default-src 'none'"),
            "{path}: {body}"
        );
        assert!(!body.contains("<script>"), "{path}: {body}");
        let asks = format!("action=\"{path}\"");
        assert_eq!(body.contains(&asks), status == 401, "{path}: {body}");
    }
    for (body, status) in [(encoded, 303), ("token=another", 401)] {
        assert_eq!(service.ask("POST", "/token", &[form], body).status, status);
    }
    assert_eq!(service.ask("GET", "/", &["Host: evil.example"], "").status, 421);
    assert_eq!(service.ask("GET", "/", &["Host: localhost:9"], "").status, 200);
    let long = format!("token={}", "x".repeat(5000));
    assert_eq!(service.ask("POST", start, &[form], &long).status, 401);
    service.wait_until("the single start is done", |service| {
        service.n_runs("texts.toml", "done") == 1
    });
    let page = service.get("/").body;
    assert_eq!(numbers(&page, "data-key=\"run-"), [1], "{page}");
    assert!(page.contains("1 of 2 jobs is failing:"), "{page}");
    assert!(page.contains("Generates text from the texts of table.parquet"), "{page}");
    let metrics = service.get("/metrics");
    assert!(metrics.head.contains("text/plain; version=0.0.4"));
    let broken = "legenda_schedule_job_broken{job=\"<img src=x onerror=alert(1)>&\\\".toml\"} 1";
    assert!(metrics.body.contains(broken), "{}", metrics.body);
    assert!(metrics.body.contains("legenda_schedule_last_run_success{job=\"texts.toml\"} 1"));
}

#[test]
fn startup_errors_are_explained() {
    let place = workplace(3);
    place.run(&["schedule", "nowhere"]).expect(2).stderr_contains(&["nowhere"]);
    let unset = ["schedule", "jobs", "--token-env", "LEGENDA_NO_SUCH_TOKEN"];
    place.run(&unset).expect(2).stderr_contains(&["LEGENDA_NO_SUCH_TOKEN"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.run(&["schedule", "jobs", "--listen", &address]).expect(2).stderr_contains(&["--listen"]);
}
