"""Exports graphs without weights: run `python -m bench_gpu.graphs NAME FOLDER` in `tests`.

`captioner` needs environment A of `references/make_bundles`, `writer` needs environment B.
"""

import json
import subprocess
import sys
from pathlib import Path

import onnx
from tokenizers import Tokenizer, models, pre_tokenizers

from .models import EOS_IDS, MAX_NEW_TOKENS, MODELS, START_ID
from .weights import parameters, strip


def optimum(checkpoint: Path, work: Path) -> list[tuple[str, list[Path]]]:
    """Exports the encoder and the merged decoder in both precisions."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from optimum.exporters.onnx import main_export

    task = "image-to-text-with-past"
    main_export(str(checkpoint), work / "fp32", task=task, do_validation=False, opset=18)
    names = ["encoder_model.onnx", "decoder_model_merged.onnx"]
    full_precision = [work / "fp32" / name for name in names]
    half_precision = []
    for source in full_precision:
        target = work / f"{source.stem}_fp16.onnx"
        half = convert_float_to_float16(onnx.load(source), keep_io_types=False)
        onnx.save(half, target)
        half_precision.append(target)
    return [("captioner", full_precision), ("captioner_fp16", half_precision)]


def genai(checkpoint: Path, work: Path) -> list[tuple[str, list[Path]]]:
    """Exports a graph with the onnxruntime-genai builder for CUDA."""
    options = ["-i", checkpoint, "-o", work / "fp16", "-p", "fp16", "-e", "cuda", "-c", work / "c"]
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    subprocess.run([*builder, *map(str, options)], check=True)
    return [("writer", [work / "fp16" / "model.onnx"])]


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Writes a tokenizer in which token 7 is the word `w7`, so that texts show their tokens."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab_size)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def hub_configs(folder: Path, checkpoint: Path, _: Path) -> None:
    """Writes the configs that accompany graphs on the Hub."""
    config = json.loads((checkpoint / "config.json").read_text())
    generation = {
        "decoder_start_token_id": START_ID,
        "eos_token_id": EOS_IDS,
        "pad_token_id": START_ID,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def genai_configs(folder: Path, _: Path, exported: Path) -> None:
    """Writes the config that the builder writes next to its graph."""
    config = json.loads((exported / "genai_config.json").read_text())
    config["model"] |= {"eos_token_id": EOS_IDS, "pad_token_id": START_ID}
    config["model"]["bos_token_id"] = START_ID
    (folder / "genai_config.json").write_text(json.dumps(config))


EXPORTERS = {"captioner": optimum, "writer": genai}


def main(name: str, folder: Path) -> None:
    """Exports a model and writes its graphs and configs to `folder`."""
    model = MODELS[name]()
    weights = parameters(model)
    checkpoint, work = folder / "work" / name, folder / "work" / f"{name}-onnx"
    model.save_pretrained(checkpoint)
    vocab_size = getattr(model.config, "decoder", model.config).vocab_size
    write_tokenizer(checkpoint, vocab_size)
    for bundle, graphs in EXPORTERS[name](checkpoint, work):
        is_hub = len(graphs) > 1
        target = folder / bundle
        strip(graphs, target / "onnx" if is_hub else target, weights)
        write_tokenizer(target, vocab_size)
        write_configs = hub_configs if is_hub else genai_configs
        write_configs(target, checkpoint, graphs[0].parent)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
