//! Fuzz tests: every parser returns a value or an error, and never panics, hangs or loses input.
//! `just fuzz MINUTES` runs each target for that long; otherwise a fixed share runs.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};

use arrow::array::Array;
use legenda_pipeline::{
    guard::quiet_panics,
    media::{audio::decode_audio, image::PendingImage, locate::MediaRoots},
    source::{
        BytesRead, Listed, TableFile,
        cell::{media_cells, template_value, text_cell},
        column::holds_media,
        reader::FileReader,
    },
    store::Folder,
    template::Template,
    verify::verify,
};
use legenda_schemas::job::Job;
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace,
    mutate::{Random, mutated},
    repository, texts, write_table,
};
use serde_json::{Value, json};

use crate::random_column::{any_column, one};

/// The time after which a case counts as hung; on a busy machine an image takes seconds.
const HANG: Duration = Duration::from_secs(60);
/// The number of cases per target unless `LEGENDA_FUZZ_SECONDS` is set.
const SHARE: u64 = 400;

/// Runs cases derived from a seed: `SHARE` of them, or for `LEGENDA_FUZZ_SECONDS`. Prints their
/// number.
fn fuzz(name: &str, mut case: impl FnMut(&mut Random)) {
    static QUIET: OnceLock<()> = OnceLock::new();
    QUIET.get_or_init(quiet_panics);
    let seconds = std::env::var("LEGENDA_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let (start, limit) = (Instant::now(), seconds.map(Duration::from_secs));
    // Long runs start from a different seed each time.
    let origin = limit.map_or(0, |_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_secs() << 24
    });
    let (mut n_cases, mut slowest) = (0, Duration::ZERO);
    while limit.map_or(n_cases < SHARE, |limit| start.elapsed() < limit) {
        let seed = origin + n_cases;
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| case(&mut Random(seed))));
        let took = begun.elapsed();
        assert!(result.is_ok(), "{name}: seed {seed} panics");
        assert!(took < HANG, "{name}: seed {seed} takes {took:?}");
        slowest = slowest.max(took);
        n_cases += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
    let rate = n_cases as f64 / seconds;
    let slowest_ms = slowest.as_millis();
    println!("| {name} | {n_cases} | {seconds:.0} | {rate:.0} | {slowest_ms} |");
}

/// Damages a text in a few places: single characters and whole tokens of its language.
fn damaged_text(text: &str, tokens: &[&str], random: &mut Random) -> String {
    let mut text = if random.below(3) == 0 {
        let other: Vec<u8> = tokens.join(" ").into_bytes();
        String::from_utf8_lossy(&mutated(text.as_bytes(), &other, random)).into_owned()
    } else {
        text.to_owned()
    };
    for _ in 0..=random.below(4) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let place = |random: &mut Random| places.get(random.below(places.len() + 1)).copied();
        let (from, to) = (place(random), place(random));
        let (from, to) = (from.unwrap_or(text.len()), to.unwrap_or(text.len()));
        let range = if random.below(2) == 0 { from..from } else { from.min(to)..from.max(to) };
        if range.len() < 40 {
            text.replace_range(range, one(random, tokens));
        }
    }
    text
}

#[test]
fn job_files() {
    const TOKENS: [&str; 40] = [
        "[task]",
        "[source]",
        "[output]",
        "[limits]",
        "[model]",
        "[generation]",
        "[embedding]",
        "\n",
        "=",
        "\"",
        "'''",
        "{",
        "}",
        "[",
        "]",
        ",",
        ".",
        "#",
        "nan",
        "inf",
        "-1",
        "0",
        "1e400",
        "18446744073709551616",
        "9223372036854775807",
        "true",
        "\"embed\"",
        "kind",
        "memory = \"1GiB\"",
        "memory = \"99999999999999999999GiB\"",
        "error_budget = \"5%\"",
        "error_budget = \"-1%\"",
        "audio_seconds = 0.5",
        "temperature = nan",
        "span_rows = 0",
        "top_p = 0.5",
        "num_beams = 4",
        "version = 1",
        "\u{0}",
        "stop = [\"\"]",
    ];
    let mut seeds = vec![TEXT_JOB.to_owned(), IMAGE_JOB.to_owned()];
    for entry in fs::read_dir(repository().join("jobs/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            seeds.push(fs::read_to_string(path).unwrap());
        }
    }
    // Every key with its default value.
    seeds.push(toml::to_string(&Job::parse(TEXT_JOB, &[]).unwrap()).unwrap());
    fuzz("job file", |random| {
        let seed = &seeds[random.below(seeds.len())];
        let text = damaged_text(seed, &TOKENS, random);
        let Ok(job) = Job::parse(&text, &[]) else { return };
        let written = toml::to_string(&job).unwrap();
        assert_eq!(Job::parse(&written, &[]).unwrap(), job, "{text}");
        drop(job.identity("revision"));
    });
}

/// Replaces one value of a document.
fn damaged_json(value: &mut Value, random: &mut Random) {
    let inside = match value {
        Value::Array(items) if !items.is_empty() && random.below(8) > 0 => {
            let at = random.below(items.len());
            items.get_mut(at)
        }
        Value::Object(fields) if !fields.is_empty() && random.below(8) > 0 => {
            let at = random.below(fields.len());
            fields.values_mut().nth(at)
        }
        _ => None,
    };
    if let Some(inside) = inside {
        return damaged_json(inside, random);
    }
    *value = match random.below(9) {
        0 => Value::Null,
        1 => json!(u64::MAX),
        2 => json!(i64::MIN),
        3 => json!(1.5),
        4 => json!("../../../etc/passwd"),
        5 => json!(""),
        6 => json!([[[]]]),
        7 => json!({"version": 2, "rows": u64::MAX}),
        _ => json!(random.number() % 40),
    };
}

#[test]
fn ledger_files() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["dog?", "cat?", "cow?"]), 10);
    place.write("job.toml", TEXT_JOB);
    drop(place.run(&["run", "job.toml", "--set", "generation.max_new_tokens=1"]).expect(0));
    let out = place.path("out");
    let beside = place.path("out.legenda");
    let ledger = fs::read_dir(beside.join("ledger")).unwrap().next().unwrap().unwrap().path();
    let files = [beside.join("plan.json"), ledger, beside.join("job.json")];
    let intact: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let folder = || Folder::at(&out.to_string_lossy(), Path::new("/")).unwrap();
    assert!(verify(folder()).unwrap().problems.is_empty(), "the undamaged output has problems");
    let write = |path: &Path, bytes: &[u8]| {
        fs::File::create(path).and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
    };
    fuzz("plan and ledger", |random| {
        let at = random.below(files.len());
        let hurt = if random.below(3) == 0 {
            mutated(&intact[at], &intact[0], random)
        } else {
            let mut value: Value = serde_json::from_slice(&intact[at]).unwrap();
            for _ in 0..=random.below(3) {
                damaged_json(&mut value, random);
            }
            serde_json::to_vec(&value).unwrap()
        };
        write(&files[at], &hurt).unwrap();
        // Expect an error, or an output with problems; some damage has no effect.
        drop(verify(folder()));
        drop(
            legenda_pipeline::ledger::OutputFiles::find(folder())
                .and_then(|files| files.read_job()),
        );
        write(&files[at], &intact[at]).unwrap();
    });
}

#[test]
fn cells_of_any_type() {
    fuzz("cells of Arrow arrays", |random| {
        let n = 1 + random.below(12);
        let column = any_column(n, 3, random);
        let start = random.below(column.len());
        // Slice it, as a batch that was cut.
        let column = column.slice(start, column.len() - start);
        for row in 0..column.len() {
            drop(template_value(column.as_ref(), row));
            std::hint::black_box(text_cell(column.as_ref(), row));
            if holds_media(column.data_type()) {
                drop(media_cells(column.as_ref(), row));
            }
        }
    });
}

#[test]
fn templates_and_rows() {
    const TOKENS: [&str; 54] = [
        "* 999999",
        "* 9999",
        "['x' * 9999] * 9999",
        "[text, text]",
        "ns.l",
        "{% set ns.l = ns.l + ns.l %}",
        "{% set ns.l = [ns.l, ns.l] %}",
        "|format(*range(99999))",
        "|map('list')",
        "|pprint",
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "text",
        "row",
        " for ",
        " in ",
        "endfor",
        " if ",
        "else",
        "endif",
        "set ",
        "endset",
        "macro ",
        "endmacro",
        "call ",
        "include ",
        "import ",
        "extends ",
        "block ",
        "raw",
        "endraw",
        "range(9999)",
        "loop.index",
        "|upper",
        "|join",
        "|tojson",
        "|length",
        "|sort",
        "|list",
        ".__class__",
        ".items()",
        "[0]",
        "[::-1]",
        "**",
        "~",
        "99999999999",
        "\"a\"",
        "self",
        "namespace(a=1)",
        "|replace('a', text)",
    ];
    const SEEDS: [&str; 8] = [
        "{% set ns = namespace(l=[text]) %}{% for x in range(9999) %}{{ ns.l }}{% endfor %}",
        "{% set l = [text] %}{% for x in range(99) %}{% set l = l + l %}{{ l|join }}{% endfor %}",
        "{{ text }}",
        "{% for x in row %}{{ x }}{% endfor %}",
        "{% if text %}{{ text|upper }}{% else %}-{% endif %}",
        "{% set a = text ~ row %}{{ a|length }}",
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(text) }}",
        "{{ text[:3] }} {{ row|tojson }} {{ range(3)|list }}",
    ];
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::File::create(secret.path())
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"S3CRET-S3CRET"))
        .unwrap();
    let path = format!("\"{}\"", secret.path().display());
    let mut tokens = TOKENS.to_vec();
    tokens.push(&path);
    fuzz("template and row", |random| {
        let source = damaged_text(one(random, &SEEDS), &tokens, random);
        let row = json!({
            "text": damaged_text("a {{ text }} of {% text %}", &tokens, random),
            "row": [1, "b", null, {"c": i64::MIN}],
        });
        let Ok(template) = Template::compile("task.prompt", &source) else { return };
        if let Ok(prompt) = template.render(row.as_object().unwrap()) {
            assert!(!prompt.contains("S3CRET-S3CRET"), "{source}");
        }
    });
}

#[test]
fn addresses_in_cells() {
    const TOKENS: [&str; 30] = [
        "..",
        "/",
        "//",
        "\\",
        ".",
        "%2e",
        "%2e%2e",
        "%2f",
        "%5c",
        "%00",
        "\0",
        "?",
        "#",
        "@",
        ":",
        "::",
        "file://",
        "memory:///",
        "s3://",
        "https://",
        "http://127.0.0.1/",
        "zip://",
        "~",
        "a.png",
        "in",
        "out",
        "link",
        "secret.png",
        "\u{202e}",
        "\n",
    ];
    const SEEDS: [&str; 8] = [
        "a.png",
        "in/a.png",
        "../out/secret.png",
        "link/secret.png",
        "file:///out/secret.png",
        "memory:///in/a.png",
        "%2e%2e/out/secret.png",
        "https://images.invalid/a.png",
    ];
    let place = Workplace::new();
    for folder in ["in", "out"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    place.write("in/a.png", "open");
    place.write("out/secret.png", "S3CRET");
    #[cfg(unix)]
    std::os::unix::fs::symlink(place.path("out"), place.path("in/link")).unwrap();
    let absolute = place.path("out/secret.png").to_string_lossy().into_owned();
    let mut tokens = TOKENS.to_vec();
    tokens.push(&absolute);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let job = Job::parse(IMAGE_JOB, &[]).unwrap();
    let places = MediaRoots::new(&job.source, &place.path("in")).unwrap();
    let in_folder = place.path("in/table.parquet").to_string_lossy().into_owned();
    fuzz("address in a cell", |random| {
        let cell = damaged_text(one(random, &SEEDS), &tokens, random);
        for table in [in_folder.as_str(), "memory:///in/table.parquet"] {
            let Ok(bytes) = places.read(&cell, table, 100, runtime.handle()) else { continue };
            assert!(table == in_folder && bytes == b"open", "{cell:?} escapes the folder");
        }
    });
}

#[test]
fn pages_of_parquet_files() {
    let place = Workplace::new();
    let path = place.path("table.parquet");
    let words = vec!["a word that is there often"; 3000];
    write_table(&path, &texts(&words), 1000);
    let intact = fs::read(&path).unwrap();
    fuzz("page headers", |random| {
        // The footer stays valid, so the reader trusts it.
        let (head, footer) = intact.split_at(intact.len() - 2000);
        let mut hurt = mutated(head, head, random);
        hurt.resize(head.len(), 0);
        hurt.extend(footer);
        fs::File::create(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &hurt))
            .unwrap();
        let listed = Listed::new(path.to_string_lossy().into_owned(), None);
        let file = TableFile::open(&listed, u64::MAX, &BytesRead::default());
        let Ok(reader) = file.and_then(|file| FileReader::open(&file, &BytesRead::default()))
        else {
            return;
        };
        assert!(reader.object().size_bytes > 0);
        for bytes_max in [0, 1 << 10, 1 << 40] {
            let bounds = reader.row_bounds(0, None, bytes_max);
            assert!(bounds.refused.windows(2).all(|two| two[0].rows.end < two[1].rows.start));
        }
    });
}

#[test]
fn media() {
    let dir = repository().join("tests/torture/seeds");
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut n_panics = 0;
    fuzz("pictures and sounds", |random| {
        let other = &seeds[random.below(seeds.len())];
        let hurt = mutated(&seeds[random.below(seeds.len())], other, random);
        // In a run, the guard catches panics of a decoder.
        let tried = legenda_pipeline::guard::guarded(|| {
            drop(PendingImage::open(&hurt, 64_000_000).and_then(PendingImage::decode));
            drop(decode_audio(hurt.as_slice().into(), 60.0, 64 << 20));
        });
        n_panics += usize::from(tried.is_err());
    });
    println!("pictures and sounds: {n_panics} panics of decoders, caught");
}
