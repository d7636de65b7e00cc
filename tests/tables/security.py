"""Prints the table of security cases, each with the result of its test.

    cargo test --release --workspace 2>&1 | python3 tests/tables/security.py > docs/security.md

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
            "links::links_into_content_stores_are_followed",
        ),
        (
            "sidecars, and their temporary files, that are links, in each mode",
            "sidecars_are_not_written_through_links",
        ),
        ("sidecars in a linked folder", "sidecars_are_not_written_outside_the_source"),
        ("pipes and devices", "pipes_and_devices_are_skipped_without_blocking"),
    ],
    "output folder": [
        (
            "parts, lock, plan, job, report and folders that are links",
            "parts_locks_and_run_files_are_not_written_through_links",
        ),
        (
            "file modes with `umask 000`",
            "rejects_media_and_job_files_are_private_to_their_user",
        ),
    ],
    "table": [
        (
            "cells with `..`, absolute paths, links, `file://`, other hosts and buckets",
            "media_cells_reach_only_what_the_job_allows",
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
            "cells_of_a_web_table_are_resolved_only_within_its_origin",
        ),
        (
            "rows nested 30,000 levels deep, in JSON Lines, conversations and batch files",
            "too_deeply_nested_values_cost_their_row",
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
            "templates_see_only_their_row",
        ),
        (
            "30,000 operators, filters, brackets, branches; growing lists",
            "oversized_templates_and_queries_are_one_error",
        ),
    ],
    "bundle": [
        ("links, `..` and absolute paths", "bundles_are_read_only_within_their_folder"),
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
            "url_secrets_are_neither_stored_nor_shown",
        ),
        ("the same for URLs in cells", "urls_in_cells_are_shown_without_secrets"),
        ("network access with `--offline`", "offline_opens_no_connection"),
    ],
    "scheduler web page": [
        (
            "300 connections that send half a request",
            "half_sent_requests_do_not_starve_others",
        ),
        (
            "300 connections that send one byte per second",
            "slow_requests_do_not_starve_others",
        ),
        (
            "300 connections that are kept alive",
            "keep_alive_connections_do_not_starve_others",
        ),
        ("request bodies that never end", "endless_bodies_do_not_starve_others"),
        ("responses that are never read", "unread_responses_do_not_starve_others"),
        ("a foreign `Host` header", "requests_with_a_foreign_host_header_are_refused"),
        (
            "the token in the environment of runs and hooks",
            "neither_runs_nor_hooks_receive_the_token",
        ),
        (
            "the text of an invalid job file",
            "only_token_holders_see_the_text_of_a_broken_job_file",
        ),
    ],
    "other users on the machine": [
        ("the state folder with `umask 000`", "the_state_folder_is_private_under_any_umask"),
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
