"""Trains tiny tokenizers of each published kind and writes them as a bundle has them."""

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

# The pattern that GPT-4's tokenizer made common, as Llama 3 and Qwen publish it; they differ in
# how many digits one piece may have.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|"
    r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def add_specials(tokenizer: Tokenizer, specials: list[str]) -> None:
    """Makes tokens special, behind the vocabulary where they are not in it."""
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])


def byte_level(
    vocab_size: int, specials: list[str], digits: str | None, nfc: bool = False
) -> Tokenizer:
    """BPE over bytes: GPT-2's when `digits` is None, else Llama 3's (`{1,3}`) or Qwen's (``)."""
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
    """Numbers the special tokens from 0, as BART and RoBERTa have them."""
    whole = json.loads(tokenizer.to_str())
    vocab = whole["model"]["vocab"]
    tokens = specials + [t for t in sorted(vocab, key=vocab.get) if t not in specials]
    whole["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    for added in whole["added_tokens"]:
        added["id"] = tokens.index(added["content"])
    return Tokenizer.from_str(json.dumps(whole))


def metaspace_bpe(vocab_size: int, specials: list[str], prefix_space: bool) -> Tokenizer:
    """BPE with byte fallback, spaces as U+2581: Llama 2's with a space put before, or Gemma's."""
    trained = Tokenizer(models.BPE())
    # Trained on words; the published files have no pre-tokenizer, which is as fast for short text.
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
    """Unigram with U+2581 before words, as T5 has it (NFKC for its precompiled map).

    The trainer of Unigram gives another vocabulary at each run, so the pieces are those of BPE,
    and a piece's score is the logarithm of how often it is in the text.
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
    """BERT's."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # The trainer of WordPiece numbers pieces otherwise at each run, so the pieces are those of BPE,
    # each at the beginning of a word and inside one.
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
    """CLIP's: lower case, byte-level BPE of words that end with `</w>`."""
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
    # Trained without ends of words, because the trainer numbers those otherwise at each run; then
    # every piece and every merge is there with an end of word too.
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
    """Makes the tokenizer put special tokens around a text."""
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
    """Writes the tokenizer's files by hand, as published, and loads them as a user does.

    `config` is the family's part of `tokenizer_config.json`. The template goes into
    `chat_template.jinja`, or into that file where older repositories have it.
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
    """Writes a file of a bundle in the form that published ones have."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
