"""Where things lie, and how a reference file looks."""

import json
from pathlib import Path

REFERENCES = Path(__file__).parent.parent
BUNDLES = REFERENCES / "bundles"
MEDIA = REFERENCES / "media"
# Checkpoints that one environment leaves for the other; not committed.
WORK = Path(__file__).parent / "work"


def write_reference(name: str, rows: list[dict], **more: object) -> None:
    """Writes `<name>.json` with rows that this environment's transformers made."""
    import torch
    import transformers

    torch_version = torch.__version__.split("+")[0]
    made_by = f"transformers {transformers.__version__}, torch {torch_version}"
    write_reference_text(name, rows, {"reference": made_by, **more})


def write_reference_text(name: str, rows: list[dict], head: dict) -> None:
    """Writes `<name>.json`: a line for each row, so that a change shows where it is."""
    lines = [json.dumps(key) + ": " + json.dumps(value) for key, value in head.items()]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines.append('"rows": [\n' + ",\n".join(texts) + "\n]")
    BUNDLES.mkdir(exist_ok=True)
    (BUNDLES / f"{name}.json").write_text("{" + ",\n".join(lines) + "}\n")


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
