"""Makes bundles: `python -m make_bundles NAME...`. Without names, it lists them."""

import importlib
import os
import sys

# One thread, so that sums have a fixed order and the machine can do other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The bundles that each module makes; the README lists the environment of each.
MODULES = {
    "causal": ["llama", "qwen3", "gpt2", "gemma3_text", "mistral"],
    "gqa": ["llama_gqa", "llama_gqa_hub", "llama_bias"],
    "native": ["llama_native"],
    "embeddings": ["minilm", "bge"],
    "dual": ["clip", "siglip"],
    "clap": ["clap", "clap_fused"],
    "translators": ["t5", "bart", "marian", "nllb"],
    "captioners": ["vit_gpt2", "trocr"],
    "blip": ["blip"],
    "documents": ["donut"],
    "speech": ["whisper", "moonshine"],
    "genai_whisper": ["whisper_genai"],
    "sequential": ["whisper_sequential"],
    "florence": ["florence2"],
    "decoding_rules": ["decoding_rules"],
    "readers": ["llava", "smolvlm", "paligemma", "gemma3", "qwen2_vl", "qwen2_5_vl"],
    "listeners": ["ultravox", "voxtral"],
    "gemma3n": ["gemma3n"],
    "phi4": ["phi4"],
    "genai_readers": ["gemma3_genai", "qwen2_5_vl_genai"],
    "genai_text": ["phi4_text", "qwen2_5_vl_text"],
    "quantized": [
        "llama_quantized",
        "llama_gqa_quantized",
        "t5_quantized",
        "whisper_quantized",
        "smolvlm_quantized",
        "minilm_quantized",
    ],
    "geometry": ["geometry"],
}


def main(names: list[str]) -> None:
    """Makes the named bundles, in the order of `MODULES`."""
    known = [name for bundles in MODULES.values() for name in bundles]
    if not names or set(names) - set(known):
        sys.exit(f"expected names of bundles: {' '.join(known)}")
    import torch

    torch.set_num_threads(1)
    for module_name, bundles in MODULES.items():
        selected = [name for name in bundles if name in names]
        if not selected:
            continue
        module = importlib.import_module(f"{__package__}.{module_name}")
        for name in selected:
            print(name, flush=True)
            module.make(next(spec for spec in module.SPECS if spec.name == name))


if __name__ == "__main__":
    main(sys.argv[1:])
