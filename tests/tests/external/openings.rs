//! Outputs opened by DuckDB, Polars and pandas with the commands that a run prints, and subtitles read by
//! parsers from PyPI.

use legenda_tests::python::run_script;

#[test]
fn printed_commands_open_every_format_and_subtitles_are_well_formed() {
    println!("{}", run_script("openings.py", &[]));
}
