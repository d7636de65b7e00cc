//! `docs/reference/exit-codes.md`, generated from the documentation of [`Exit`].

use super::page::assert_current;
use crate::failure::Exit;

const SOURCE: &str = include_str!("../failure.rs");

const ALL: [Exit; 7] = [
    Exit::Done,
    Exit::Internal,
    Exit::Config,
    Exit::ErrorBudget,
    Exit::Resumable,
    Exit::VerifyFailed,
    Exit::Interrupted,
];

const HEAD: &str = "\
# Exit codes

This page is generated from `jobs/src/failure.rs`. Exit codes are an interface: scripts, `legenda schedule` and
Kubernetes rely on them.

| code | meaning |
|---:|---|
";

const FOOT: &str = "
Repeat the same command after 4 and 130. Change something before you repeat it after 2, 3 or 5: the error or its
`hint:` line says what. Code 1 is a defect of the program: report it.

Rejected rows do not change the exit code unless they exceed `limits.error_budget`. To fail on the first reject, set
it to `\"0\"`.
";

#[test]
fn the_page_of_exit_codes_is_up_to_date() {
    let mut page = HEAD.to_owned();
    for exit in ALL {
        let (code, meaning) = documented(exit);
        assert_eq!(code, exit.code().to_string(), "the documentation of {exit:?}");
        page += &format!("| {code} | {meaning} |\n");
    }
    assert_current("reference/exit-codes.md", &(page + FOOT));
}

/// Returns the code and the meaning in the documentation of a variant.
fn documented(exit: Exit) -> (&'static str, String) {
    let mut about = Vec::new();
    for line in SOURCE.lines().map(str::trim) {
        match line.strip_prefix("/// ") {
            Some(text) => about.push(text),
            None if line == format!("{exit:?},") => {
                let (code, first) = about[0].split_once(": ").unwrap();
                return (code, [&[first], &about[1..]].concat().join(" "));
            }
            None => about.clear(),
        }
    }
    panic!("the variant {exit:?} has no documentation")
}
