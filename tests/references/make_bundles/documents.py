"""Donut: reads the fields of a document from an image and a prompt of task tokens."""

import json
import re
from pathlib import Path

from transformers import (
    DonutImageProcessor,
    DonutProcessor,
    DonutSwinConfig,
    MBartConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from . import media, toktypes
from .seq2seq import Spec, make

__all__ = ["SPECS", "make"]

FIELDS = ["answer", "docvqa", "menu", "nm", "price", "question"]
TASKS = ["<s_receipt>", "<s_docvqa><s_question>{}</s_question><s_answer>"]
QUESTIONS = ["What is the price?", "Wie viele?", "合計"]

# Sequences that a trained model writes, and some that it should not write.
SEQUENCES = [
    "<s_menu><s_nm> Tea</s_nm><s_price> 2.50</s_price><sep/><s_nm> Milk</s_nm></s_menu>",
    "<s_menu><s_nm>Tea</s_nm></s_menu><s_price>3</s_price>",
    "<s_nm>Tea<sep/> Milk <sep/>1/2</s_nm>",
    "<s_answer><yes/></s_answer>",
    "<s_answer><yes/><sep/>no</s_answer><sep/><s_price>4</s_price>",
    "<s_nm>never closed<s_price>2</s_price>",
    "<s_menu></s_menu><s_nm></s_nm>",
    "<S_NM>Upper</s_nm> and <s_nm>lower</S_nm>",
    "</s_nm>closed <s_nm>before</s_nm> it opens",
    "<s_menu><s_nm>a</s_nm></s_menu><s_menu><s_nm>b</s_nm></s_menu>",
    "<s_menu><s_menu>in itself</s_menu></s_menu>",
    "<s_unknown>x</s_unknown><s_ ",
    "no field at all",
    '<s_nm>"quoted" \\ and\ttabs\nlines</s_nm>',
    "",
]


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = toktypes.unigram(300, specials)
    fields = [f"<{slash}s_{name}>" for name in FIELDS for slash in ("", "/")]
    tokenizer.add_special_tokens(["<sep/>", "<yes/>", "<s_receipt>", *fields])
    toktypes.frame(tokenizer, ["<s>"], ["</s>"])
    return toktypes.save(
        tokenizer,
        folder,
        {
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": True,
            "cls_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": 128,
            "pad_token": "<pad>",
            "processor_class": "DonutProcessor",
            "sep_token": "</s>",
            "tokenizer_class": "XLMRobertaTokenizer",
            "unk_token": "<unk>",
        },
    )


def _model(tokenizer: PreTrainedTokenizerBase) -> VisionEncoderDecoderModel:
    encoder = DonutSwinConfig(
        image_size=[64, 48],
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    )
    decoder = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        # The exporter reads the encoder's value, which does not exist here.
        encoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        is_decoder=True,
        is_encoder_decoder=False,
        add_cross_attention=True,
        scale_embedding=True,
        add_final_layer_norm=True,
        tie_word_embeddings=False,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.tie_word_embeddings = False
    return VisionEncoderDecoderModel(config)


def _fields(processor: DonutProcessor, sequence: str) -> str:
    """Converts a sequence to JSON as the model card does; the first token names the task."""
    sequence = re.sub(r"<.*?>", "", sequence, count=1).strip()
    return json.dumps(processor.token2json(sequence), ensure_ascii=False, separators=(",", ":"))


def _answer(tokenizer: PreTrainedTokenizerBase, prompt: list[int], answer: list[int]) -> str:
    sequence = tokenizer.decode(prompt + answer)
    for token in (tokenizer.eos_token, tokenizer.pad_token):
        sequence = sequence.replace(token, "")
    return _fields(DonutProcessor(DonutImageProcessor(), tokenizer), sequence)


def _extra_keys(_: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, __: Path) -> dict:
    """Returns sequences with their fields, which random answers rarely contain."""
    processor = DonutProcessor(DonutImageProcessor(), tokenizer)
    return {"sequences": [[text, _fields(processor, "<s_docvqa>" + text)] for text in SEQUENCES]}


def _rows() -> list[dict]:
    rows = []
    for i, name in enumerate(sorted(media.images())):
        prompt = TASKS[i % 2].format(QUESTIONS[i // 2 % len(QUESTIONS)])
        rows.append({"image": name, "prompt": prompt})
    return rows


SPECS = [
    Spec(
        name="donut",
        tokenizer=_tokenizer,
        model=_model,
        generation=lambda t: {
            "bos_token_id": t.bos_token_id,
            "decoder_start_token_id": t.bos_token_id,
            "eos_token_id": t.eos_token_id,
            "forced_eos_token_id": t.eos_token_id,
            "max_length": 128,
            "pad_token_id": t.pad_token_id,
            "transformers_version": "4.57.6",
        },
        task="image-to-text-with-past",
        rows=_rows(),
        processor={
            "do_align_long_axis": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "do_thumbnail": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "DonutImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "DonutProcessor",
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            # Width and height: the older form, which published bundles use.
            "size": [48, 64],
        },
        # The model family multiplies its embeddings by sqrt(32).
        embedding_std=0.3,
        gain=0.8,
        needs_both_ends=False,
        answer=_answer,
        extra_keys=_extra_keys,
    ),
]
