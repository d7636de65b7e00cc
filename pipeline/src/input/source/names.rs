//! File and folder names: format detection by extension, and names to skip.

use legenda_schemas::job::SourceFormat;

use super::skipped::SkipReason;
use crate::base::store::BESIDE;

/// The lower-case extensions of each table format. In a mixed folder the first of these formats is read,
/// because images often come with tables that describe them.
pub(super) const TABLES: [(SourceFormat, &[&str]); 5] = [
    (SourceFormat::Parquet, &["parquet", "pq"]),
    (SourceFormat::Arrow, &["arrow", "arrows", "feather", "ipc"]),
    (SourceFormat::Tar, &["tar", "tgz"]),
    (SourceFormat::Jsonl, &["jsonl", "ndjson", "json"]),
    (SourceFormat::Csv, &["csv", "tsv"]),
];

/// The extensions of compression formats, which follow that of the format.
const COMPRESSIONS: [&str; 3] = ["gz", "zst", "zstd"];

/// The lower-case extensions of images, including undecodable formats: each file is a row, and an
/// unsupported one is rejected.
const IMAGES: &[&str] = &[
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "pjpeg", "webp", "gif", "bmp", "dib", "tif",
    "tiff", "avif", "heic", "heif", "hif", "jxl", "jp2", "j2k", "jpx", "ico", "pbm", "pgm", "ppm",
    "pnm", "pam", "tga", "qoi", "psd", "svg", "dds", "exr", "hdr", "dng", "cr2", "cr3", "nef",
    "arw", "orf", "rw2", "raf",
];

/// The lower-case extensions of audio files, and of videos with an audio track.
const AUDIO: &[&str] = &[
    "wav", "wave", "w64", "rf64", "flac", "mp3", "ogg", "oga", "opus", "spx", "m4a", "m4b", "mp4",
    "aac", "aif", "aiff", "aifc", "caf", "au", "snd", "wma", "amr", "ac3", "ape", "wv", "mka",
    "weba", "webm", "mkv", "mov", "m4v", "avi", "3gp",
];

/// Lower-case names of files and folders created by systems and applications.
const SYSTEM: &[&str] = &[
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
];

/// Names of metadata files and folders of Legenda, Spark, Delta Lake and Dask.
const BOOKKEEPING: &[&str] = &[
    "_legenda",
    "_success",
    "_metadata",
    "_common_metadata",
    "_delta_log",
    "_spark_metadata",
    "_temporary",
];

/// Returns the lower-case extension of a name.
fn extension(name: &str) -> Option<String> {
    let (stem, extension) = name.rsplit_once('.')?;
    let has_stem = !stem.is_empty() && !stem.ends_with(['/', '\\']);
    (has_stem && !extension.contains(['/', '\\'])).then(|| extension.to_lowercase())
}

/// Returns the lower-case extension of a name without that of a compression.
pub(super) fn plain_extension(name: &str) -> Option<String> {
    let found = extension(name)?;
    match COMPRESSIONS.contains(&found.as_str()) {
        true => extension(&name[..name.len() - found.len() - 1]),
        false => Some(found),
    }
}

/// Returns whether a file is JSON by its name alone.
pub(super) fn is_json(name: &str) -> bool {
    plain_extension(name).is_some_and(|extension| extension == "json")
}

/// Returns the format of the extension of a name or path.
#[must_use]
pub(crate) fn format_of(name: &str) -> Option<SourceFormat> {
    let extension = extension(name)?;
    let plain = plain_extension(name)?;
    let mut tables = TABLES.into_iter();
    let table = tables.find(|(_, known)| known.contains(&plain.as_str()));
    // Parquet has its own compression.
    let is_read = |format: &SourceFormat| plain == extension || *format != SourceFormat::Parquet;
    table.map(|(format, _)| format).filter(is_read).or_else(|| {
        let is_media = [IMAGES, AUDIO].iter().any(|known| known.contains(&extension.as_str()));
        is_media.then_some(SourceFormat::Media)
    })
}

/// Returns whether a name or path has an image extension.
#[must_use]
pub(crate) fn is_image(name: &str) -> bool {
    extension(name).is_some_and(|extension| IMAGES.contains(&extension.as_str()))
}

/// Returns the skip reason of a file of this name in a folder of another format.
pub(super) fn other_format(name: &str) -> SkipReason {
    extension(name)
        .map_or(SkipReason::NoExtension, |extension| SkipReason::Format(extension.to_uppercase()))
}

/// Returns whether a file of this name may have any format.
pub(super) fn has_extension(name: &str) -> bool {
    extension(name).is_some()
}

/// Returns the skip reason of files or folders of this name in any folder, if there is one.
pub(super) fn skip_reason(name: &str) -> Option<SkipReason> {
    let lower = name.to_lowercase();
    if SYSTEM.contains(&lower.as_str()) {
        return Some(SkipReason::System);
    }
    if BOOKKEEPING.contains(&lower.as_str()) {
        return Some(SkipReason::Bookkeeping);
    }
    name.starts_with('.').then_some(SkipReason::Hidden)
}

/// Returns whether a folder of this name may be the one beside an output.
pub(super) fn is_beside_output(name: &str) -> bool {
    name.ends_with(BESIDE)
}

#[cfg(test)]
mod tests {
    use legenda_schemas::job::SourceFormat;

    use super::{SkipReason, format_of, is_image, other_format, skip_reason};

    #[test]
    fn names_say_what_files_are() {
        let media = Some(SourceFormat::Media);
        for (name, format, image) in [
            ("_DSC0042.JPG", media, true),
            ("photo.jfif", media, true),
            ("photo.jpe", media, true),
            ("IMG_1.HEIC", media, true),
            ("a.avif", media, true),
            ("talk.opus", media, false),
            ("clip.MOV", media, false),
            ("a.b/plain", None, false),
            (".jpg", None, false),
            ("/x/.png", None, false),
            ("t.parquet", Some(SourceFormat::Parquet), false),
            ("notes.txt", None, false),
            ("t.csv.gz", Some(SourceFormat::Csv), false),
            ("t.TAR.zst", Some(SourceFormat::Tar), false),
            ("t.json", Some(SourceFormat::Jsonl), false),
            ("t.parquet.gz", None, false),
            ("a.jpg.gz", None, false),
            (".gz", None, false),
        ] {
            assert_eq!((format_of(name), is_image(name)), (format, image), "{name}");
        }
        assert_eq!(other_format("notes.txt"), SkipReason::Format("TXT".to_owned()));
        assert_eq!(other_format("LICENSE"), SkipReason::NoExtension);
    }

    #[test]
    fn only_names_of_systems_and_books_are_passed_over() {
        for (name, reason) in [
            ("._a.jpg", Some(SkipReason::Hidden)),
            (".git", Some(SkipReason::Hidden)),
            ("Thumbs.db", Some(SkipReason::System)),
            ("_SUCCESS", Some(SkipReason::Bookkeeping)),
            ("_metadata", Some(SkipReason::Bookkeeping)),
            ("_DSC0042.JPG", None),
            ("_album", None),
            ("_metadata.csv", None),
        ] {
            assert_eq!(skip_reason(name), reason, "{name}");
        }
    }
}
