"""Draws `docs/captions.png`: sample images with the captions of a run.

First run `cargo run --release -- run jobs/examples/captions.toml --overwrite`, then
`python docs/make_gallery.py` (needs pillow and pyarrow).
"""

import io
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
TILE_PX, TEXT_PX, COLUMNS, ROWS = 180, 56, 5, 2


def main() -> None:
    """Draws evenly spaced rows of the table, with right and wrong captions."""
    parts = sorted((ROOT / "out/captions").glob("part-*.parquet"))
    answers = ds.dataset([str(part) for part in parts]).to_table().to_pylist()
    table = pq.read_table(ROOT / "jobs/examples/sample/pictures.parquet")
    images = dict(zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True))
    step = len(answers) // (COLUMNS * ROWS)
    shown = answers[:: max(step, 1)][: COLUMNS * ROWS]
    size = (COLUMNS * TILE_PX, ROWS * (TILE_PX + TEXT_PX))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for index, row in enumerate(shown):
        x = index % COLUMNS * TILE_PX
        y = index // COLUMNS * (TILE_PX + TEXT_PX)
        image = Image.open(io.BytesIO(images[row["id"]])).convert("RGB")
        sheet.paste(image.resize((TILE_PX - 8, TILE_PX - 8)), (x + 4, y + 4))
        for line, text in enumerate(wrap(row["answer"], draw, font)[:3]):
            draw.text((x + 6, y + TILE_PX + line * 16), text, fill="black", font=font)
    sheet.save(ROOT / "docs/captions.png", optimize=True)


def wrap(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> list[str]:
    """Wraps a caption to the width of a tile."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) > TILE_PX - 12 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


if __name__ == "__main__":
    main()
