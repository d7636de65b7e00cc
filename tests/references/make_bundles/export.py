"""Exports with optimum, and arranges the graphs in the layout of transformers.js."""

import shutil
from pathlib import Path

from optimum.exporters.onnx import main_export

from .graphs import copy_short


def export(checkpoint: Path, folder: Path, task: str, skip: tuple[str, ...] = ()) -> None:
    """Exports a checkpoint to `onnx/` of a bundle, and copies its `config.json`.

    Graphs whose names are in `skip` are omitted.
    """
    flat = checkpoint.parent / f"{checkpoint.name}-onnx"
    shutil.rmtree(flat, ignore_errors=True)
    main_export(str(checkpoint), flat, task=task, do_validation=False, opset=18)
    for path in sorted(flat.glob("*.onnx")):
        if path.stem not in skip:
            copy_short(path, folder / "onnx" / path.name)
    shutil.copy(flat / "config.json", folder / "config.json")
