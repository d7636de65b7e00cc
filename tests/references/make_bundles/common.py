"""Paths, and the format of reference files."""

import json
from pathlib import Path

REFERENCES = Path(__file__).parent.parent
BUNDLES = REFERENCES / "bundles"
MEDIA = REFERENCES / "media"
# Checkpoints that one environment writes for the other; not committed.
WORK = Path(__file__).parent / "work"


def write_reference(name: str, rows: list[dict], **extra: object) -> None:
    """Writes `<name>.json` with rows computed by the transformers of this environment."""
    import torch
    import transformers

    torch_version = torch.__version__.split("+")[0]
    made_by = f"transformers {transformers.__version__}, torch {torch_version}"
    write_reference_text(name, rows, {"reference": made_by, **extra})


def write_reference_text(name: str, rows: list[dict], head: dict) -> None:
    """Writes `<name>.json` with one line per row, so that diffs are readable."""
    lines = [json.dumps(key) + ": " + json.dumps(value) for key, value in head.items()]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines.append('"rows": [\n' + ",\n".join(texts) + "\n]")
    BUNDLES.mkdir(exist_ok=True)
    (BUNDLES / f"{name}.json").write_text("{" + ",\n".join(lines) + "}\n")


def size_of(folder: Path) -> int:
    """Returns the total size of the files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
