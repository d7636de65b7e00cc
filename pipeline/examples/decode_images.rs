//! Decodes image files as a run does.
//!
//! ```text
//! cargo run --release -p legenda-pipeline --example decode_images -- PATH...
//! cargo run --release -p legenda-pipeline --example decode_images -- --rounds 5 PATH...
//! ```
//!
//! A path is a file or a folder, which is searched recursively. Prints a line for each file: its path, then
//! its size and the first 16 digits of the SHA-256 of its RGB pixels, or the reject message. With `--rounds`,
//! decodes all files that many times on one thread, and prints images per second of CPU time.

#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use legenda_models::RgbImage;
use legenda_pipeline::{
    guard::{guarded, quiet_panics},
    media::{MediaError, damaged::decode_image, image::PendingImage},
};
use legenda_schemas::job::DamagedMedia;
use sha2::{Digest, Sha256};

const PIXELS_MAX: u64 = 64_000_000;

/// Adds `path`, or every file below it.
fn add_files(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| add_files(entry, files))
}

/// Returns the CPU time of the process in seconds (proc(5), `schedstat`).
fn cpu_seconds() -> io::Result<f64> {
    let text = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    nanoseconds.map(|number| number / 1e9).ok_or_else(|| io::Error::other("no CPU time"))
}

fn describe(bytes: &[u8], damaged_media: DamagedMedia) -> String {
    let decoded = guarded(|| decode_image(bytes, PIXELS_MAX, damaged_media));
    let refused = |error: &MediaError| format!("error\t{}\t{error}", error.code());
    match decoded {
        Ok(Ok(decoded)) => {
            let RgbImage { width, height, pixels } = &decoded.media;
            let digest: String =
                Sha256::digest(pixels)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            let flags: Vec<&str> = decoded.flags.iter().map(|flag| flag.as_str()).collect();
            format!("{width}x{height}\t{digest}\t{}", flags.join(" "))
        }
        Ok(Err(error)) => refused(&error),
        Err(source) => refused(&MediaError::Decoder { kind: "image", source }),
    }
}

fn main() -> io::Result<()> {
    quiet_panics();
    let (mut rounds, mut damaged_media, mut files) = (None, DamagedMedia::Reject, Vec::new());
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().and_then(|text| text.parse::<u32>().ok()),
            "--answer-damaged" => damaged_media = DamagedMedia::Answer,
            path => add_files(Path::new(path), &mut files)?,
        }
    }
    let Some(rounds) = rounds else {
        for path in &files {
            println!("{}\t{}", path.display(), describe(&fs::read(path)?, damaged_media));
        }
        return Ok(());
    };
    let images: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
    let decode = |bytes: &Vec<u8>| PendingImage::open(bytes, PIXELS_MAX)?.decode();
    for round in 1..=rounds {
        let before = cpu_seconds()?;
        let mut n_decoded = 0_u32;
        for bytes in &images {
            n_decoded += u32::from(decode(bytes).is_ok());
        }
        let seconds = cpu_seconds()? - before;
        let rate = f64::from(n_decoded) / seconds;
        println!(
            "round {round}: {n_decoded} images in {seconds:.3} s of CPU time, {rate:.1} per second"
        );
    }
    Ok(())
}
