//! The plan of a run, computed and checked before any row is read.

mod columns;
mod error;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use arrow::datatypes::{Fields, Schema};
use legenda_models::{Bundle, BundleError, EmbeddingInput, grammar::Automaton};
use legenda_schemas::{
    answer::{Form, Member},
    job::{Hooks, Incremental, Job, Output, Source, TaskKind},
    ledger::{LEDGER_VERSION, Manifest, StoredJob},
    span::{Fingerprint, Span},
    table::{self, AnswerKind},
};

use self::columns::{
    carried_columns, check_answer_columns, check_mapped_columns, check_partitions, template_columns,
};
pub use self::error::PlanError;
use crate::{
    base::store::{Folder, StoreFault, fault_of, public_location},
    input::{
        media::DECODERS_VERSION,
        query::{KeptRows, Query},
        source::{
            OpenTable, SourceTable,
            known::{Changed, KnownColumns},
            list_files,
            roots::Roots,
        },
        template::Template,
    },
    output::{
        ledger::{Earlier, LIMIT, LedgerError, OutputFiles},
        sidecar,
    },
};

/// A job that was checked against its table and model.
#[derive(Debug)]
pub struct RunPlan {
    /// The job.
    pub job: Job,
    /// The table.
    pub table: SourceTable,
    /// The index of each source file in input order, by path.
    file_numbers: HashMap<String, usize>,
    query: Option<Query>,
    /// The rows kept by the job's query.
    kept: Option<KeptRows>,
    /// The prompt template.
    pub prompt: Template,
    /// The system prompt template.
    pub system: Option<Template>,
    /// The embedding input, for an `embed` task.
    pub embedding: Option<EmbeddingPlan>,
    /// The form of the answers, unless they are plain text.
    pub answer: Option<Form>,
    /// The columns carried to the answers.
    pub carried: Fields,
    /// The columns to read.
    pub read_columns: Vec<String>,
    /// The columns used by templates.
    pub template_columns: Vec<String>,
    /// The output folder.
    pub output: Folder,
    /// The folders of the source.
    pub(crate) roots: Roots,
    /// Spans and identity, as written to the ledger.
    pub ledger: Manifest,
    /// The model's name, for messages and metadata.
    pub bundle_name: String,
    /// Whether the model reads a prompt.
    pub reads_text: bool,
}

/// The input of an `embed` task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingPlan {
    /// Text, image or audio.
    pub input: EmbeddingInput,
    /// The prefix that the model's prompt puts before every text; may be empty.
    pub prefix: String,
}

/// The part of a table to plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanScope {
    /// The number of rows to process, counted after the query; `None` for all.
    pub limit: Option<u64>,
    /// Ignores the results of earlier runs.
    pub overwrite: bool,
}

impl RunPlan {
    /// Checks `job` against its table and `bundle`; resolves the job's paths against `base_dir`.
    ///
    /// # Errors
    ///
    /// [`PlanError`], which names the key of the job file and the remedy.
    pub fn new(
        job: Job,
        base_dir: &Path,
        bundle: &Bundle,
        scope: PlanScope,
    ) -> Result<Self, PlanError> {
        let PlanScope { limit, overwrite } = scope;
        bundle.supports(job.task.kind)?;
        bundle.supports_speech(&(&job.task).into())?;
        let modalities = bundle.modalities();
        let columns = &job.source.columns;
        for (kind, column, can) in [
            ("image", &columns.image, modalities.image),
            ("audio", &columns.audio, modalities.audio),
        ] {
            if column.is_some() && !can {
                return Err(PlanError::Modality { kind, bundle: bundle.name().to_owned() });
            }
        }
        let embedding = embedding_plan(&job, bundle)?;
        let answer = job.answer.form()?;
        if let Some(form) = &answer {
            Automaton::new(form)?;
        }
        let own_prompt = bundle.default_prompt(job.task.kind).filter(|_| job.task.prompt.is_none());
        let prompt = own_prompt.unwrap_or_else(|| job.prompt_template());
        let prompt = Template::compile("task.prompt", prompt)?;
        let system = job
            .task
            .system
            .as_deref()
            .map(|source| Template::compile("task.system", source))
            .transpose()?;

        let output = Folder::at(&job.output.path, base_dir)?;
        let mut identity = job.identity(bundle.revision());
        let query = Query::of(&job.source, base_dir, &job.limits)?;
        if let Some(tables) = query.as_ref().and_then(Query::tables_identity) {
            identity.insert("source.tables".to_owned(), tables);
        }
        // A run with a different limit resumes from the existing output.
        identity.insert(LIMIT.to_owned(), serde_json::Value::Null);
        let fingerprint = fingerprint(&identity);
        identity.insert(LIMIT.to_owned(), serde_json::json!(limit));
        let Source { paths, format, follow_links, .. } = &job.source;
        let mut listing = list_files(paths, base_dir, *format, *follow_links)?;
        let roots = Roots::from_entries(paths, base_dir);
        if let Some(input) = listing.files.iter().find(|file| file.is_within(&output)) {
            let (output, input) = (output.path_of(""), input.path.clone());
            return Err(PlanError::OutputHoldsInput { output, input });
        }
        let files = OutputFiles::new(output.clone(), job.output.format);
        let Earlier { mut done, known, columns: mut earlier_columns } =
            match files.earlier(&fingerprint) {
                Err(LedgerError::Store(error))
                    if fault_of(&error).is_some_and(StoreFault::is_configuration) =>
                {
                    return Err(PlanError::OutputStore(error));
                }
                // Other unreadable outputs are reported when the output is opened.
                earlier if !overwrite => earlier.unwrap_or_default(),
                _ => Earlier::default(),
            };
        // A limit counts rows across all files.
        if limit.is_some() || job.source.incremental == Incremental::All {
            done.clear();
        }
        if done.is_empty() {
            earlier_columns = KnownColumns::default();
        }
        listing.respell(&known);
        if let Some(sidecars) = &job.output.sidecars
            && let Some(problem) = sidecar::problem_with(&listing.files, sidecars, &roots)
        {
            return Err(PlanError::Sidecars { problem });
        }
        let paths = listing.files.iter().map(|file| file.path.clone());
        let file_numbers = paths.enumerate().map(|(number, path)| (path, number)).collect();
        let mut table = SourceTable::open_as(OpenTable {
            listing,
            done: &done,
            known: &known,
            known_columns: earlier_columns.clone(),
            on_bad_file: job.source.on_bad_file,
            media_bytes_max: job.limits.media_bytes.0,
        })?;
        table.set_types(&job.source.schema)?;
        let mapped = [
            &columns.id,
            &columns.text,
            &columns.messages,
            &columns.image,
            &columns.audio,
            &columns.seed,
        ];
        table.join_alternatives(mapped.into_iter().flatten());
        let bytes_read = table.bytes_read.clone();
        let kept = query.as_ref().map(|query| query.ask(&mut table.files, &bytes_read, limit));
        let kept = kept.transpose()?;
        check_mapped_columns(&job, &table)?;
        let template_columns = template_columns(&job, &table, &prompt, system.as_ref())?;
        let carried = carried_columns(&job, &table)?;
        check_partitions(&job, &carried)?;
        check_answer_columns(answer.as_ref().map(Form::members).unwrap_or_default(), &carried)?;
        let names = carried.iter().map(|field| field.name().as_str());
        if let Some(Changed { column, was, is }) =
            table.known_columns.changed(&earlier_columns, names)
        {
            tracing::warn!(
                column,
                "the column is {was} in committed answers and {is} in new ones, because new files \
                 contain other values; `--overwrite` recomputes all answers"
            );
        }
        let mut read_columns: Vec<String> =
            carried.iter().map(|field| field.name().clone()).collect();
        for name in mapped.into_iter().flatten().chain(&template_columns) {
            if !read_columns.contains(name) {
                read_columns.push(name.clone());
            }
        }

        let mut spans = table.spans(job.output.span_rows, limit.filter(|_| kept.is_none()));
        if let Some(kept) = &kept {
            spans.retain(|span| !kept.of(span).is_empty());
            // Rows beyond the limit belong to a different span, which a run without the limit reads.
            if limit.is_some()
                && let Some(span) = spans.last_mut()
                && let Some(last) = kept.of(span).last()
            {
                let n_rows = usize::try_from(last + 1 - span.file_row_start);
                span.n_rows = n_rows.map_or(span.n_rows, |n_rows| n_rows.min(span.n_rows));
            }
        }
        spans.splice(0..0, table.done.iter().cloned());
        let columns = serde_json::to_value(&table.known_columns).map_err(PlanError::Columns)?;
        let ledger = Manifest {
            version: LEDGER_VERSION,
            fingerprint,
            identity,
            spans,
            kept: Vec::new(),
            columns,
        };
        Ok(Self {
            table,
            file_numbers,
            query,
            kept,
            prompt,
            system,
            embedding,
            answer,
            carried,
            read_columns,
            template_columns,
            output,
            roots,
            ledger,
            bundle_name: bundle.name().to_owned(),
            reads_text: modalities.text,
            job,
        })
    }

    /// Returns the job as written to the output.
    #[must_use]
    pub fn stored_job(&self, base_dir: &Path) -> StoredJob {
        let base_dir = base_dir.canonicalize().unwrap_or_else(|_| base_dir.to_owned());
        let base_dir = base_dir.to_string_lossy().into_owned();
        // A webhook URL may be a secret, and others may be able to read the output.
        let mut job = Job { hooks: Hooks::default(), ..self.job.clone() };
        let Source { paths, tables, .. } = &mut job.source;
        for location in paths.iter_mut().chain(tables.values_mut()) {
            *location = public_location(location);
        }
        StoredJob { version: LEDGER_VERSION, base_dir, job }
    }

    /// Returns the plan for retrying the rejects of the run described by `earlier`. `self` is the plan of
    /// the same job without a row limit; of the keys that decide answers, only `limits` may differ.
    ///
    /// # Errors
    ///
    /// [`PlanError::Retry`], which names the changed keys.
    pub fn retry(self, earlier: Manifest) -> Result<Self, PlanError> {
        let differs = |key: &&String| {
            let may_differ = [LIMIT, "limits"].contains(&key.as_str());
            !may_differ && self.ledger.identity.get(*key) != earlier.identity.get(*key)
        };
        let differing: Vec<String> =
            self.ledger.identity.keys().filter(differs).map(|key| format!("`{key}`")).collect();
        if !differing.is_empty() {
            return Err(PlanError::Retry { differing: differing.join(", ") });
        }
        let (mut table, mut kept) = (self.table, self.kept);
        // Completed files have computed columns too.
        if let Some((query, kept)) = self.query.as_ref().zip(kept.as_mut()) {
            let n_open = table.files.len();
            table = table.with_all_opened()?;
            let bytes_read = table.bytes_read.clone();
            kept.extend(query.ask(&mut table.files[n_open..], &bytes_read, None)?);
        }
        let table = table.with_nothing_done();
        Ok(Self { ledger: earlier, table, kept, ..self })
    }

    /// Returns the index of the file at `path` in input order; for a path that is no longer in the source,
    /// one past the last.
    pub(crate) fn file_number(&self, path: &str) -> usize {
        self.file_numbers.get(path).copied().unwrap_or(self.file_numbers.len())
    }

    /// Returns the rows of a span to read, as ascending positions within the row group.
    #[must_use]
    pub fn rows_of(&self, span: &Span) -> Vec<usize> {
        let Some(kept) = &self.kept else {
            return (span.row_start..span.row_start + span.n_rows).collect();
        };
        let positions = kept.of(span).iter().map(|row| row - span.file_row_start);
        positions
            .filter_map(|row| usize::try_from(row).ok())
            .map(|row| span.row_start + row)
            .collect()
    }

    /// Returns the number of rows to read, completed or not. The query does not run again on completed
    /// files, so for these the number is an upper bound.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        let (done, new) = self.ledger.spans.split_at(self.table.done.len());
        let done: u64 = done.iter().map(|span| span.n_rows as u64).sum();
        done + new.iter().map(|span| self.n_rows_of(span)).sum::<u64>()
    }

    /// Returns the number of rows in the table before the query; `None` without a query.
    #[must_use]
    pub fn rows_of_query(&self) -> Option<u64> {
        self.kept.as_ref()?;
        let groups = self.table.files.iter().flat_map(|file| &file.row_groups);
        let opened: u64 = groups.map(|group| group.n_rows as u64).sum();
        Some(opened + self.table.done.iter().map(|span| span.n_rows as u64).sum::<u64>())
    }

    /// Returns the number of rows to read in a span.
    #[must_use]
    pub fn n_rows_of(&self, span: &Span) -> u64 {
        self.kept.as_ref().map_or(span.n_rows, |kept| kept.of(span).len()) as u64
    }

    /// Returns the name of the answer column.
    #[must_use]
    pub fn answer_column(&self) -> &'static str {
        table::answer_column(self.job.task.kind)
    }

    /// Returns the schema of answers of this kind; the loaded model supplies the embedding dimension.
    #[must_use]
    pub fn answer_schema(&self, kind: AnswerKind) -> Schema {
        let Output { rejects, partition_by, .. } = &self.job.output;
        let is_partitioned = partition_by.is_some();
        let answers = (kind, self.answer_members());
        table::answer_schema(&self.carried, answers, *rejects, is_partitioned, self.metadata())
    }

    /// Returns the columns of a typed answer.
    #[must_use]
    pub fn answer_members(&self) -> &[Member] {
        self.answer.as_ref().map(Form::members).unwrap_or_default()
    }

    /// Returns the reject schema for rows with the columns of `source`.
    #[must_use]
    pub fn reject_schema(&self, source: &Schema) -> Schema {
        table::reject_schema(source, self.metadata())
    }

    /// Returns the digest of everything that decides an answer: job, model and program version.
    #[must_use]
    pub fn answer_fingerprint(&self) -> Fingerprint {
        let mut identity = self.job.answer_identity(self.revision());
        identity.insert("legenda".to_owned(), env!("CARGO_PKG_VERSION").into());
        let columns = &self.job.source.columns;
        if columns.image.is_some() || columns.audio.is_some() {
            identity.insert("decoders".to_owned(), DECODERS_VERSION.into());
        }
        fingerprint(&identity)
    }

    /// Returns the prompt template; empty if the model reads no prompt.
    #[must_use]
    pub fn given_prompt(&self) -> &str {
        if self.reads_text { self.job.prompt_template() } else { "" }
    }

    /// Returns the revision of the model.
    pub(crate) fn revision(&self) -> &str {
        let revision = self.ledger.identity.get("model.revision");
        revision.and_then(|value| value.as_str()).unwrap_or_default()
    }

    fn metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::from([
            ("legenda.model".to_owned(), self.bundle_name.clone()),
            ("legenda.model_revision".to_owned(), self.revision().to_owned()),
            ("legenda.task".to_owned(), self.job.task.kind.as_str().to_owned()),
            ("legenda.prompt".to_owned(), self.given_prompt().to_owned()),
            ("legenda.job_fingerprint".to_owned(), self.ledger.fingerprint.as_str().to_owned()),
        ]);
        if let Some(embedding) = &self.embedding {
            metadata.insert("legenda.embedding_prefix".to_owned(), embedding.prefix.clone());
        }
        metadata
    }
}

/// Determines the input of an `embed` task: the job maps one of text, image and audio.
fn embedding_plan(job: &Job, bundle: &Bundle) -> Result<Option<EmbeddingPlan>, BundleError> {
    if job.task.kind != TaskKind::Embed {
        return Ok(None);
    }
    let columns = &job.source.columns;
    let media = [(&columns.image, EmbeddingInput::Image), (&columns.audio, EmbeddingInput::Audio)];
    if let Some((_, input)) = media.into_iter().find(|(column, _)| column.is_some()) {
        return Ok(Some(EmbeddingPlan { input, prefix: String::new() }));
    }
    let prefix = bundle.embedding_prompt(job.embedding.prompt_name.as_deref())?;
    let prefix = prefix.unwrap_or_default().to_owned();
    Ok(Some(EmbeddingPlan { input: EmbeddingInput::Text, prefix }))
}

fn fingerprint(identity: &BTreeMap<String, serde_json::Value>) -> Fingerprint {
    let lines: Vec<String> = identity.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Fingerprint::from_parts(lines.iter().map(String::as_bytes))
}
