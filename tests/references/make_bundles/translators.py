"""T5, BART, Marian and NLLB: text to text."""

from pathlib import Path

from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    NllbTokenizerFast,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from . import toktypes
from .corpus import ROW_TEXTS
from .seq2seq import Spec, make

__all__ = ["SPECS", "make"]

# BART and Marian use the same config keys.
SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def _t5_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = toktypes.unigram(320, ["<pad>", "</s>", "<unk>"])
    toktypes.frame(tokenizer, [], ["</s>"])
    return toktypes.save(
        tokenizer,
        folder,
        {
            "additional_special_tokens": [],
            "clean_up_tokenization_spaces": True,
            "eos_token": "</s>",
            "extra_ids": 0,
            "model_max_length": 512,
            "pad_token": "<pad>",
            "tokenizer_class": "T5Tokenizer",
            "unk_token": "<unk>",
        },
    )


def _bart_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = toktypes.byte_level(340, specials, digits=None)
    tokenizer = toktypes.specials_first(tokenizer, specials)
    toktypes.frame(tokenizer, ["<s>"], ["</s>"])
    return toktypes.save(
        tokenizer,
        folder,
        {
            "add_prefix_space": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": True,
            "cls_token": "<s>",
            "eos_token": "</s>",
            "errors": "replace",
            "model_max_length": 384,
            "pad_token": "<pad>",
            "sep_token": "</s>",
            "tokenizer_class": "BartTokenizer",
            "trim_offsets": True,
            "unk_token": "<unk>",
        },
    )


def _marian_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = toktypes.unigram(320, ["</s>", "<unk>"])
    tokenizer.add_special_tokens(["<pad>"])
    toktypes.frame(tokenizer, [], ["</s>"])
    toktypes.save(
        tokenizer,
        folder,
        {
            "clean_up_tokenization_spaces": True,
            "eos_token": "</s>",
            "model_max_length": 512,
            "pad_token": "<pad>",
            "separate_vocabs": False,
            "source_lang": "eng",
            "target_lang": "deu",
            "tokenizer_class": "MarianTokenizer",
            "unk_token": "<unk>",
        },
        load=False,
    )
    # The class that the config names reads only SentencePiece files, which do not exist here.
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _nllb_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    config = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "model_max_length": 384,
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "src_lang": "eng_Latn",
        "tokenizer_class": "NllbTokenizer",
        "unk_token": "<unk>",
    }
    toktypes.save(toktypes.unigram(300, specials), folder, config, load=False)
    # Adds the languages, and prepends the source language to a text.
    tokenizer = NllbTokenizerFast.from_pretrained(folder)
    return toktypes.save(tokenizer.backend_tokenizer, folder, config)


def _nllb(tokenizer: PreTrainedTokenizerBase) -> M2M100ForConditionalGeneration:
    config = M2M100Config(
        **SIZES,
        vocab_size=len(tokenizer),
        max_position_embeddings=384,
        scale_embedding=True,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
    )
    model = M2M100ForConditionalGeneration(config)
    # A checkpoint does not preserve embeddings that are shared, but not with the head.
    for part in (model.model.encoder, model.model.decoder):
        part.embed_tokens.weight = nn.Parameter(part.embed_tokens.weight.detach().clone())
    return model


# Source and target languages; the tokenizer prepends the first source language by default.
LANGUAGES = [("eng_Latn", "deu_Latn"), ("deu_Latn", "fra_Latn"), ("jpn_Jpan", "eng_Latn")]

SPECS = [
    Spec(
        name="t5",
        tokenizer=_t5_tokenizer,
        model=lambda t: T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(t),
                d_model=32,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
                pad_token_id=t.pad_token_id,
                eos_token_id=t.eos_token_id,
                decoder_start_token_id=t.pad_token_id,
            )
        ),
        generation=lambda t: {
            "decoder_start_token_id": t.pad_token_id,
            "eos_token_id": t.eos_token_id,
            "pad_token_id": t.pad_token_id,
            "transformers_version": "4.57.6",
        },
        task="text2text-generation-with-past",
        rows=[{"text": text} for text in ROW_TEXTS],
        # Only this bundle also has the unmerged graphs.
        skip=(),
        gain=1.0,
    ),
    Spec(
        name="bart",
        tokenizer=_bart_tokenizer,
        model=lambda t: BartForConditionalGeneration(
            BartConfig(**SIZES, vocab_size=len(t), max_position_embeddings=384)
        ),
        generation=lambda t: {
            "bos_token_id": t.bos_token_id,
            "decoder_start_token_id": t.eos_token_id,
            "eos_token_id": t.eos_token_id,
            "forced_bos_token_id": t.bos_token_id,
            "forced_eos_token_id": t.eos_token_id,
            "max_length": 142,
            "min_length": 6,
            "no_repeat_ngram_size": 3,
            "pad_token_id": t.pad_token_id,
            "transformers_version": "4.57.6",
        },
        task="text2text-generation-with-past",
        rows=[{"text": text} for text in ROW_TEXTS],
        gain=1.0,
        embedding_std=0.6,
        needs_both_ends=False,
    ),
    Spec(
        name="marian",
        tokenizer=_marian_tokenizer,
        model=lambda t: MarianMTModel(
            MarianConfig(
                **SIZES,
                vocab_size=len(t),
                max_position_embeddings=384,
                activation_function="swish",
                scale_embedding=True,
                tie_word_embeddings=False,
                # A checkpoint does not preserve embeddings that are shared, but not with the head.
                share_encoder_decoder_embeddings=False,
                decoder_vocab_size=len(t),
                pad_token_id=t.pad_token_id,
                eos_token_id=t.eos_token_id,
                decoder_start_token_id=t.pad_token_id,
            )
        ),
        generation=lambda t: {
            "bad_words_ids": [[t.pad_token_id]],
            "bos_token_id": 0,
            "decoder_start_token_id": t.pad_token_id,
            "eos_token_id": t.eos_token_id,
            "forced_eos_token_id": t.eos_token_id,
            "max_length": 512,
            "pad_token_id": t.pad_token_id,
            "renormalize_logits": True,
            "transformers_version": "4.57.6",
        },
        task="text2text-generation-with-past",
        rows=[{"text": text} for text in ROW_TEXTS],
        # The model family multiplies its embeddings by sqrt(32).
        embedding_std=0.3,
        gain=0.8,
        needs_both_ends=False,
    ),
    Spec(
        name="nllb",
        tokenizer=_nllb_tokenizer,
        model=_nllb,
        generation=lambda t: {
            "bos_token_id": t.bos_token_id,
            "decoder_start_token_id": t.eos_token_id,
            "eos_token_id": t.eos_token_id,
            "max_length": 200,
            "pad_token_id": t.pad_token_id,
            "transformers_version": "4.57.6",
        },
        task="text2text-generation-with-past",
        rows=[
            {"text": text, "language": source, "target_language": target}
            for i, text in enumerate(ROW_TEXTS)
            for source, target in [LANGUAGES[i % len(LANGUAGES)]]
        ],
        # The model family multiplies its embeddings by sqrt(32).
        embedding_std=0.3,
        gain=0.8,
        needs_both_ends=False,
    ),
]
