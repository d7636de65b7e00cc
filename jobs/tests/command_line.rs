//! The command line itself. (This test also makes cargo build the binary for the end-to-end tests.)

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::process::Command;

fn legenda(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_legenda")).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn help_lists_every_command_and_exit_code() {
    let (code, text) = legenda(&["--help"]);
    assert_eq!(code, Some(0));
    for word in ["run", "check", "schedule", "models", "doctor", "schema", "Exit codes", "130"] {
        assert!(text.contains(word), "{word}");
    }
}

#[test]
fn unknown_commands_exit_with_2() {
    assert_eq!(legenda(&["walk"]).0, Some(2));
    assert_eq!(legenda(&["run"]).0, Some(2));
}
