"""Compares the pixels that Legenda and Pillow decode from image files.

    pip install pillow==13.0.0
    cargo build --release -p legenda-pipeline --example decode_images
    python tests/jpeg/compare_pillow.py target/release/examples/decode_images FOLDER...

For each format, prints how many files have equal pixels, how many differ, and how many only one of
the two decodes. Then prints the files that differ.
"""

import collections
import hashlib
import subprocess
import sys
import warnings

from PIL import Image, ImageOps

PIXELS_MAX = 64_000_000


def pillow(path: str) -> tuple[str, str]:
    """Returns the format and a digest of the pixels (empty if Pillow refuses the file)."""
    kind = "unknown"
    try:
        with Image.open(path) as image:
            kind = image.format or kind
            if image.width * image.height > PIXELS_MAX:
                return kind, ""
            image.load()
            rgb = ImageOps.exif_transpose(image).convert("RGB")
        digest = hashlib.sha256(rgb.tobytes()).hexdigest()[:16]
        return kind, f"{rgb.width}x{rgb.height} {digest}"
    except Exception:  # noqa: BLE001 (Pillow raises many exception types for damaged files)
        return kind, ""


def main() -> None:
    """Compares every file of the folders."""
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None
    listing = subprocess.run(sys.argv[1:], capture_output=True, text=True, check=True).stdout
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    different = []
    for line in listing.splitlines():
        path, size, rest = line.split("\t", 2)
        ours = "" if size == "error" else f"{size} {rest.split(chr(9))[0]}"
        kind, theirs = pillow(path)
        if ours == theirs:
            outcome = "equal pixels" if ours else "both reject"
        else:
            outcome = (
                "other pixels"
                if ours and theirs
                else ("only Pillow rejects" if ours else "only Legenda rejects")
            )
            different.append(f"{kind}\t{outcome}\t{line}")
        counts[kind, outcome] += 1
    for (kind, outcome), n_files in sorted(counts.items()):
        print(f"{kind:8} {outcome:22} {n_files}")
    print(*sorted(different), sep="\n")


if __name__ == "__main__":
    main()
