//! Fuzz tests: every parser returns a value or an error, and never panics, hangs or loses input.
//! `just fuzz MINUTES` runs each target for that long; otherwise a fixed share runs.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Date64Array,
        Decimal128Array, Decimal256Array, DictionaryArray, DurationMillisecondArray,
        FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, Float64Array,
        Int8Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, LargeBinaryArray,
        LargeListArray, LargeStringArray, ListArray, MapArray, NullArray, RunArray, StringArray,
        StringViewArray, StructArray, Time32SecondArray, Time64NanosecondArray,
        TimestampMicrosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array,
        UInt64Array, new_null_array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Fields, Int32Type, IntervalMonthDayNano, i256},
};
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

fn one<'a, T: ?Sized>(random: &mut Random, from: &[&'a T]) -> &'a T {
    from[random.below(from.len())]
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

/// Returns a column of `n` rows of a random type; lists and structs nest at most `depth` deep.
fn any_column(n: usize, depth: usize, random: &mut Random) -> ArrayRef {
    let seed = random.number();
    let mut own = Random(seed);
    let mut number = || match own.below(6) {
        0 => i64::MIN,
        1 => i64::MAX,
        2 => 0,
        3 => -1,
        4 => own.number().cast_signed(),
        _ => own.number().cast_signed() >> 40,
    };
    let numbers: Vec<Option<i64>> =
        (0..n).map(|row| Some(number()).filter(|_| (seed >> (row % 60)) & 3 != 0)).collect();
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let ints = || numbers.iter().map(|number| number.map(|number| number as i32));
    let text = |number: i64| match number % 5 {
        0 => String::new(),
        1 => "../../x".to_owned(),
        2 => "https://127.0.0.1/a.png".to_owned(),
        _ => format!("\u{202e}ä{number}\0"),
    };
    let words: Vec<Option<String>> = numbers.iter().map(|number| number.map(text)).collect();
    let bytes = || words.iter().map(|word| word.as_ref().map(String::as_bytes));
    let nulls = || NullBuffer::from_iter(numbers.iter().map(Option::is_some));
    let wide = |of: fn(i64) -> f64| numbers.iter().map(move |number| number.map(of));
    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    let floats = || wide(|number| if number == 0 { f64::NAN } else { number as f64 });
    // Each list has zero to three items.
    let lengths: Vec<usize> = (0..n).map(|_| random.below(4)).collect();
    let n_items = lengths.iter().sum();
    let field =
        |name: &str, of: &ArrayRef| Arc::new(Field::new(name, of.data_type().clone(), true));
    match random.below(if depth == 0 { 30 } else { 37 }) {
        0 => Arc::new(NullArray::new(n)),
        1 => Arc::new(numbers.iter().map(|n| n.map(|n| n > 0)).collect::<BooleanArray>()),
        2 => Arc::new(
            ints().map(|n| n.map(|n| n.to_le_bytes()[0].cast_signed())).collect::<Int8Array>(),
        ),
        3 => Arc::new(
            ints().map(|n| n.and_then(|n| i16::try_from(n % 9999).ok())).collect::<Int16Array>(),
        ),
        4 => Arc::new(ints().collect::<Int32Array>()),
        5 => Arc::new(numbers.iter().copied().collect::<Int64Array>()),
        6 => Arc::new(ints().map(|n| n.map(|n| n.to_le_bytes()[0])).collect::<UInt8Array>()),
        7 => {
            Arc::new(ints().map(|n| n.and_then(|n| u16::try_from(n).ok())).collect::<UInt16Array>())
        }
        8 => Arc::new(ints().map(|n| n.map(i32::cast_unsigned)).collect::<UInt32Array>()),
        9 => Arc::new(numbers.iter().map(|n| n.map(i64::cast_unsigned)).collect::<UInt64Array>()),
        10 => Arc::new(Float16Array::from_iter(floats().map(|n| n.map(half::f16::from_f64)))),
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        11 => Arc::new(floats().map(|n| n.map(|n| n as f32)).collect::<Float32Array>()),
        12 => Arc::new(floats().collect::<Float64Array>()),
        13 => Arc::new(StringArray::from_iter(words.iter().map(Option::as_deref))),
        14 => Arc::new(LargeStringArray::from_iter(words.iter().map(Option::as_deref))),
        15 => Arc::new(StringViewArray::from_iter(words.iter().map(Option::as_deref))),
        16 => Arc::new(BinaryArray::from_iter(bytes())),
        17 => Arc::new(LargeBinaryArray::from_iter(bytes())),
        18 => Arc::new(BinaryViewArray::from_iter(bytes())),
        19 => {
            let of = numbers.iter().map(|n| n.map(|n| n.to_le_bytes()));
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(of, 8).unwrap())
        }
        20 => Arc::new(ints().collect::<Date32Array>()),
        21 => Arc::new(numbers.iter().copied().collect::<Date64Array>()),
        22 => Arc::new(ints().collect::<Time32SecondArray>()),
        23 => Arc::new(numbers.iter().copied().collect::<Time64NanosecondArray>()),
        24 => {
            let zone = one(random, &["UTC", "+14:00", "Europe/Berlin", "nowhere", ""]);
            let stamps: TimestampSecondArray = numbers.iter().copied().collect();
            Arc::new(stamps.with_timezone(zone))
        }
        25 => Arc::new(numbers.iter().copied().collect::<TimestampMicrosecondArray>()),
        26 => Arc::new(numbers.iter().copied().collect::<DurationMillisecondArray>()),
        27 => {
            let of =
                numbers.iter().map(|n| n.map(|n| IntervalMonthDayNano::new(i32::MIN, i32::MAX, n)));
            Arc::new(of.collect::<IntervalMonthDayNanoArray>())
        }
        28 => {
            let of: Decimal128Array = numbers.iter().map(|n| n.map(i128::from)).collect();
            Arc::new(
                of.with_precision_and_scale(38, one(random, &[&-3_i8, &0, &38]).to_owned())
                    .unwrap(),
            )
        }
        29 => {
            let of: Decimal256Array = numbers.iter().map(|n| n.map(i256::from)).collect();
            Arc::new(of.with_precision_and_scale(76, 5).unwrap())
        }
        30 => {
            let items = any_column(n_items, depth - 1, random);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(field("item", &items), offsets, items, Some(nulls())))
        }
        31 => {
            let items = any_column(n_items, depth - 1, random);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(LargeListArray::new(field("item", &items), offsets, items, Some(nulls())))
        }
        32 => {
            let items = any_column(n * 2, depth - 1, random);
            Arc::new(FixedSizeListArray::new(field("item", &items), 2, items, Some(nulls())))
        }
        33 => {
            let names = one(random, &[&["bytes", "path"], &["path", "bytes"], &["a", ""]]);
            let columns: Vec<ArrayRef> =
                names.iter().map(|_| any_column(n, depth - 1, random)).collect();
            let fields: Fields =
                names.iter().zip(&columns).map(|(name, of)| field(name, of)).collect();
            Arc::new(StructArray::new(fields, columns, Some(nulls())))
        }
        34 => {
            let keys = StringArray::from_iter_values((0..n_items).map(|item| format!("k{item}")));
            let columns = vec![Arc::new(keys) as ArrayRef, any_column(n_items, depth - 1, random)];
            let fields: Fields = vec![
                Field::new("key", DataType::Utf8, false),
                Field::new("value", columns[1].data_type().clone(), true),
            ]
            .into();
            let entries = StructArray::new(fields.clone(), columns, None);
            let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(MapArray::new(entry, offsets, entries, Some(nulls()), false))
        }
        35 => {
            let values = any_column(3, 0, random);
            let at =
                |number: Option<i64>| number.map(|number| i32::from(number.to_le_bytes()[0] % 3));
            let keys: Int32Array = numbers.iter().map(|number| at(*number)).collect();
            let dictionary = DictionaryArray::<Int32Type>::try_new(keys, values);
            dictionary
                .map_or_else(|_| new_null_array(&DataType::Int32, n), |of| Arc::new(of) as ArrayRef)
        }
        _ if n == 0 => new_null_array(&DataType::Int32, 0),
        _ => {
            let ends: Int32Array = (1..).take(n).map(Some).collect();
            let values = any_column(n, 0, random);
            let runs = RunArray::<Int32Type>::try_new(&ends, values.as_ref());
            runs.map_or_else(|_| new_null_array(&DataType::Int32, n), |of| Arc::new(of) as ArrayRef)
        }
    }
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
