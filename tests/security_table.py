"""Prints the table of security cases, each with the result of its test.

    cargo test --release --workspace 2>&1 | python3 tests/security_table.py > docs/security.md

Exits with code 1 if the test of a case failed or did not run.
"""

import re
import sys

# The cases of each threat class (docs/threats.md), and the test of each case.
CASES: dict[str, list[tuple[str, str]]] = {
    "current directory": [
        (
            "`pip.py`, `site.py`, an `onnxruntime` package, `python3` and `nvidia-smi` in it; "
            "`PATH` with `.` and an empty entry; `PYTHONPATH=.`",
            "nothing_in_the_current_directory_is_executed_or_loaded",
        ),
    ],
    "cache and program folder": [
        (
            "a world-writable library, library folder or parent folder; links to them",
            "onnx::trust::tests::files_writable_by_others_are_not_trusted",
        ),
        (
            "a downloaded library with one changed byte",
            "nothing_in_the_current_directory_is_executed_or_loaded",
        ),
    ],
    "source folder": [
        (
            "links that leave it, through a folder or a pattern; loops; dangling links",
            "source::listing::tests::links_bear_their_own_names_and_loops_end",
        ),
        (
            "links into the git-annex and DVC stores and the Hub cache",
            "links::links_to_where_programs_keep_contents_are_followed",
        ),
        (
            "sidecars, and their temporary files, that are links, in each mode",
            "sidecars_are_not_written_through_links",
        ),
        ("sidecars in a linked folder", "sidecars_are_not_written_out_of_the_source"),
        ("pipes and devices", "pipes_and_devices_are_skipped_and_never_waited_for"),
    ],
    "output folder": [
        (
            "parts, lock, plan, job, report and folders that are links",
            "parts_locks_and_books_are_not_written_through_links",
        ),
        (
            "file modes with `umask 000`",
            "what_holds_rejects_media_and_the_job_is_for_its_user_alone",
        ),
    ],
    "table": [
        (
            "cells with `..`, absolute paths, links, `file://`, other hosts and buckets",
            "media_cells_lead_nowhere_but_where_the_job_allows",
        ),
        (
            "keys with `%2e%2e`, `%2f`, backslashes, `//`",
            "media::locate::tests::paths_beside_a_table_in_a_store_go_down_only",
        ),
        ("hosts, schemes and ports", "media::web::tests::only_hosts_of_the_list_are_asked"),
        (
            "private network addresses, in IPv4 and IPv6",
            "media::web::tests::private_addresses_are_detected",
        ),
        (
            "redirects from cells of a web table to another server",
            "cells_of_a_web_table_are_followed_within_its_origin",
        ),
        (
            "rows nested 30,000 levels deep, in JSON Lines, conversations and batch files",
            "what_is_nested_too_deep_costs_its_row",
        ),
        (
            "Parquet columns nested up to a million levels deep",
            "source::footer::tests::columns_that_are_nested_too_deep_are_an_error",
        ),
    ],
    "query": [
        (
            "`read_parquet` and similar functions, in subqueries, joins and `WITH`; "
            "thousands of operators",
            "query::tests::queries_that_cannot_choose_rows_are_refused",
        ),
    ],
    "template": [
        (
            "access to other files, other rows, attributes",
            "templates_see_their_row_and_nothing_else",
        ),
        (
            "30,000 operators, filters, brackets, branches; growing lists",
            "templates_and_queries_without_end_are_one_error",
        ),
    ],
    "bundle": [
        ("links, `..` and absolute paths", "bundles_are_read_within_their_folder_alone"),
        (
            "templates that expand to gigabytes",
            "template::tests::excessive_memory_or_time_is_an_error",
        ),
        (
            "tokenizers whose rules multiply the text",
            "processor::tokenizer::tests::rules_that_grow_a_text_exponentially_are_refused",
        ),
        (
            "non-canonical protobuf",
            "onnx::external::tests::what_other_readers_understand_in_another_way_is_refused",
        ),
    ],
    "network": [
        (
            "user, password, query and fragment of a URL, with `-vv`",
            "what_is_secret_in_a_url_is_stored_and_shown_nowhere",
        ),
        ("the same for URLs in cells", "urls_in_cells_are_told_without_what_is_secret"),
        ("network access with `--offline`", "offline_asks_nobody"),
    ],
    "scheduler web page": [
        (
            "300 connections that send half a request",
            "connections_that_send_half_a_request_starve_nobody",
        ),
        (
            "300 connections that send one byte per second",
            "connections_that_send_a_byte_a_second_starve_nobody",
        ),
        (
            "300 connections that are kept alive",
            "connections_that_are_kept_alive_starve_nobody",
        ),
        ("request bodies that never end", "bodies_that_never_end_starve_nobody"),
        ("responses that are never read", "answers_that_are_never_read_starve_nobody"),
        ("a foreign `Host` header", "only_hosts_of_the_service_are_answered_to"),
        (
            "the token in the environment of runs and hooks",
            "neither_runs_nor_hooks_are_given_the_token",
        ),
        (
            "the text of an invalid job file",
            "a_broken_job_file_is_quoted_to_token_holders_only",
        ),
    ],
    "other users on the machine": [
        ("the state folder with `umask 000`", "the_state_is_private_whatever_the_umask"),
    ],
}

HEAD = """# Security cases

Attacks that the tests run against the program, and whether the tests passed. `just security`
regenerates this table. The classes are those of [threats.md](threats.md).

| class | case | passed |
|---|---|---|"""


def results(lines: list[str]) -> dict[str, bool]:
    """Returns whether each test passed, by test name."""
    matches = (re.match(r"test (\S+) \.\.\. (ok|FAILED)", line) for line in lines)
    return {found[1]: found[2] == "ok" for found in matches if found}


def main() -> int:
    """Prints the table."""
    passed = results(sys.stdin.readlines())
    all_passed = True
    print(HEAD)
    for threat, cases in CASES.items():
        for case, test in cases:
            outcomes = [ok for name, ok in passed.items() if f"::{name}".endswith(f"::{test}")]
            result = ("yes" if all(outcomes) else "NO") if outcomes else "NOT RUN"
            all_passed = all_passed and result == "yes"
            print(f"| {threat} | {case} | {result} |")
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
