"""Trains tiny tokenizers of each published kind and writes their bundle files."""

import json
import math
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .corpus import TRAINING_LINES

# The pattern of GPT-4's tokenizer, as used by Llama 3 and Qwen; they differ in the number of digits
# per piece.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|"
    r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def add_specials(tokenizer: Tokenizer, specials: list[str]) -> None:
    """Adds special tokens; those that are not in the vocabulary come after it."""
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])


def byte_level(
    vocab_size: int, specials: list[str], digits: str | None, nfc: bool = False
) -> Tokenizer:
    """Trains byte-level BPE: as GPT-2 without `digits`, else as Llama 3 (`{1,3}`) or Qwen (``)."""
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    if digits is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        words = pre_tokenizers.Split(Regex(_WORDS.format(digits=digits)), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_LINES, trainer)
    add_specials(tokenizer, specials)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def specials_first(tokenizer: Tokenizer, specials: list[str]) -> Tokenizer:
    """Numbers the special tokens from 0, as in BART and RoBERTa."""
    tokenizer_json = json.loads(tokenizer.to_str())
    vocab = tokenizer_json["model"]["vocab"]
    tokens = specials + [t for t in sorted(vocab, key=vocab.get) if t not in specials]
    tokenizer_json["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    for added in tokenizer_json["added_tokens"]:
        added["id"] = tokens.index(added["content"])
    return Tokenizer.from_str(json.dumps(tokenizer_json))


def metaspace_bpe(vocab_size: int, specials: list[str], prefix_space: bool) -> Tokenizer:
    """Trains BPE with byte fallback and U+2581 for spaces: Llama 2 (prefix space) or Gemma."""
    trained = Tokenizer(models.BPE())
    # Training splits texts into words. Published files do not have a pre-tokenizer, which is as
    # fast for short texts.
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 256 - len(specials), show_progress=False)
    trained.train_from_iterator(TRAINING_LINES, trainer)
    learned = json.loads(trained.to_str())["model"]
    tokens = (
        specials
        + [f"<0x{byte:02X}>" for byte in range(256)]
        + sorted(learned["vocab"], key=learned["vocab"].get)
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(steps)
    add_specials(tokenizer, specials)
    return tokenizer


def unigram(vocab_size: int, specials: list[str]) -> Tokenizer:
    """Makes a Unigram tokenizer with U+2581 before words, as T5 (NFKC for its precompiled map).

    The Unigram trainer is not deterministic, so the pieces are those of BPE. The score of a piece
    is the logarithm of its frequency in the text.
    """
    words = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = words
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(specials), show_progress=False)
    trained.train_from_iterator(TRAINING_LINES, trainer)
    text = " ".join(word for line in TRAINING_LINES for word, _ in words.pre_tokenize_str(line))
    scores = {
        piece: round(math.log(max(text.count(piece), 1) / len(text)), 3)
        for piece in trained.get_vocab()
    }
    pieces = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    tokenizer = Tokenizer(
        models.Unigram(
            [(special, 0.0) for special in specials] + pieces, unk_id=specials.index("<unk>")
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    add_specials(tokenizer, specials)
    return tokenizer


def word_piece(vocab_size: int, lowercase: bool = True) -> Tokenizer:
    """Makes a WordPiece tokenizer, as BERT."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # The WordPiece trainer numbers pieces nondeterministically, so the pieces are those of BPE,
    # each at the start of a word and inside a word.
    words = [
        word
        for line in TRAINING_LINES
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(line)
        )
    ]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=(vocab_size - len(specials)) // 2, show_progress=False)
    trained.train_from_iterator(words, trainer)
    learned = trained.get_vocab()
    pieces = sorted(learned, key=learned.get)
    tokens = [*specials, *pieces, *(f"##{piece}" for piece in pieces)]
    tokenizer.model = models.WordPiece(
        vocab={token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"
    )
    add_specials(tokenizer, specials)
    frame(tokenizer, ["[CLS]"], ["[SEP]"])
    return tokenizer


def clip_bpe(vocab_size: int) -> Tokenizer:
    """Makes a CLIP tokenizer: lower case, byte-level BPE with `</w>` at the ends of words."""
    specials = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Trained without word ends, because the trainer numbers those nondeterministically. Then every
    # piece and every merge is added with a word end too.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size // 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = tokenizer.pre_tokenizer
    trained.train_from_iterator([line.lower() for line in TRAINING_LINES], trainer)
    learned = json.loads(trained.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    tokens = [*pieces, *(f"{piece}</w>" for piece in pieces), *specials]
    merges = []
    for left, right in learned["merges"]:
        merges += [(left, f"{right}</w>"), (left, right)]
    tokenizer.model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        end_of_word_suffix="</w>",
        unk_token="<|endoftext|>",
    )
    add_specials(tokenizer, specials)
    frame(tokenizer, specials[:1], specials[1:])
    return tokenizer


def frame(tokenizer: Tokenizer, before: list[str], after: list[str]) -> None:
    """Configures the tokenizer to add special tokens around a text."""
    names = before + after
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A:0", *after, "$B:1", *after],
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)],
    )


def save(
    tokenizer: Tokenizer,
    folder: Path,
    config: dict,
    chat_template: str | None = None,
    template_in_config: bool = False,
    load: bool = True,
) -> PreTrainedTokenizerBase | None:
    """Writes the files of a tokenizer, as published, and loads them as a user does.

    `config` is the model-specific part of `tokenizer_config.json`. The template is written to
    `chat_template.jinja` or, as in older repositories, to `tokenizer_config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(token_id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    config = {"added_tokens_decoder": added, **config}
    if chat_template and template_in_config:
        config["chat_template"] = chat_template
    elif chat_template:
        (folder / "chat_template.jinja").write_text(chat_template)
    write_json(folder / "tokenizer_config.json", config)
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
    special = {name: config[name] for name in (*names, "mask_token") if config.get(name)}
    write_json(folder / "special_tokens_map.json", special)
    return AutoTokenizer.from_pretrained(folder) if load else None


def write_json(path: Path, value: object) -> None:
    """Writes a bundle file in the format of published files."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
