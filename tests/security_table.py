"""Prints the table of security cases, each with what the test of it said.

    cargo test --release --workspace 2>&1 | python3 tests/security_table.py > docs/security.md

Ends with 1 if a case is not held, or its test did not run.
"""

import re
import sys

# Per class of threat (docs/threats.md): the cases, and the tests that hold them.
CASES: dict[str, list[tuple[str, str]]] = {
    "current directory": [
        (
            "`pip.py`, `site.py`, a package `onnxruntime`, `python3` and `nvidia-smi` in it; "
            "`PATH` with `.` and an empty entry; `PYTHONPATH=.`",
            "nothing_in_the_current_directory_is_executed_or_loaded",
        ),
    ],
    "cache and program folder": [
        (
            "a library, its folder or one above that everybody may write to; links to those",
            "onnx::trust::tests::what_others_may_write_is_not_trusted",
        ),
        (
            "a fetched library of which one byte is changed",
            "nothing_in_the_current_directory_is_executed_or_loaded",
        ),
    ],
    "source folder": [
        (
            "links out of it, by a folder, by a pattern; loops; dangling links",
            "source::listing::tests::links_bear_their_own_names_and_loops_end",
        ),
        (
            "stores of git-annex, DVC and the Hub's cache",
            "links::links_to_where_programs_keep_contents_are_followed",
        ),
        (
            "sidecars and their temporary names that are links, in each mode",
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
            "modes with `umask 000`",
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
            "addresses of private networks, in IPv4 and IPv6",
            "media::web::tests::addresses_of_own_networks_are_told_apart",
        ),
        (
            "redirects of a web table's cells to another server",
            "cells_of_a_web_table_are_followed_within_its_origin",
        ),
        (
            "rows nested 30,000 deep, in JSON Lines, conversations and batch files",
            "what_is_nested_too_deep_costs_its_row",
        ),
        (
            "Parquet columns nested up to a million deep",
            "source::footer::tests::columns_that_are_nested_too_deep_are_an_error",
        ),
    ],
    "query": [
        (
            "`read_parquet` and its kin, in subqueries, joins and `WITH`; thousands of operators",
            "query::sql::tests::queries_that_cannot_choose_rows_are_refused",
        ),
    ],
    "template": [
        ("other files, other rows, attributes", "templates_see_their_row_and_nothing_else"),
        (
            "30,000 operators, filters, brackets, branches; lists that grow",
            "templates_and_queries_without_end_are_one_error",
        ),
    ],
    "bundle": [
        ("links, `..` and absolute paths", "bundles_are_read_within_their_folder_alone"),
        (
            "templates that make gigabytes",
            "template::tests::what_would_take_gigabytes_or_minutes_is_an_error",
        ),
        (
            "tokenizers whose rules multiply a text",
            "processor::tokenizer::tests::rules_that_double_a_text_over_and_over_are_refused",
        ),
        (
            "protobuf that is not canonical",
            "onnx::external::tests::what_other_readers_understand_in_another_way_is_refused",
        ),
    ],
    "network": [
        (
            "user, password, query and fragment of a URL, with `-vv`",
            "what_is_secret_in_a_url_is_stored_and_shown_nowhere",
        ),
        ("the same in cells", "urls_in_cells_are_told_without_what_is_secret"),
        ("no network when offline", "offline_asks_nobody"),
    ],
    "page of the schedule": [
        (
            "300 connections that send half a request",
            "connections_that_send_half_a_request_starve_nobody",
        ),
        (
            "300 connections that send a byte a second",
            "connections_that_send_a_byte_a_second_starve_nobody",
        ),
        (
            "300 connections that are kept alive",
            "connections_that_are_kept_alive_starve_nobody",
        ),
        ("bodies that never end", "bodies_that_never_end_starve_nobody"),
        ("answers that are never read", "answers_that_are_never_read_starve_nobody"),
        ("`Host` of others", "only_hosts_of_the_service_are_answered_to"),
        ("the token in runs and hooks", "neither_runs_nor_hooks_are_given_the_token"),
        (
            "the text of a broken job file",
            "a_broken_job_file_is_quoted_to_token_holders_only",
        ),
    ],
    "other users of the machine": [
        ("the state with `umask 000`", "the_state_is_private_whatever_the_umask"),
    ],
}

HEAD = """# Security cases

What was tried on the program, and whether it held; `just security` makes this table anew. The
classes are those of [threats.md](threats.md).

| class | case | held |
|---|---|---|"""


def results(lines: list[str]) -> dict[str, bool]:
    """Returns what tests said, by their names."""
    told = (re.match(r"test (\S+) \.\.\. (ok|FAILED)", line) for line in lines)
    return {found[1]: found[2] == "ok" for found in told if found}


def main() -> int:
    """Prints the table."""
    found = results(sys.stdin.readlines())
    is_held = True
    print(HEAD)
    for threat, cases in CASES.items():
        for case, test in cases:
            ended = [ok for name, ok in found.items() if f"::{name}".endswith(f"::{test}")]
            held = ("yes" if all(ended) else "NO") if ended else "NOT RUN"
            is_held = is_held and held == "yes"
            print(f"| {threat} | {case} | {held} |")
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
