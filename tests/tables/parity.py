"""Prints `docs/parity.md` from the lines that the bundle tests write: see `just parity-table`."""

import json
import sys
from pathlib import Path

HEAD = """# Parity with Hugging Face transformers

Made by `just parity-table` from the tests of `legenda-models`. Each line is a bundle whose rows
were compared with stored answers of transformers {versions}. Quantized and fp16 bundles were
compared with answers of ONNX Runtime, which ran the same graphs one row at a time.

All rows also match with the published graphs (`model.graphs = "published"`). With one int8 scale
per token, only they do: the rewritten graphs give other answers, which do not depend on the other
rows.

The bundles are tiny and have random weights (`tests/references/make_bundles`). The speed therefore
shows what a step costs around the matrix products, not how fast a real model is. The tests ran
with 8 slots or batches of 8, while the machine did other work. The `cuda` lines are from an NVIDIA
H200 with ONNX Runtime 1.31.1 (`docs/cuda.md`). The speed of `whisper sequential` includes feature
extraction and the encoder; each of its windows waits for the previous one.

"""

COLUMNS = "bundle architecture layout dialect rewritten precision device rows-match-in rows speed"


def speed(line: dict) -> str:
    """Returns tokens or rows per second."""
    if line["tokens"]:
        return f"{line['tokens'] / line['seconds']:.0f} tokens/s"
    return f"{line['rows'] / line['seconds']:.0f} rows/s"


def main(folder: str) -> None:
    """Prints the table."""
    lines = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    cuda = (Path(__file__).parents[1] / "bench_gpu" / "parity.jsonl").read_text().splitlines()
    lines = sorted(
        lines + [json.loads(line) for line in cuda], key=lambda line: (line["name"], line["device"])
    )
    bundles = Path(__file__).parents[1] / "references" / "bundles"
    # `conversations.json` does not hold answers of a model.
    made_by = [json.loads(path.read_text()).get("reference") for path in bundles.glob("*.json")]
    made_by = [text.split(",")[0] for text in made_by if text]
    versions = sorted({text.split()[1] for text in made_by if text.startswith("transformers ")})
    print(HEAD.format(versions=" and ".join(versions)), end="")
    names = [name.replace("-", " ") for name in COLUMNS.split()]
    print(f"| {' | '.join(names)} |")
    print("|---" * (len(names) - 2) + "|---:|---:|")
    for line in lines:
        cells = [line["name"], line["architecture"], line["layout"], line["dialect"] or ""]
        cells.append(line.get("rewritten", ""))
        cells += [line["precision"], line["device"], line["compared"], str(line["rows"])]
        cells.append(speed(line))
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
