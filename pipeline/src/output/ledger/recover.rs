//! Recovery when an output is opened: which spans stay, which rows are outstanding.

use std::collections::{HashMap, HashSet};

use legenda_schemas::{
    job::Incremental,
    ledger::{KeptSpan, LedgerEntry, Manifest},
    span::{SourceObject, Span, SpanId},
};

use super::{
    Committed, LedgerError, OpenOutput, Output, Stale, entry_key,
    remainder::{around, row_group},
    sha256,
};

/// The identity key of the row limit. It is not part of the fingerprint, so that a run with another limit
/// resumes.
pub(crate) const LIMIT: &str = "--limit";

/// Returns the file, version and rows of a span, independent of its job.
fn place(span: &Span) -> (&SourceObject, usize, usize, usize) {
    (&span.object, span.row_group, span.row_start, span.n_rows)
}

/// Returns whether every row of the manifest is committed by its job.
pub(super) fn is_whole(plan: &Manifest, entries: &[LedgerEntry]) -> bool {
    let is_from_this_job = || entries.iter().filter(|entry| plan.made(entry));
    let ids: HashSet<&SpanId> = is_from_this_job().map(|entry| &entry.id).collect();
    let spans = around(&plan.spans, is_from_this_job().map(|entry| &entry.span));
    spans.iter().all(|span| ids.contains(&span.id(&plan.fingerprint)))
}

impl Output {
    /// Reads the ledger and resolves interrupted part rewrites.
    pub(super) fn read_settled(&self) -> Result<Vec<LedgerEntry>, LedgerError> {
        let entries = self.files.read_entries()?;
        entries.into_iter().map(|entry| self.settle_rewrite(entry)).collect()
    }

    /// Removes entries to be recomputed, and files without an entry. Returns the manifest without spans that
    /// need no work.
    pub(super) fn recover(
        &self,
        OpenOutput { plan, objects, incremental, stale, .. }: OpenOutput<'_>,
        old: Option<&Manifest>,
        entries: Vec<LedgerEntry>,
    ) -> Result<(Manifest, Committed), LedgerError> {
        let groups: HashSet<_> = plan.spans.iter().map(row_group).collect();
        let is_limited = plan.identity.get(LIMIT).is_some_and(|limit| !limit.is_null());
        let kept_before: HashSet<&SpanId> =
            old.iter().flat_map(|old| &old.kept).map(|kept| &kept.id).collect();
        let there: HashSet<String> =
            self.files.list_tables(self.is_partitioned)?.into_iter().collect();
        let mut committed = Committed::default();
        let mut named = HashSet::new();
        for entry in entries {
            let is_whole = entry.files().all(|file| there.contains(&file.name));
            let is_from_this_job = plan.made(&entry);
            let is_asked = groups.contains(&row_group(&entry.span));
            let stays = || {
                let may_stay =
                    is_from_this_job || stale == Stale::Keep || kept_before.contains(&entry.id);
                // Rows beyond the limit may be needed by a later run.
                let is_behind = is_limited && objects.contains(&entry.span.object);
                may_stay
                    && (is_from_this_job || stale != Stale::Redo)
                    && (is_asked || is_behind || incremental == Incremental::New)
            };
            if !is_whole || !entry.balances() || !stays() {
                // Remove the entry first: a span without an entry is recomputed.
                self.remove(&entry_key(&entry.id))?;
                committed.superseded += 1;
                continue;
            }
            named.extend(entry.files().map(|file| file.name.clone()));
            if is_from_this_job && is_asked {
                committed.entries.insert(entry.id.clone(), entry);
            } else {
                committed.kept.push(entry);
            }
        }
        self.clear_tables(&named)?;
        let done = committed.entries.values().chain(&committed.kept).map(|entry| &entry.span);
        let mut spans = around(&plan.spans, done);
        let kept = || committed.kept.iter().map(|entry| &entry.span);
        // Rows of an older version of a file are not recomputed.
        let as_they_were: HashMap<&str, &SourceObject> =
            kept().map(|span| (&*span.object.path, &span.object)).collect();
        let kept: HashSet<_> = kept().map(place).collect();
        spans.retain(|span| {
            let was = as_they_were.get(&*span.object.path);
            let is_answered =
                kept.contains(&place(span)) || was.is_some_and(|was| **was != span.object);
            !is_answered || committed.entries.contains_key(&span.id(&plan.fingerprint))
        });
        let keep =
            |entry: &LedgerEntry| KeptSpan { id: entry.id.clone(), span: entry.span.clone() };
        let kept = committed.kept.iter().map(keep).collect();
        Ok((Manifest { spans, kept, ..plan.clone() }, committed))
    }

    /// Returns the valid entry of a span whose part rewrite was interrupted.
    fn settle_rewrite(&self, mut entry: LedgerEntry) -> Result<LedgerEntry, LedgerError> {
        let Some(before) = entry.before.take() else { return Ok(entry) };
        for part in &before.parts {
            let bytes = self.files.folder.read(&part.name)?;
            if bytes.is_some_and(|bytes| sha256(&bytes) == part.sha256) {
                entry = *before;
                break;
            }
        }
        let key = entry_key(&entry.id);
        self.files.folder.replace(&key, self.json(&key, &entry)?)?;
        Ok(entry)
    }
}
