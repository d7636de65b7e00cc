//! What the cells of a column are like.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use arrow::datatypes::Field;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::medium::Medium;
use crate::{
    media::MediaKind,
    source::{
        column::{holds_bytes, holds_media, is_text},
        conversation::holds_messages,
    },
    store::is_url,
};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// Pictures.
    Pictures,
    /// Sounds.
    Sounds,
    /// Conversations that end with what a user asks.
    Messages,
    /// Texts.
    Texts,
    /// Bytes that begin like nothing that is known.
    Bytes,
    /// Numbers, dates and whatever else prompts can name.
    Values,
    /// Nothing: every cell is null.
    Nothing,
}

/// A column, as its cells in the sample are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnFacts {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: String,
    /// Whether every file has it, with this type.
    pub in_every_file: bool,
    /// Whether there are bytes in it, which are not carried to answers unasked.
    pub has_bytes: bool,
    /// The share of its cells that are null.
    pub null_share: f64,
    /// What it holds.
    pub holds: Holds,
    /// Its pictures or sounds, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaFacts>,
    /// Its texts, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextFacts>,
}

/// The media of a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MediaFacts {
    /// How many there are.
    pub count: u64,
    /// Of these, those that cells name by path or URL.
    pub by_path: u64,
    /// Hosts of the web that cells name.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub hosts: BTreeSet<String>,
    /// Bytes as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Spread>,
    /// Pixels in a row, as headers say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<Spread>,
    /// Rows of pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<Spread>,
    /// How long they sound, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Spread>,
    /// The share whose bytes an earlier one had.
    pub duplicate_share: f64,
    /// The share that would be rejected.
    pub unusable_share: f64,
    /// Why, by the code of the reject.
    pub unusable: BTreeMap<String, Problem>,
}

/// The texts of a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextFacts {
    /// Bytes of a text, in UTF-8.
    pub bytes: Spread,
    /// The share that was there before.
    pub duplicate_share: f64,
    /// The share with white space within, which names and codes do not have.
    pub spaced_share: f64,
}

/// A reason for rejects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How many there are.
    pub count: u64,
    /// The message of the first.
    pub example: String,
}

/// Where numbers lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle; of an even number the lower of the two.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { min, median: values[(values.len() - 1) / 2], max })
    }
}

/// Counts a problem, and keeps the first message.
pub(super) fn count(problems: &mut BTreeMap<String, Problem>, code: &str, n: u64, message: &str) {
    let problem = problems.entry(code.to_owned()).or_default();
    if problem.count == 0 {
        message.clone_into(&mut problem.example);
    }
    problem.count += n;
}

/// Texts that are tried as paths, before a column is taken for one of plain texts.
const TRIED_MAX: usize = 16;
/// The longest path that is tried.
const PATH_BYTES_MAX: usize = 2048;

/// A column that is looked at, cell by cell.
pub(super) struct Look {
    field: Field,
    in_every_file: bool,
    may_be_paths: bool,
    cells: u64,
    nulls: u64,
    /// Texts that were tried as paths, and whether one was.
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

    /// Returns whether cells are to be looked at as media; decided anew for each batch.
    pub(super) fn may_hold_media(&self) -> bool {
        holds_media(self.field.data_type())
            && (holds_bytes(self.field.data_type())
                || (self.may_be_paths && (self.is_path || self.tried < TRIED_MAX)))
    }

    /// Returns whether a text may be a path: without white space at its ends or lines, and with an
    /// extension or a folder.
    pub(super) fn may_be_path(text: &str) -> bool {
        let is_plain = text.len() <= PATH_BYTES_MAX && !text.contains(['\n', '\r', '\0']);
        is_plain && text.trim() == text && text.contains(['/', '.'])
    }

    pub(super) fn add_cell(&mut self, is_null: bool) {
        self.cells += 1;
        self.nulls += u64::from(is_null);
    }

    pub(super) fn add_text(&mut self, text: &str) {
        #[expect(clippy::cast_precision_loss, reason = "a length for people")]
        self.texts.push(text.len() as f64);
        self.texts_seen.insert(Sha256::digest(text).into());
        self.spaced += u64::from(text.trim().contains(char::is_whitespace));
    }

    /// Returns whether cells are to be looked at as conversations.
    pub(super) fn may_hold_messages(&self) -> bool {
        holds_messages(self.field.data_type())
    }

    pub(super) fn add_conversation(&mut self) {
        self.conversations += 1;
    }

    /// Takes in what a cell was found to be, and its path if it had one.
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

    /// Says what was found.
    pub(super) fn facts(self) -> ColumnFacts {
        let of_kind = |kind| self.media.iter().filter(|one| one.kind == Some(kind)).count();
        let (pictures, sounds) = (of_kind(MediaKind::Image), of_kind(MediaKind::Audio));
        let full = self
            .media
            .iter()
            .filter(|one| one.problem.as_ref().is_none_or(|p| p.0 != "media_empty"));
        // Most cells must begin like media: some bytes begin like them by chance.
        let is_media = pictures + sounds > 0 && 2 * (pictures + sounds) >= full.count();
        let data_type = self.field.data_type();
        let full_cells = self.cells - self.nulls;
        let holds = if is_media {
            if pictures >= sounds { Holds::Pictures } else { Holds::Sounds }
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
            let bytes = Spread::of(self.texts.clone())?;
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
            Spread::of(self.media.iter().filter_map(of).collect())
        };
        #[expect(clippy::cast_precision_loss, reason = "a size for people")]
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

#[expect(clippy::cast_precision_loss, reason = "shares are for people")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
