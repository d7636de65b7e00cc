//! `docs/reference/output.md`, generated from the documentation of the schemas of answers and rejects.

use super::page::assert_current;
use crate::{
    flag::Flag,
    job::RejectsMode,
    table::{AnswerKind, answer_fields, reject_schema},
};

const TABLES: &str = include_str!("../table.rs");
const FLAGS: &str = include_str!("../flag.rs");

const HEAD: &str = "\
# Output schema

This page is generated from `schemas/src/table.rs`.

## Answers

`output.path` is a folder of `part-*` files, in Parquet, Arrow IPC or JSON Lines. It contains answers only, in input
order. Each row has the carried columns (`output.columns`), then the answer, then these columns:

";

const INLINE: &str = "
With `output.rejects = \"inline\"`, `legenda_reject_code` and `legenda_reject_message` follow. With
`output.partition_by`, `legenda_row` (`UInt64`), the row index in the input file, follows.

The metadata of each file contains the model, its revision, the prompt and the digest of the job.

## Flags

`legenda_flags` depends only on the input of the row and on the limits of the job. Rows whose answer was reused or
shared have the same flags. Outputs of versions without this column can be resumed; their older parts lack it.

| flag | meaning |
|---|---|
";

const REJECTS: &str = "
## Rejects

Rejects are in `OUT.legenda/rejects/`, in the format of the answers. Each has all columns of the original row, then:

";

const FOOT: &str = "
[Reject codes](reject-codes.md) lists the codes.

## Other files

`OUT.legenda/` also contains the ledger (which parts are committed), the job, the lock and `report.html`. If the
output is a bucket or a mount point, these files are inside it, in `_legenda/`.
";

#[test]
fn the_page_of_the_output_is_up_to_date() {
    let answers = table_before(TABLES, "pub fn answer_fields");
    let rejects = table_before(TABLES, "pub fn reject_schema");
    let flags: String = Flag::ALL.iter().map(|flag| flag_line(*flag)).collect();
    let page = [HEAD, &answers, INLINE, &flags, REJECTS, &rejects, FOOT].concat();
    assert_current("reference/output.md", &page);
    let kinds = [AnswerKind::Text, AnswerKind::Embedding { dimension: 4 }];
    let mut fields: Vec<_> = kinds
        .iter()
        .flat_map(|kind| answer_fields(*kind, &[], RejectsMode::Inline, true))
        .collect();
    let rejects = reject_schema(&arrow::datatypes::Schema::empty(), Default::default());
    fields.extend(rejects.fields().iter().map(|field| field.as_ref().clone()));
    for field in fields {
        assert!(page.contains(&format!("`{}`", field.name())), "{} is undocumented", field.name());
    }
}

/// Returns the Markdown table in the documentation of an item.
fn table_before(source: &str, item: &str) -> String {
    let (before, _) = source.split_once(item).unwrap();
    let lines: Vec<&str> =
        before.lines().rev().skip_while(|line| !line.starts_with("/// |")).collect();
    let table = lines.into_iter().take_while(|line| line.starts_with("/// |"));
    let mut lines: Vec<String> = table.map(|line| format!("{}\n", &line[4..])).collect();
    lines.reverse();
    // Links of rustdoc do not work here.
    lines.concat().replace("[`Flag`](crate::flag::Flag)", "see below")
}

/// Returns the line of the table for a flag, with the documentation of its variant.
fn flag_line(flag: Flag) -> String {
    let mut about = Vec::new();
    for line in FLAGS.lines().map(str::trim) {
        match line.strip_prefix("/// ") {
            Some(text) => about.push(text),
            None if line == format!("{flag:?},") => {
                return format!("| `{}` | {} |\n", flag.as_str(), about.join(" "));
            }
            None => about.clear(),
        }
    }
    panic!("the variant {flag:?} has no documentation")
}
