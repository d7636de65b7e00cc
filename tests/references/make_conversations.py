"""Makes `bundles/conversations.json`: conversations as tokenized by transformers.

    pip install transformers==4.57.6 tokenizers==0.22.2 jinja2==3.1.6
    python tests/references/make_conversations.py

Every bundle with a chat template has the same conversations, with their token IDs.
"""

import json
from pathlib import Path

import jinja2
import transformers

BUNDLES = Path(__file__).parent / "bundles"
TEXTS = ["llama", "llama_gqa", "mistral", "qwen3", "gemma3_text"]
# The templates of vision models take a message as a list of parts.
PARTS = ["gemma3", "llava", "qwen2_vl", "smolvlm"]
CONVERSATIONS: list[list[tuple[str, str]]] = [
    [("user", "What is dog in German?")],
    [("system", "Be short."), ("user", "What is dog in German?")],
    [("user", "Hello."), ("assistant", "Hello, who is it?"), ("user", "What is one plus two?")],
    [
        ("system", "Answer in German,\nand be short."),
        ("user", "What is  dog?"),
        ("assistant", " Hund \n"),
        ("user", "and cat?\n"),
        ("assistant", ""),
        ("user", "  Katze, ünïcode 猫 🐈?"),
    ],
]


def in_parts(message: dict[str, str]) -> dict[str, object]:
    """Returns a message whose content is a list of one part."""
    return {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}


def main() -> None:
    """Writes the file."""
    results: dict[str, list[dict[str, object]]] = {}
    for name in TEXTS + PARTS:
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(BUNDLES / name)
        results[name] = []
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            inputs = messages if name in TEXTS else [in_parts(message) for message in messages]
            try:
                ids = tokenizer.apply_chat_template(inputs, add_generation_prompt=True)
            except jinja2.exceptions.TemplateError:
                # The model does not support system messages, or this order of turns.
                ids = None
            results[name].append({"messages": messages, "token_ids": ids})
    text = json.dumps(results, ensure_ascii=False, indent=1)
    (BUNDLES / "conversations.json").write_text(text + "\n", encoding="utf-8")


main()
