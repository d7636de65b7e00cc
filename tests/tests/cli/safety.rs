//! Tables, bundles and templates cannot reach anything that the job does not allow: no other file,
//! no other host, no secret.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, png, references::bundle, run_command, text_column, texts,
    write_table,
};

/// A server that must not receive connections.
struct Canary {
    address: String,
    n_connections: Arc<AtomicUsize>,
}

impl Canary {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let n_connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&n_connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Relaxed);
                drop(stream);
            }
        });
        Self { address, n_connections }
    }

    fn n_connections(&self) -> usize {
        // Wait for connections in progress.
        std::thread::sleep(std::time::Duration::from_millis(50));
        self.n_connections.load(Relaxed)
    }
}

fn paths(cells: &[String]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| format!("row-{row}")));
    let cells: ArrayRef = Arc::new(StringArray::from_iter_values(cells));
    RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("image", cells)]).unwrap()
}

#[test]
fn media_cells_reach_only_what_the_job_allows() {
    let (place, canary) = (Workplace::new(), Canary::start());
    let outside = Workplace::new();
    fs::create_dir(place.path("tables")).unwrap();
    let write = |path: &Path| {
        fs::File::create(path).and_then(|mut file| std::io::Write::write_all(&mut file, &png(7)))
    };
    write(&place.path("tables/own.png")).unwrap();
    write(&place.path("beside.png")).unwrap();
    write(&outside.path("out.png")).unwrap();
    let out = outside.path("out.png").display().to_string();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&out, place.path("tables/link.png")).unwrap();
        std::os::unix::fs::symlink(outside.path(""), place.path("tables/folder")).unwrap();
    }
    let port = canary.address.rsplit(':').next().unwrap().to_owned();
    let mut refused: Vec<String> = vec![
        "../beside.png".to_owned(),
        "./../beside.png".to_owned(),
        "../tables/../beside.png".to_owned(),
        out.clone(),
        "/etc/passwd".to_owned(),
        format!("file://{out}"),
        format!("file://localhost{out}"),
        format!("FILE://{out}"),
        format!("http://{}/a.png", canary.address),
        format!("http://localhost:{port}/a.png"),
        format!("http://user:word@{}/a.png", canary.address),
        format!("http://2130706433:{port}/a.png"),
        format!("http://0x7f000001:{port}/a.png"),
        format!("http://127.1:{port}/a.png"),
        format!("http://[::ffff:127.0.0.1]:{port}/a.png"),
        format!("https://allowed.invalid\\@{}/a.png", canary.address),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        format!("s3://{}/bucket/a.png", canary.address),
        "ftp://127.0.0.1/a.png".to_owned(),
        "data:image/png;base64,AAAA".to_owned(),
        String::new(),
        "\0".to_owned(),
    ];
    if cfg!(unix) {
        refused.extend(["link.png".to_owned(), "folder/out.png".to_owned()]);
    }
    let mut cells = vec!["own.png".to_owned(), "./own.png".to_owned()];
    cells.extend(refused.clone());
    write_table(&place.path("tables/t.parquet"), &paths(&cells), 100);
    let job = IMAGE_JOB.replace("table.parquet", "tables");
    // Without an allowed host, and with an unrelated one.
    for hosts in ["source.media_hosts=[]", "source.media_hosts=[\"allowed.invalid\"]"] {
        place.write("job.toml", &job);
        let ended = place.run(&["run", "job.toml", "--overwrite", "--set", hosts]).expect(0);
        let line = format!("rows_in {} == answers 2 + rejects {}", cells.len(), refused.len());
        assert!(ended.stdout.contains(&line), "{hosts}: {}", ended.stdout);
        let codes = text_column(&place.rejects("out"), "legenda_code");
        for (cell, code) in refused.iter().zip(codes) {
            let code = code.unwrap();
            // All of them are rejected.
            let expected: &[&str] = match cell.as_str() {
                "" => &["media_empty"],
                cell if cell.starts_with("data:") => &["media_unknown_format"],
                _ => &[
                    "media_path_refused",
                    "media_url_refused",
                    "media_unreadable",
                    "media_not_fetched",
                ],
            };
            assert!(expected.contains(&code.as_str()), "{cell:?}: {code}");
        }
        assert_eq!(canary.n_connections(), 0, "{hosts}: the canary received a connection");
    }
}

#[test]
fn templates_see_only_their_row() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["{{ id }} {% include 'x' %}"]), 10);
    place.write("secret.txt", "S3CRET");
    // Template syntax in a row is plain text.
    place.write("plain.toml", TEXT_JOB);
    drop(place.run(&["run", "plain.toml"]).expect(0));
    for prompt in [
        "{% include \"secret.txt\" %}",
        "{% import \"secret.txt\" as x %}",
        "{% extends \"secret.txt\" %}",
        "{{ text.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ environ('HOME') }}",
        "{{ open('secret.txt').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ debug() }}",
        "{{ env }}",
    ] {
        let job = TEXT_JOB.replace(
            "kind = \"generate\"",
            &format!("kind = \"generate\"\nprompt = '''{prompt}'''"),
        );
        place.write("job.toml", &job);
        let ended = place.run(&["run", "job.toml", "--overwrite", "-vv"]);
        let everything = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!everything.contains("S3CRET"), "{prompt}: {everything}");
        // The template is refused, its row is rejected, or the answer reveals nothing.
        assert!([Some(0), Some(2)].contains(&ended.code), "{prompt}: {everything}");
    }
}

/// Adds a weight to a graph whose data is at `location`. In protobuf, a second `graph` of a message
/// is merged with the first, and its `initializer` appended (onnx.proto).
fn with_external_weight(graph: &[u8], location: &str) -> Vec<u8> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        assert!(length < 128, "the length must fit in one varint byte");
        [&[number << 3 | 2, length], bytes].concat()
    }
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    // Dimensions [1], f32, a name, the external data entry, and the external data location.
    let tensor =
        [&[8, 1, 16, 1][..], &field(8, b"stray"), &field(13, &entry), &[14 << 3, 1]].concat();
    [graph, &field(7, &field(5, &tensor))].concat()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

#[test]
fn bundles_are_read_only_within_their_folder() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["dog?"]), 10);
    place.write("job.toml", TEXT_JOB);
    place.write("secret.bin", "S3CRET00");
    let secret = place.path("secret.bin");
    let intact = bundle("llama");
    let run = |name: &str, code: i32| {
        let model = format!("model.bundle={name}");
        let args = ["run", "job.toml", "--overwrite", "--set", &model];
        place
            .run(&[&args[..], &["--set", "generation.max_new_tokens=1", "-vv"]].concat())
            .expect(code)
    };
    let write = |path: &Path, bytes: &[u8]| {
        fs::File::create(path).and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
    };
    copy_folder(&intact, &place.path("sound"));
    drop(run("sound", 0));
    let graph = fs::read(intact.join("onnx/model.onnx")).unwrap();
    let absolute = secret.display().to_string();
    let locations = [
        "../../secret.bin",
        "../../../../../../etc/passwd",
        "data/../../../secret.bin",
        "/etc/passwd",
        &absolute,
        "*/_ORT_MEM_ADDR_/*",
    ];
    for location in locations {
        copy_folder(&intact, &place.path("bundle"));
        write(&place.path("bundle/onnx/model.onnx"), &with_external_weight(&graph, location))
            .unwrap();
        let told = run("bundle", 2);
        assert!(
            told.stderr.contains("bundle") && !told.stderr.contains("S3CRET"),
            "{location}: {}",
            told.stderr
        );
        fs::remove_dir_all(place.path("bundle")).unwrap();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        // A link out of the folder: a graph, a config, or a file that a graph names.
        for (file, target) in [
            ("onnx/model.onnx", intact.join("onnx/model.onnx")),
            ("config.json", intact.join("config.json")),
            ("tokenizer.json", intact.join("tokenizer.json")),
        ] {
            copy_folder(&intact, &place.path("bundle"));
            fs::remove_file(place.path("bundle").join(file)).unwrap();
            symlink(target, place.path("bundle").join(file)).unwrap();
            run("bundle", 2).stderr_contains(&[file, "resolves outside the bundle"]);
            fs::remove_dir_all(place.path("bundle")).unwrap();
        }
        copy_folder(&intact, &place.path("bundle"));
        write(&place.path("bundle/onnx/model.onnx"), &with_external_weight(&graph, "weights"))
            .unwrap();
        symlink(&secret, place.path("bundle/onnx/weights")).unwrap();
        run("bundle", 2).stderr_contains(&["resolves outside the bundle"]);
        fs::remove_dir_all(place.path("bundle")).unwrap();

        // The links of the Hub's cache lead from a snapshot to its blobs.
        let (blobs, snapshot) = (place.path("hub/blobs"), place.path("hub/snapshots/0123"));
        fs::create_dir_all(&blobs).unwrap();
        copy_folder(&intact, &snapshot);
        for (number, file) in ["onnx/model.onnx", "config.json"].into_iter().enumerate() {
            let blob = blobs.join(number.to_string());
            fs::rename(snapshot.join(file), &blob).unwrap();
            symlink(&blob, snapshot.join(file)).unwrap();
        }
        drop(run("hub/snapshots/0123", 0));
    }
}

#[test]
fn offline_opens_no_connection() {
    let (place, canary) = (Workplace::new(), Canary::start());
    write_table(&place.path("table.parquet"), &texts(&["dog?"]), 10);
    place.write("job.toml", TEXT_JOB);
    let address = format!("http://{}", canary.address);
    let run = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("HF_HOME", place.path("hf")).env_remove("HF_HUB_CACHE");
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, &address);
        }
        command.env("HF_ENDPOINT", &address).env_remove("NO_PROXY").env_remove("no_proxy");
        run_command(&mut command)
    };
    drop(run(&["run", "job.toml", "--offline"]).expect(0));
    let hub = ["--set", "model.bundle=hf://owner/model"];
    let missing = run(&[&["run", "job.toml", "--offline", "--overwrite"], &hub[..]].concat());
    missing.expect(2).stderr_contains(&["--offline"]);
    drop(run(&["check", "job.toml", "--offline"]).expect(0));
    drop(run(&["doctor", "--offline"]).expect(0));
    assert_eq!(canary.n_connections(), 0, "the canary received a connection");
    // A control: without `--offline` the canary receives the Hub requests.
    let asked = run(&[&["check", "job.toml"], &hub[..]].concat());
    assert_ne!(asked.code, Some(0), "{}", asked.stdout);
    assert!(canary.n_connections() > 0, "{}", asked.stderr);
}
