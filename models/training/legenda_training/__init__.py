"""Trains, evaluates, fine-tunes and exports `legenda-tiny`, Legenda's embedded default model."""

__version__ = "0.1.0"
