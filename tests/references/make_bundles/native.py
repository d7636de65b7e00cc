"""The weights of `llama`, exported by transformers: `export.json` and two graphs."""

import json
import shutil
from dataclasses import dataclass

import onnx
import torch
from transformers import AutoModelForCausalLM
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from .common import BUNDLES, WORK, size_of, write_reference_text
from .graphs import shorten
from .runtime import Decoder, check_batch, expect_equal, greedy

SOURCE = "llama"
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str


SPECS = [Spec("llama_native")]


def make(spec: Spec) -> None:
    """Makes the bundle; its weights and its reference are those of `llama`.

    `decode` takes several tokens at once, so it can also prefill if its KV cache is empty.
    """
    folder = BUNDLES / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(WORK / SOURCE).eval()
    # With a mask of only ones, the exporter removes the mask.
    sample = {
        "input_ids": torch.arange(10).reshape(2, 5),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    }
    exported = OnnxExporter().export_for_generation(
        model, sample, OnnxConfig(dynamic=True), multi_token_decode=True
    )
    exported.save_pretrained(folder)
    for path in sorted(folder.glob("*.onnx")):
        onnx.save(shorten(onnx.load(path, load_external_data=False)), path)
    for name in TOKENIZER_FILES:
        shutil.copy(BUNDLES / SOURCE / name, folder)

    reference = json.loads((BUNDLES / f"{SOURCE}.json").read_text())
    decoder = Decoder(folder / "decode.onnx")
    for i, row in enumerate(reference["rows"]):
        ours, _ = greedy(
            decoder,
            row["prompt_ids"],
            reference["eos_token_ids"],
            reference["max_new_tokens"],
        )
        expect_equal(spec.name, i, ours, row["token_ids"])
    check_batch(spec.name, decoder, reference["rows"], reference["eos_token_ids"], pad_left=True)
    del reference["rows_fp16"]
    # The exporter does not write a generation config: only the end token of `config.json` is known.
    reference["eos_token_ids"] = [model.config.eos_token_id]
    rows = reference.pop("rows")
    write_reference_text(spec.name, rows, {**reference, "weights_of": SOURCE})
    print(f"  {size_of(folder)} bytes, inputs {list(decoder.inputs)}")
