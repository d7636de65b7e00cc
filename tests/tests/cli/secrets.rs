//! Secrets in URLs are sent to the server but neither stored nor shown; the files of a run are
//! private to its user.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use legenda_tests::{IMAGE_JOB, TEXT_JOB, Workplace, png, texts, write_table};

/// A web server that records its requests.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Maps the path of a request to a response.
type Answers = Box<dyn Fn(&str) -> Answer + Send>;

enum Answer {
    File(Vec<u8>),
    Redirect(String),
    Missing,
}

impl Server {
    fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::default();
        let kept: Arc<Mutex<Vec<String>>> = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                // Ignore clients that disconnect.
                let _ended = answer(stream, &answers, &kept);
            }
        });
        Self { address, asked }
    }

    fn requests(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    answers: &Answers,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut range = None;
    for line in lines {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        let bounds = line.strip_prefix("range: bytes=").and_then(|bounds| bounds.split_once('-'));
        range =
            bounds.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?))).or(range);
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    asked.lock().unwrap().push(path.to_owned());
    let (head, body) = match answers(path) {
        Answer::File(bytes) => match range {
            Some((from, to)) => {
                let to = usize::min(to, bytes.len() - 1);
                let range = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
                (format!("206 Partial Content\r\n{range}"), bytes[from..=to].to_vec())
            }
            None => ("200 OK\r\n".to_owned(), bytes),
        },
        Answer::Redirect(to) => (format!("302 Found\r\nLocation: {to}\r\n"), Vec::new()),
        Answer::Missing => ("404 Not Found\r\n".to_owned(), Vec::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {head}Last-Modified: Mon, 30 Nov 2026 10:00:00 GMT\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

fn bytes_of(place: &Workplace, rows: &RecordBatch) -> Vec<u8> {
    write_table(&place.path("t.parquet"), rows, 8);
    fs::read(place.path("t.parquet")).unwrap()
}

/// Asserts that no file below a folder contains a text.
fn assert_absent_below(folder: &Path, secret: &str) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            assert_absent_below(&entry, secret);
            continue;
        }
        let mut bytes = Vec::new();
        fs::File::open(&entry).unwrap().read_to_end(&mut bytes).unwrap();
        let is_installed = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!is_installed, "{} holds {secret}", entry.display());
    }
}

#[test]
fn url_secrets_are_neither_stored_nor_shown() {
    const SECRET: &str = "s3cr3t";
    let place = Workplace::new();
    let table = bytes_of(&place, &texts(&["dog?", "", "cow?"]));
    let server = Server::start(Box::new(move |path| match path {
        "/t.parquet?sig=s3cr3t&x=1" => Answer::File(table.clone()),
        _ => Answer::Missing,
    }));
    let url = format!("http://me:s3cr3t@{}/t.parquet?sig=s3cr3t&x=1#s3cr3t", server.address);
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", &url));
    let ran = place.run(&["-vv", "run", "job.toml"]).expect(0);
    assert!(ran.stdout.contains("rows_in 3 == answers 2 + rejects 1"), "{}", ran.stdout);
    let name = format!("http://{}/t.parquet", server.address);
    let plan = fs::read_to_string(place.path("out.legenda/plan.json")).unwrap();
    assert!(plan.contains(&name), "{plan}");
    for told in [&ran.stdout, &ran.stderr] {
        assert!(!told.contains(SECRET), "{told}");
    }
    assert_absent_below(&place.path("out"), SECRET);
    assert_absent_below(&place.path("out.legenda"), SECRET);
    // A run with the same URL, or with another signature of it, resumes the output.
    let again = place.run(&["run", "job.toml"]).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    // Errors do not show the secret either.
    let missing = url.replace("x=1", "x=2");
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", &missing));
    let failed = place.run(&["-vv", "run", "job.toml", "--overwrite"]).expect(2);
    assert!(failed.stderr.contains(&name) && !failed.stderr.contains(SECRET), "{}", failed.stderr);
}

#[test]
fn urls_in_cells_are_shown_without_secrets() {
    let place = Workplace::new();
    let ids = StringArray::from_iter_values((0..4).map(|row| format!("row-{row}")));
    let cells: ArrayRef = Arc::new(StringArray::from(vec![
        "https://me:s3cr3t@images.invalid/a.png",
        "https://images.invalid/a.png?sig=s3cr3t#s3cr3t",
        "https://other.invalid/a.png?sig=s3cr3t",
        "https://images.invalid/a.zip?sig=s3cr3t::b.png",
    ]));
    let rows = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("image", cells)]);
    write_table(&place.path("table.parquet"), &rows.unwrap(), 8);
    let hosts = "source.media_hosts=[\"images.invalid\"]";
    place.write("job.toml", IMAGE_JOB);
    for hosts in [&[][..], &["--set", hosts]] {
        let run = [&["-vv", "run", "job.toml", "--overwrite"], hosts].concat();
        let ran = place.run(&run).expect(0);
        assert!(ran.stdout.contains("+ rejects 4"), "{}", ran.stdout);
        assert!(!ran.stderr.contains("s3cr3t"), "{}", ran.stderr);
        let rejects = place.rejects("out");
        for message in legenda_tests::text_column(&rejects, "legenda_message") {
            assert!(!message.unwrap().contains("s3cr3t"));
        }
    }
}

#[test]
fn cells_of_a_web_table_are_resolved_only_within_its_origin() {
    let place = Workplace::new();
    let other = Server::start(Box::new(|_| Answer::File(png(3))));
    let elsewhere = format!("http://{}/private.png", other.address);
    let ids = StringArray::from_iter_values((0..4).map(|row| format!("row-{row}")));
    let names = ["a.png", "moved.png", "out.png", "twice.png"];
    let cells: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
    let rows = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("image", cells)]);
    let table = bytes_of(&place, &rows.unwrap());
    let server = Server::start(Box::new(move |path| match path {
        "/data/t.parquet" => Answer::File(table.clone()),
        "/data/a.png" => Answer::File(png(1)),
        "/data/moved.png" => Answer::Redirect("/data/a.png".to_owned()),
        "/data/twice.png" => Answer::Redirect("/data/out.png".to_owned()),
        "/data/out.png" => Answer::Redirect(elsewhere.clone()),
        _ => Answer::Missing,
    }));
    let url = format!("http://{}/data/t.parquet", server.address);
    place.write("job.toml", &IMAGE_JOB.replace("table.parquet", &url));
    let ran = place.run(&["run", "job.toml"]).expect(0);
    assert!(ran.stdout.contains("rows_in 4 == answers 2 + rejects 2"), "{}", ran.stdout);
    assert_eq!(other.requests(), [""; 0], "{:?}", server.requests());
    for message in legenda_tests::text_column(&place.rejects("out"), "legenda_message") {
        assert!(message.unwrap().contains("another host"));
    }
}

#[cfg(unix)]
#[test]
fn rejects_media_and_job_files_are_private_to_their_user() {
    use std::os::unix::fs::PermissionsExt;
    let place = Workplace::new();
    write_table(
        &place.path("table.parquet"),
        &legenda_tests::image_table(&[Some(png(1)), None]),
        8,
    );
    place.write("job.toml", IMAGE_JOB);
    let mode = |name: &str| place.path(name).metadata().unwrap().permissions().mode() & 0o777;
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new("sh");
        let binary = place.command(&[]).get_program().to_owned();
        command.args(["-c", "umask 000; exec \"$0\" \"$@\""]).arg(binary).args(arguments);
        legenda_tests::run_command(command.current_dir(place.path(""))).expect(0)
    };
    drop(run(&["run", "job.toml"]));
    assert_eq!(mode("out.legenda"), 0o700);
    assert_eq!(mode("out"), 0o777, "answers must follow the umask");
    let media = ["--set", "output.columns=[\"id\", \"image\"]", "--set", "output.path=carried"];
    drop(run(&[&["run", "job.toml"], &media[..]].concat()));
    assert_eq!((mode("carried"), mode("carried.legenda")), (0o700, 0o700));
}
