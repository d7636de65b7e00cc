//! Proposes a job for a table, on the embedded model.

use std::fmt::Write;

use legenda_schemas::{
    job::{Columns, SourceFormat, TaskKind},
    table::{RESERVED_PREFIX, answer_column},
};

use super::{ColumnFacts, Holds, Inspection};

/// Names of columns with prompts.
const REQUESTS: [&str; 5] = ["question", "prompt", "instruction", "query", "request"];
/// Names of columns with row ids.
const IDS: [&str; 8] = ["id", "__key__", "key", "uuid", "guid", "uid", "file_name", "name"];
/// Suffixes of other id columns.
const ID_ENDS: [&str; 3] = ["_id", "-id", " id"];

/// A proposed job.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal<'a> {
    /// The task.
    pub task: TaskKind,
    text: Option<&'a ColumnFacts>,
    messages: Option<&'a ColumnFacts>,
    image: Option<&'a ColumnFacts>,
    audio: Option<&'a ColumnFacts>,
    id: Option<&'a ColumnFacts>,
    /// The columns to carry, if not all can be.
    carried: Option<Vec<&'a str>>,
}

impl<'a> Proposal<'a> {
    /// Proposes a job; `None` if no column is usable as model input.
    #[must_use]
    pub fn from_inspection(inspection: &'a Inspection) -> Option<Self> {
        let image = best(inspection, Holds::Images);
        let audio = best(inspection, Holds::Audio);
        let request = request(inspection);
        let messages = common(inspection).find(|column| column.holds == Holds::Messages);
        let n = |column: Option<&ColumnFacts>| column.map_or(0, |column| usable(column).1);
        let (task, text, image, audio) = match (image, audio, request) {
            (None, None, None) if messages.is_some() => (TaskKind::Generate, None, None, None),
            (None, None, _) => {
                let text = request.or_else(|| longest(inspection))?;
                (TaskKind::Generate, Some(text), None, None)
            }
            (image, audio, Some(text)) => (TaskKind::Answer, Some(text), image, audio),
            _ if n(image) >= n(audio) => (TaskKind::Caption, None, image, None),
            _ => (TaskKind::Transcribe, None, None, audio),
        };
        let messages = messages.filter(|_| text.is_none() && image.is_none() && audio.is_none());
        Some(Self::new(inspection, task, [text, messages, image, audio]))
    }

    /// Proposes a job for `task`; `None` if no column is usable for it. A question and an embedding take
    /// images, else audio, else text.
    #[must_use]
    pub fn for_task(inspection: &'a Inspection, task: TaskKind) -> Option<Self> {
        let image = best(inspection, Holds::Images);
        let audio = best(inspection, Holds::Audio);
        let inputs = match task {
            TaskKind::Caption => [None, None, Some(image?), None],
            TaskKind::Transcribe => [None, None, None, Some(audio?)],
            TaskKind::Answer | TaskKind::Generate | TaskKind::Embed => match (image, audio) {
                (Some(image), _) => [None, None, Some(image), None],
                (None, Some(audio)) => [None, None, None, Some(audio)],
                (None, None) => {
                    let text = longest(inspection).or_else(|| request(inspection))?;
                    [Some(text), None, None, None]
                }
            },
        };
        Some(Self::new(inspection, task, inputs))
    }

    fn new(
        inspection: &'a Inspection,
        task: TaskKind,
        [text, messages, image, audio]: [Option<&'a ColumnFacts>; 4],
    ) -> Self {
        let is_id = |column: &&ColumnFacts| {
            let is_unique = column.texts.as_ref().is_none_or(|texts| texts.duplicate_share == 0.0);
            is_id_name(column) && is_unique && column.null_share == 0.0 && column.media.is_none()
        };
        let id = common(inspection).filter(|column| !column.has_bytes).find(is_id);
        let is_free = |column: &&ColumnFacts| {
            column.name != answer_column(task) && !column.name.starts_with(RESERVED_PREFIX)
        };
        let plain = || inspection.columns.iter().filter(|column| !column.has_bytes);
        let fits = |column: &&ColumnFacts| column.in_every_file && is_free(column);
        let is_odd = |column: &ColumnFacts| {
            column.name == answer_column(task)
                || (!column.in_every_file && !column.name.starts_with(RESERVED_PREFIX))
        };
        let carried = plain()
            .any(is_odd)
            .then(|| plain().filter(fits).map(|column| column.name.as_str()).collect());
        Self { task, text, messages, image, audio, id, carried }
    }

    /// Returns the roles of the columns.
    #[must_use]
    pub fn columns(&self) -> Columns {
        let name = |column: Option<&ColumnFacts>| column.map(|column| column.name.clone());
        Columns {
            id: name(self.id),
            text: name(self.text),
            messages: name(self.messages),
            image: name(self.image),
            audio: name(self.audio),
            seed: None,
        }
    }

    /// Returns the columns to carry to the answers, if not all can be.
    #[must_use]
    pub fn carried(&self) -> Option<Vec<String>> {
        let carried = self.carried.as_ref()?;
        Some(carried.iter().map(|name| (*name).to_owned()).collect())
    }

    /// Writes the proposal as a job file over `paths` with answers at `output`; `format` is set if the paths
    /// do not imply it.
    #[must_use]
    pub fn toml(&self, paths: &[String], format: Option<SourceFormat>, output: &str) -> String {
        let mut text = String::from("version = 1\n\n[task]\n");
        let kind = self.task.as_str();
        let prompt = match self.task {
            TaskKind::Caption => "prompt = \"Describe the picture.\"\n",
            TaskKind::Transcribe => "prompt = \"Write down what is said.\"\n",
            _ => "",
        };
        let paths: Vec<String> = paths.iter().map(|path| quoted(path)).collect();
        let mut lines = vec![
            format!("kind = {}\n{prompt}\n[source]", quoted(kind)),
            format!("paths = [{}]", paths.join(", ")),
        ];
        if let Some(format) = format {
            let format = serde_json::to_string(&format).unwrap_or_default();
            lines.push(format!("format = {format}"));
        }
        let mapped = [
            ("id", self.id),
            ("text", self.text),
            ("messages", self.messages),
            ("image", self.image),
            ("audio", self.audio),
        ];
        let mapped: Vec<String> = mapped
            .into_iter()
            .filter_map(|(key, column)| Some(format!("{key} = {}", quoted(&column?.name))))
            .collect();
        lines.push(format!("columns = {{ {} }}", mapped.join(", ")));
        let media = [self.image, self.audio].into_iter().flatten();
        let hosts = media.filter_map(|column| column.media.as_ref()).flat_map(|facts| &facts.hosts);
        let hosts: Vec<String> = hosts.map(|host| quoted(host)).collect();
        if !hosts.is_empty() {
            lines.push(
                "# Cells contain URLs, which are only fetched from the hosts listed here:"
                    .to_owned(),
            );
            lines.push(format!("# media_hosts = [{}]", hosts.join(", ")));
        }
        lines.push("\n[model]\nbundle = \"legenda-tiny\"   # the embedded model; or a directory, or \"hf://owner/name\"".to_owned());
        lines.push(format!("\n[output]\npath = {}", quoted(output)));
        if let Some(carried) = &self.carried {
            let names: Vec<String> = carried.iter().map(|name| quoted(name)).collect();
            lines.push(format!("columns = [{}]", names.join(", ")));
        }
        for line in lines {
            writeln!(text, "{line}").ok();
        }
        text
    }

    /// Returns a name for the output.
    #[must_use]
    pub fn output_name(&self) -> &'static str {
        match self.task {
            TaskKind::Caption => "captions",
            TaskKind::Transcribe => "transcripts",
            TaskKind::Answer => "answers",
            TaskKind::Generate => "texts",
            TaskKind::Embed => "embeddings",
        }
    }
}

/// Returns the columns that every file has.
fn common(inspection: &Inspection) -> impl Iterator<Item = &ColumnFacts> {
    inspection.columns.iter().filter(|column| column.in_every_file)
}

/// Returns the column with the most usable media of a kind; bytes come before paths.
fn best(inspection: &Inspection, holds: Holds) -> Option<&ColumnFacts> {
    common(inspection).filter(|column| column.holds == holds).max_by_key(|column| usable(column))
}

fn texts(inspection: &Inspection) -> impl Iterator<Item = &ColumnFacts> {
    common(inspection).filter(|column| column.holds == Holds::Texts)
}

/// Returns the column with prompts.
fn request(inspection: &Inspection) -> Option<&ColumnFacts> {
    texts(inspection).find(|column| REQUESTS.contains(&&*column.name.to_lowercase()))
}

/// Returns the column with the longest texts. Prose comes before single words, and both before row ids.
fn longest(inspection: &Inspection) -> Option<&ColumnFacts> {
    let others = texts(inspection).filter(|column| !is_id_name(column) || is_prose(column));
    others.max_by(|a, b| {
        let order = is_prose(a).cmp(&is_prose(b));
        order.then(median(a).total_cmp(&median(b)))
    })
}

fn is_id_name(column: &ColumnFacts) -> bool {
    let name = column.name.to_lowercase();
    IDS.contains(&&*name) || ID_ENDS.iter().any(|end| name.ends_with(end))
}

/// Returns whether the media of a column are bytes, and the number of usable ones.
fn usable(column: &ColumnFacts) -> (bool, u64) {
    let Some(media) = &column.media else { return (false, 0) };
    let unusable: u64 = media.unusable.values().map(|problem| problem.count).sum();
    (column.has_bytes, media.count - unusable)
}

/// Returns whether most texts of a column have several words.
fn is_prose(column: &ColumnFacts) -> bool {
    column.texts.as_ref().is_some_and(|texts| texts.spaced_share >= 0.5)
}

fn median(column: &ColumnFacts) -> f64 {
    column.texts.as_ref().map_or(0.0, |texts| texts.bytes.median)
}

/// Quotes a text as a TOML basic string: JSON escapes are valid in TOML, which additionally requires one
/// for DEL.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
