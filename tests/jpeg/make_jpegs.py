"""Makes JPEG files of every kind that Pillow decodes, and `digests.tsv` with their pixel digests.

    pip install pillow==13.0.0 numpy==2.4.6
    apt-get install libjpeg-turbo-progs        # cjpeg, jpegtran
    python tests/jpeg/make_jpegs.py tests/jpeg

Their contents are computed here, so they are under the licence of this repository.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIZE = (45, 37)


def test_image() -> Image.Image:
    """Returns gradients with edges and noise; no side is a multiple of the block size."""
    width, height = SIZE
    y, x = np.mgrid[0:height, 0:width]
    disc = (x - 20) ** 2 + (y - 15) ** 2 < 90
    noise = (x * 7919 + y * 104729) % 53
    rgb = np.stack([x * 5, np.where(disc, 230, y * 6), np.where(x > y, 60, 190) + noise], axis=-1)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def run(program: str, *args: str, data: bytes) -> bytes:
    """Returns the output of a program for the input `data`."""
    return subprocess.run([program, *args], input=data, capture_output=True, check=True).stdout


def cjpeg(*args: str, scans: str | None = None) -> bytes:
    """Encodes the image with libjpeg-turbo's `cjpeg`, with the scan script if given."""
    ppm = io.BytesIO()
    test_image().save(ppm, "PPM")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as script:
        if scans:
            script.write(scans)
            script.flush()
            args = (*args, "-scans", script.name)
        return run("cjpeg", "-quality", "85", *args, data=ppm.getvalue())


def pillow(image: Image.Image, **options: object) -> bytes:
    """Returns the image as encoded by Pillow."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85, **options)
    return out.getvalue()


def adobe_transform(file: bytes, transform: int) -> bytes:
    """Returns the file with another colour transform in its Adobe segment."""
    at = file.index(b"Adobe") + 11
    return file[:at] + bytes([transform]) + file[at + 1 :]


def before_end(file: bytes, bytes_between: bytes) -> bytes:
    """Returns the file with bytes inserted between its last scan and its end marker."""
    assert file.endswith(b"\xff\xd9")
    return file[:-2] + bytes_between + file[-2:]


def oriented(orientation: int) -> bytes:
    """Returns a file with this EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return pillow(test_image(), exif=exif)


def whole_files() -> dict[str, bytes]:
    """Returns files that Pillow decodes without warnings."""
    cmyk = pillow(test_image().convert("CMYK"))
    plain = cjpeg("-sample", "2x2")
    files = {
        f"sample-{s}": cjpeg("-sample", s)
        for s in ["1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x2,1x2,2x1", "2x2,2x1,1x1"]
    }
    files |= {f"luma-small-{s}": cjpeg("-sample", s) for s in ["1x1,2x2,2x2", "1x1,2x1,1x2"]}
    files |= {
        f"progressive-{s}": cjpeg("-progressive", "-sample", s) for s in ["1x1", "2x1", "2x2"]
    }
    one_each, y_alone = "0;\n1;\n2;\n", "0;\n1 2;\n"
    files |= {
        f"scans-{s}": cjpeg("-sample", s, scans=one_each) for s in ["1x1", "2x1", "1x2", "2x2"]
    }
    files["scans-y-cbcr"] = cjpeg("-sample", "2x2", scans=y_alone)
    files["restart-1-block"] = cjpeg("-restart", "1B")
    files["restart-1-row"] = cjpeg("-progressive", "-restart", "1")
    files["restart-scans"] = cjpeg("-restart", "2B", scans=one_each)
    files["rgb"] = cjpeg("-rgb")
    files["grey"] = cjpeg("-grayscale")
    files["grey-progressive"] = cjpeg("-grayscale", "-progressive")
    files["optimised"] = cjpeg("-optimize", "-quality", "30")
    files["quality-1"] = cjpeg("-quality", "1", "-baseline")
    files["quality-100"] = cjpeg("-quality", "100", "-sample", "1x1")
    files["tables-16-bit"] = cjpeg("-quality", "1")
    files["cmyk"] = cmyk
    files["ycck"] = adobe_transform(cmyk, 2)
    files["cmyk-progressive"] = pillow(test_image().convert("CMYK"), progressive=True)
    files["adobe-unknown-transform"] = adobe_transform(cmyk, 7)
    files["1-pixel"] = pillow(test_image().resize((1, 1)))
    files["1-column"] = pillow(test_image().resize((1, 70)), subsampling="4:2:0")
    files["exif-6"] = oriented(6)
    files["exif-3"] = oriented(3)
    # Bytes that encoders and other programs add without affecting the pixels.
    files["padded-before-end"] = before_end(plain, b"\0\0\0")
    files["fill-before-end"] = before_end(plain, b"\xff" * 9)
    files["comment-before-end"] = before_end(plain, b"\xff\xfe\0\x06\xff\xd9ab")
    files["html-after-end"] = plain + b"<html></html>" * 9
    files["two-in-one"] = plain + cjpeg("-grayscale")
    files["bytes-in-header"] = plain[:20] + b"\0" * 40 + plain[20:]  # after APP0
    return files


def main() -> None:
    """Writes the files and their digests."""
    out = Path(sys.argv[1])
    lines = []
    for name, file in sorted(whole_files().items()):
        out.joinpath(f"{name}.jpg").write_bytes(file)
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        lines.append(f"{name}\t{image.width}\t{image.height}\t{digest}\n")
    out.joinpath("digests.tsv").write_text("".join(lines))
    out.joinpath("arithmetic.jpg").write_bytes(cjpeg("-arithmetic"))


if __name__ == "__main__":
    main()
