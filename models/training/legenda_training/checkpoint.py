"""Atomically written checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_checkpoint(out: Path, state: dict[str, Any]) -> None:
    """Writes `state` to a temporary file, then renames it to `out`."""
    torch.save(state, out.with_suffix(".tmp"))
    out.with_suffix(".tmp").replace(out)


def save_tower(
    out: Path,
    tower: nn.Module,
    heads: nn.Module,
    optimiser: torch.optim.Optimizer,
    spent: float,
    step: int,
) -> None:
    """Saves the state from which the pretraining of a tower resumes; `spent` is in seconds."""
    state = {
        "tower": tower.state_dict(),
        "heads": heads.state_dict(),
        "optimiser": optimiser.state_dict(),
        "spent": spent,
        "step": step,
    }
    save_checkpoint(out, state)
