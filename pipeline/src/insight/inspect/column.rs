//! Statistics of a column.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use arrow::datatypes::Field;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::medium::Medium;
use crate::{
    base::store::is_url,
    input::{
        media::MediaKind,
        source::{
            column::{holds_bytes, holds_media, is_text},
            conversation::holds_messages,
        },
    },
};

/// The content of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// Images.
    #[serde(rename = "pictures")]
    Images,
    /// Audio.
    #[serde(rename = "sounds")]
    Audio,
    /// Conversations that end with a user message.
    Messages,
    /// Texts.
    Texts,
    /// Bytes of an unknown format.
    Bytes,
    /// Numbers, dates and other values usable in prompts.
    Values,
    /// Only nulls.
    Nothing,
}

/// A column as seen in the sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnFacts {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: String,
    /// Whether every file has it with this type.
    pub in_every_file: bool,
    /// Whether it contains bytes, which are not carried to answers by default.
    pub has_bytes: bool,
    /// The share of null cells.
    pub null_share: f64,
    /// The content.
    pub holds: Holds,
    /// Its images or audio, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaFacts>,
    /// Its texts, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextFacts>,
}

/// The media of a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MediaFacts {
    /// The number of media.
    pub count: u64,
    /// The number of media referenced by path or URL.
    pub by_path: u64,
    /// The hosts in URLs.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub hosts: BTreeSet<String>,
    /// The sizes in bytes as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Spread>,
    /// The widths in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<Spread>,
    /// The heights in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<Spread>,
    /// The durations in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Spread>,
    /// The share of duplicates of an earlier cell.
    pub duplicate_share: f64,
    /// The share that would be rejected.
    pub unusable_share: f64,
    /// The reasons by reject code.
    pub unusable: BTreeMap<String, Problem>,
}

/// The texts of a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextFacts {
    /// The sizes in UTF-8 bytes.
    pub bytes: Spread,
    /// The share of duplicates of an earlier cell.
    pub duplicate_share: f64,
    /// The share with inner white space, which names and codes do not have.
    pub spaced_share: f64,
}

/// A reject reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The number of occurrences.
    pub count: u64,
    /// The message of the first occurrence.
    pub example: String,
}

/// The distribution of a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The minimum.
    pub min: f64,
    /// The median; the lower one for an even count.
    pub median: f64,
    /// The maximum.
    pub max: f64,
}

impl Spread {
    fn from_values(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { min, median: values[(values.len() - 1) / 2], max })
    }
}

/// Counts a problem and keeps its first message.
pub(super) fn count(problems: &mut BTreeMap<String, Problem>, code: &str, n: u64, message: &str) {
    let problem = problems.entry(code.to_owned()).or_default();
    if problem.count == 0 {
        message.clone_into(&mut problem.example);
    }
    problem.count += n;
}

/// The number of texts to try as paths before a column is considered plain text.
const TRIED_MAX: usize = 16;
/// The maximum length of a path to try.
const PATH_BYTES_MAX: usize = 2048;

/// A column being inspected cell by cell.
pub(super) struct Look {
    field: Field,
    in_every_file: bool,
    may_be_paths: bool,
    cells: u64,
    nulls: u64,
    /// The number of texts tried as paths, and whether one was.
    tried: usize,
    is_path: bool,
    texts: Vec<f64>,
    texts_seen: HashSet<[u8; 32]>,
    spaced: u64,
    conversations: u64,
    media: Vec<Medium>,
    by_path: u64,
    hosts: BTreeSet<String>,
}

impl Look {
    pub(super) fn new(field: &Field, in_every_file: bool, may_be_paths: bool) -> Self {
        Self {
            field: field.clone(),
            in_every_file,
            may_be_paths,
            cells: 0,
            nulls: 0,
            tried: 0,
            is_path: false,
            texts: Vec::new(),
            texts_seen: HashSet::new(),
            spaced: 0,
            conversations: 0,
            media: Vec::new(),
            by_path: 0,
            hosts: BTreeSet::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.field.name()
    }

    pub(super) fn is_text(&self) -> bool {
        is_text(self.field.data_type())
    }

    /// Returns whether to inspect cells as media; decided for each batch.
    pub(super) fn may_hold_media(&self) -> bool {
        holds_media(self.field.data_type())
            && (holds_bytes(self.field.data_type())
                || (self.may_be_paths && (self.is_path || self.tried < TRIED_MAX)))
    }

    /// Returns whether a text can be a path: it has no leading or trailing white space and no line breaks,
    /// and has an extension or a folder.
    pub(super) fn may_be_path(text: &str) -> bool {
        let is_plain = text.len() <= PATH_BYTES_MAX && !text.contains(['\n', '\r', '\0']);
        is_plain && text.trim() == text && text.contains(['/', '.'])
    }

    pub(super) fn add_cell(&mut self, is_null: bool) {
        self.cells += 1;
        self.nulls += u64::from(is_null);
    }

    pub(super) fn add_text(&mut self, text: &str) {
        #[expect(clippy::cast_precision_loss, reason = "display only")]
        self.texts.push(text.len() as f64);
        self.texts_seen.insert(Sha256::digest(text).into());
        self.spaced += u64::from(text.trim().contains(char::is_whitespace));
    }

    /// Returns whether to inspect cells as conversations.
    pub(super) fn may_hold_messages(&self) -> bool {
        holds_messages(self.field.data_type())
    }

    pub(super) fn add_conversation(&mut self) {
        self.conversations += 1;
    }

    /// Adds an inspected cell with its path, if any.
    pub(super) fn add_medium(&mut self, medium: Medium, path: Option<&str>) {
        if let Some(path) = path {
            self.tried += 1;
            self.is_path |= medium.kind.is_some();
            self.by_path += 1;
            let url =
                Some(path).filter(|path| is_url(path)).and_then(|it| url::Url::parse(it).ok());
            if let Some(url) = url.filter(|url| url.scheme().starts_with("http")) {
                self.hosts.extend(url.host_str().map(str::to_owned));
            }
        }
        self.media.push(medium);
    }

    /// Returns the statistics.
    pub(super) fn facts(self) -> ColumnFacts {
        let count_kind = |kind| self.media.iter().filter(|one| one.kind == Some(kind)).count();
        let (n_images, n_audio) = (count_kind(MediaKind::Image), count_kind(MediaKind::Audio));
        let full = self
            .media
            .iter()
            .filter(|one| one.problem.as_ref().is_none_or(|p| p.0 != "media_empty"));
        // Require most cells to look like media, because some bytes do by chance.
        let is_media = n_images + n_audio > 0 && 2 * (n_images + n_audio) >= full.count();
        let data_type = self.field.data_type();
        let full_cells = self.cells - self.nulls;
        let holds = if is_media {
            if n_images >= n_audio { Holds::Images } else { Holds::Audio }
        } else if self.nulls == self.cells {
            Holds::Nothing
        } else if 2 * self.conversations > full_cells {
            Holds::Messages
        } else if self.is_text() {
            Holds::Texts
        } else if holds_bytes(data_type) {
            Holds::Bytes
        } else {
            Holds::Values
        };
        let texts = (holds == Holds::Texts).then(|| {
            let n_texts = self.texts.len() as u64;
            let duplicates = n_texts - self.texts_seen.len() as u64;
            let duplicate_share = share(duplicates, n_texts);
            let spaced_share = share(self.spaced, n_texts);
            let bytes = Spread::from_values(self.texts.clone())?;
            Some(TextFacts { bytes, duplicate_share, spaced_share })
        });
        ColumnFacts {
            name: self.field.name().clone(),
            data_type: data_type.to_string(),
            in_every_file: self.in_every_file,
            has_bytes: holds_bytes(data_type),
            null_share: share(self.nulls, self.cells),
            holds,
            texts: texts.flatten(),
            media: is_media.then(|| self.media_facts()),
        }
    }

    fn media_facts(&self) -> MediaFacts {
        let mut unusable = BTreeMap::new();
        for (code, message) in self.media.iter().filter_map(|one| one.problem.as_ref()) {
            count(&mut unusable, code, 1, message);
        }
        let digests: Vec<[u8; 32]> =
            self.media.iter().filter(|one| one.bytes > 0).filter_map(|one| one.digest).collect();
        let distinct: HashSet<&[u8; 32]> = digests.iter().collect();
        let n_media = self.media.len() as u64;
        let spread = |of: &dyn Fn(&Medium) -> Option<f64>| {
            Spread::from_values(self.media.iter().filter_map(of).collect())
        };
        #[expect(clippy::cast_precision_loss, reason = "display only")]
        let bytes = |one: &Medium| one.digest.map(|_| one.bytes as f64);
        MediaFacts {
            count: n_media,
            by_path: self.by_path,
            hosts: self.hosts.clone(),
            bytes: spread(&bytes),
            width: spread(&|one| Some(one.size?.0)),
            height: spread(&|one| Some(one.size?.1)),
            seconds: spread(&|one| one.seconds),
            duplicate_share: share((digests.len() - distinct.len()) as u64, digests.len() as u64),
            unusable_share: share(unusable.values().map(|one| one.count).sum(), n_media),
            unusable,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
