"""Makes the screenshots of `docs/` small: those that the test of the pages left in `target/pages`.

First run `just pages`, then `python docs/make_screenshots.py` (needs pillow).
"""

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHOTS = {
    "jobs-light": "docs/schedule/jobs.png",
    "jobs-dark": "docs/schedule/jobs-dark.png",
    "jobs-phone": "docs/schedule/jobs-phone.png",
    "job": "docs/schedule/job.png",
    "run": "docs/schedule/run.png",
    "report": "docs/report.png",
    "report-neighbours": "docs/report-neighbours.png",
}
N_COLORS = 256


def main() -> None:
    """Reduces the colors of each screenshot."""
    for shot, path in SHOTS.items():
        image = Image.open(ROOT / f"target/pages/{shot}.png").convert("RGB")
        image.quantize(N_COLORS, dither=Image.Dither.NONE).save(ROOT / path, optimize=True)


main()
