"""The tokenizer: byte-level BPE trained on the project's sentences, so that a name is one token."""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .emoji import concepts
from .questions import (
    CAPTION_PROMPTS,
    TRANSCRIBE_PROMPTS,
    group_truth,
    sum_question,
    text_questions,
)
from .scenes import COLOUR_NAMES
from .sentences import ADJECTIVES, COLOURS, NAMES, NUMBERS, PLACES, TIMES, VERBS, sentence

SPECIAL_TOKENS = (
    "<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<image>", "<audio>", "<|assistant|>",
    "<|system|>",
)  # fmt: skip
"""The index of a token is its ID: pad 0, bos 1, eos 2, image 5, audio 6."""

CHAT_TEMPLATE = (
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "    {{- '<|' ~ message['role'] ~ '|>' -}}\n"
    "    {%- if message['content'] is string -%}\n"
    "        {{- message['content'] -}}\n"
    "    {%- else -%}\n"
    "        {%- for part in message['content'] if part['type'] == 'image' -%}\n"
    "            {{- '<image>' -}}\n"
    "        {%- endfor -%}\n"
    "        {%- for part in message['content'] if part['type'] == 'audio' -%}\n"
    "            {{- '<audio>' -}}\n"
    "        {%- endfor -%}\n"
    "        {%- for part in message['content'] if part['type'] == 'text' -%}\n"
    "            {{- part['text'] -}}\n"
    "        {%- endfor -%}\n"
    "    {%- endif -%}\n"
    "    {%- if message['role'] == 'assistant' -%}\n"
    "        {{- '</s>' -}}\n"
    "    {%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "    {{- '<|assistant|>' -}}\n"
    "{%- endif -%}\n"
)


def corpus() -> list[str]:
    """Returns the training text of the merges: names, sentences, questions, answers."""
    rng = random.Random(7)
    lines: list[str] = []
    for concept in concepts():
        forms = [concept.name, concept.with_article, concept.plural, "x " + concept.plural]
        lines += forms * 12
        lines += [concept.german, concept.french, concept.spanish] * 10
        lines += [sentence(rng, concept) for _ in range(24)]
        for qa in text_questions(concept):
            lines += [qa.question, qa.answer]
        lines += [f"How many {concept.plural} are there?", f"Is there {concept.with_article}?"] * 3
        lines += [f"two {concept.plural}, {concept.with_article} and", concept.name + " left of"]
    words = (*NUMBERS, *COLOURS, *COLOUR_NAMES, *ADJECTIVES, *NAMES, *VERBS, *PLACES, *TIMES,
             *(c.group for c in concepts()))  # fmt: skip
    lines += [form for word in words for form in (word, "x " + word)] * 20
    lines += [p for p in (*CAPTION_PROMPTS, *TRANSCRIBE_PROMPTS)] * 40
    lines += [group_truth(rng).question for _ in range(300)]
    lines += [sum_question(rng).question for _ in range(100)]
    lines += ["What colour is the background?", "What is the background colour?",
              "Which colour is behind?", "How many things are there?",
              "How many objects are there?", "How many things do you see?",
              "How many are in the picture?", "Is there in the picture?", "Do you see it?",
              "What is left of the", "What is right of the", "Is the above the", "below the",
              "Which is in the picture?", "what colour is the background"] * 40  # fmt: skip
    return lines


def train_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains the merges; encoding is lossless, including spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        extra_special_tokens={"image_token": "<image>", "audio_token": "<audio>"},
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def stored_tokenizer(data: Path, vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Returns the tokenizer of a data folder, trained on first use."""
    folder = data / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(vocab_size).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)
