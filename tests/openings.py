"""Runs the commands that `legenda` prints after a run and an export, and parses subtitles.

Run `python openings.py BINARY` with the packages of `src/python.rs`.
"""

import html
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import srt
import webvtt

ROWS = 40
"""Rows of the table. One has no text and is rejected."""

REFERENCES = Path(__file__).parent / "references"

JOB = """
version = 1
[task]
kind = "{kind}"
[source]
paths = ["table.csv"]
columns = {{ id = "id", text = "question" }}
[model]
bundle = "{model}"
[output]
path = "{path}"
format = "{format}"
span_rows = 7
{options}
"""

READERS = {
    "parquet": {"duckdb", "polars", "pandas"},
    "csv": {"duckdb", "polars", "pandas"},
    "jsonl": {"duckdb", "polars", "pandas"},
    "arrow": {"polars", "pandas"},
}


def run(legenda: str, work_dir: Path, *arguments: str) -> str:
    """Runs the binary and returns what it prints."""
    command = [legenda, *arguments]
    ended = subprocess.run(command, cwd=work_dir, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        sys.exit(f"{command}: {ended.stdout}\n{ended.stderr}")
    return ended.stdout


def open_all(printed: str, n_rows: int) -> set[str]:
    """Runs the commands that open an output, and returns the names of the readers."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    names = set()
    for line in printed.splitlines():
        if not line.startswith("open in "):
            continue
        name, command = line.removeprefix("open in ").split(": ", 1)
        # From another folder, as a user may.
        ended = subprocess.run(
            ["sh", "-c", command],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        counts = [f"({n_rows}, ", f"[{n_rows} rows x", f"{n_rows} rows"]
        if ended.returncode != 0 or not any(count in ended.stdout for count in counts):
            sys.exit(f"{command}\nexit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
        names.add(name)
    return names


def check_tables(legenda: str, work_dir: Path) -> None:
    """Opens outputs and exported files of every format."""
    rows = [f"{n},{'' if n == 3 else f'What is {n}?'},{'ab'[n % 2]}" for n in range(ROWS)]
    (work_dir / "table.csv").write_text("id,question,side\n" + "\n".join(rows) + "\n")
    minilm = REFERENCES / "bundles" / "minilm"
    cases = [("generate", "legenda-tiny", ""), ("embed", minilm, "")]
    cases.append(("generate", "legenda-tiny", 'partition_by = "side"'))
    for number, (kind, model, options) in enumerate(cases):
        for file_format, readers in READERS.items():
            path = f"{file_format} of {number}"
            job = JOB.format(kind=kind, model=model, path=path, format=file_format, options=options)
            (work_dir / "job.toml").write_text(job)
            names = open_all(run(legenda, work_dir, "run", "job.toml"), ROWS - 1)
            if options:
                assert names <= readers, names
                assert names, file_format
            else:
                assert names == readers, names
            if options:
                continue
            target = f"all of {number}.{file_format}"
            printed = run(legenda, work_dir, "export", path, "-o", target)
            assert open_all(printed, ROWS - 1) == readers
            if kind == "embed":
                continue
            rejects = run(legenda, work_dir, "export", path, "-o", target, "--force", "--rejects")
            assert open_all(rejects, ROWS) == readers
        print(f"{kind} {options}: opened in every format")


def check_subtitles(legenda: str, work_dir: Path) -> None:
    """Parses the subtitles of all reference recordings."""
    sounds = work_dir / "sounds"
    sounds.mkdir()
    for sound in (REFERENCES / "media").glob("*.wav"):
        shutil.copy(sound, sounds / sound.name)
    model = str(REFERENCES / "bundles" / "whisper")
    arguments = ["--model", model, "--language", "en", "--srt", "--vtt", "-o", "transcripts/"]
    run(legenda, work_dir, "transcribe", "sounds", *arguments)
    n_cues = 0
    for path in sorted(sounds.glob("*.srt")):
        # Subtitles that are not well-formed raise an error.
        cues = list(srt.parse(path.read_text(), ignore_errors=False))
        captions = webvtt.read(str(path.with_suffix(".vtt"))).captions
        assert len(captions) == len(cues), path
        assert [cue.index for cue in cues] == list(range(1, len(cues) + 1)), path
        for cue, caption in zip(cues, captions, strict=True):
            lines = cue.content.split("\n")
            assert 1 <= len(lines) <= 2 and all(len(line) <= 42 for line in lines), cue
            # The parser keeps the escapes of WebVTT.
            assert [html.unescape(line) for line in caption.lines] == lines, (caption, cue)
            assert cue.start < cue.end
            assert abs(caption.start_in_seconds - cue.start.total_seconds()) < 1
        for before, after in zip(cues, cues[1:], strict=False):
            assert (after.start - before.end).total_seconds() >= 0.08, path
        n_cues += len(cues)
    assert n_cues > 0
    print(f"{n_cues} cues are well-formed")


def main() -> None:
    """Checks tables, then subtitles."""
    legenda = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(suffix=" it's") as folder:
        check_tables(legenda, Path(folder))
        check_subtitles(legenda, Path(folder))


if __name__ == "__main__":
    main()
