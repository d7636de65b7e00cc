"""Makes 1,000 photograph-like JPEG files, to measure decoding speed.

    pip install pillow==13.0.0 numpy==2.4.6
    python tests/jpeg/make_bench.py FOLDER
    cargo run --release -p legenda-pipeline --example decode_images -- --rounds 5 FOLDER

Each image is noise whose amplitude falls with frequency (1/f), as in photographs. Sizes and
qualities are typical of web images: 500 x 375 and 640 x 480 at quality 75 to 92, three quarters
with 4:2:0 chroma subsampling, a tenth progressive.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

N_FILES = 1000


def noise_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Returns three planes of noise; the first plane is added to the others."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    falloff = 1 / np.maximum(np.hypot(fx, fy), 1 / max(width, height))
    planes = []
    for _ in range(3):
        spectrum = np.fft.fft2(rng.standard_normal((height, width))) * falloff
        plane = np.fft.ifft2(spectrum).real
        planes.append(plane / plane.std())
    grey = planes[0]
    rgb = np.stack([grey, grey + planes[1] / 3, grey + planes[2] / 3], axis=-1)
    return Image.fromarray((128 + 48 * rgb).clip(0, 255).astype(np.uint8))


def main() -> None:
    """Writes the files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(19)
    for number in range(N_FILES):
        size = [(500, 375), (640, 480)][number % 2]
        options = {
            "quality": [75, 80, 85, 90, 92][number % 5],
            "subsampling": ["4:2:0", "4:2:0", "4:2:0", "4:4:4"][number // 2 % 4],
            "progressive": number % 10 == 7,
        }
        noise_image(rng, *size).save(folder / f"{number:04}.jpg", **options)


if __name__ == "__main__":
    main()
