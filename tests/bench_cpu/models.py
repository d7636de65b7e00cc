"""Models of published sizes, and their ONNX graphs as published.

`python -m bench_cpu.models TASK WORK` makes the model of a task.
"""

import shutil
import sys
from pathlib import Path

import torch
from optimum.exporters.onnx import main_export
from parity_real import sentences, whisper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from .tasks import corpus

SEED = 0
END = "<|endoftext|>"


def save_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, unk_token=END
    )
    fast.padding_side = "left"
    fast.save_pretrained(folder)
    return fast


def finish(checkpoint: Path, bundle: Path, task: str) -> None:
    """Exports a checkpoint, in the layout of transformers.js."""
    flat = checkpoint.parent / f"{checkpoint.name}-flat"
    shutil.rmtree(flat, ignore_errors=True)
    main_export(str(checkpoint), flat, task=task, do_validation=False, opset=18)
    (bundle / "onnx").mkdir(parents=True)
    skipped = {"decoder_model", "decoder_with_past_model"}
    for path in flat.iterdir():
        if path.suffix == ".onnx" or ".onnx" in path.name:
            if path.name.split(".")[0] not in skipped:
                shutil.move(path, bundle / "onnx" / path.name)
        else:
            shutil.copy(path, bundle / path.name)
    shutil.rmtree(flat)


def make_text(work: Path) -> Path:
    """Makes a decoder in the shape of SmolLM2-135M."""
    checkpoint, bundle = work / "text-checkpoint", work / "text"
    if (bundle / "onnx").exists():
        return bundle
    save_tokenizer(checkpoint, 49152)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.04,
    )
    LlamaForCausalLM(config).eval().save_pretrained(checkpoint)
    finish(checkpoint, bundle, "text-generation-with-past")
    return bundle


def make_captions(work: Path) -> Path:
    """Makes an image captioner in the shape of `vit-gpt2-image-captioning`."""
    checkpoint, bundle = work / "captions-checkpoint", work / "captions"
    if (bundle / "onnx").exists():
        return bundle
    save_tokenizer(checkpoint, 50257)
    torch.manual_seed(SEED)
    decoder = GPT2Config(
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.04,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), decoder)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = 0
    model = VisionEncoderDecoderModel(config).eval()
    assert isinstance(model.decoder, GPT2LMHeadModel)
    model.generation_config.decoder_start_token_id = 0
    model.generation_config.pad_token_id = 0
    model.save_pretrained(checkpoint)
    ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(checkpoint)
    finish(checkpoint, bundle, "image-to-text-with-past")
    return bundle


def make_speech(work: Path) -> Path:
    """Makes Whisper tiny.en of published weights."""
    bundle = work / "speech"
    if not bundle.exists():
        whisper.make_bundle(work)[0].rename(bundle)
    return bundle


def make_embeddings(work: Path) -> Path:
    """Makes all-MiniLM-L6-v2 of published weights."""
    bundle = work / "embeddings"
    if not bundle.exists():
        sentences.make_bundle(work).rename(bundle)
    return bundle


MAKERS = {
    "text": make_text,
    "captions": make_captions,
    "speech": make_speech,
    "embeddings": make_embeddings,
}


def quantize(bundle: Path) -> Path:
    """Makes the `q8` graphs of a bundle, as transformers.js publishes them."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for path in sorted(bundle.rglob("*.onnx")):
        target = path.with_name(f"{path.stem}_quantized.onnx")
        if path.stem.endswith("_quantized") or target.exists():
            continue
        quantize_dynamic(
            path,
            target,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            extra_options={"EnableSubgraph": True},
        )
    return bundle


def load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerFast:
    """Loads the tokenizer of a checkpoint."""
    return AutoTokenizer.from_pretrained(checkpoint, padding_side="left")


if __name__ == "__main__":
    quantize(MAKERS[sys.argv[1]](Path(sys.argv[2])))
