"""Makes the seeds of the torture tests: small image and audio files, one for each codec and
variant, and bombs: small files that unpack to large ones.

    pip install pillow==13.0.0 numpy==2.4.6 imageio-ffmpeg==0.8.1
    python tests/torture/make_seeds.py tests/torture/seeds

Their contents are computed here, so they are under the licence of this repository.
"""

import math
import subprocess
import sys
import wave
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

RATE_HZ = 22_050
SECONDS = 0.2


def image(shift: int = 0) -> Image.Image:
    """Returns a 40 x 28 gradient with a disc, which is not trivial for any codec."""
    y, x = np.mgrid[0:28, 0:40]
    disc = (x - 20 - shift) ** 2 + (y - 14) ** 2 < 81
    noise = (x * 7919 + y * 104729 + shift) % 31
    rgb = np.stack([x * 6, y * 8, np.where(disc, 220, 40) + noise], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8))


def save_images(folder: Path) -> None:
    """Writes an image of every supported kind."""
    frames = [image(shift) for shift in range(4)]
    first, rest = frames[0], frames[1:]
    first.save(folder / "plain.png")
    first.quantize(16).save(folder / "palette.png")
    first.save(folder / "frames.png", save_all=True, append_images=rest, duration=50)
    first.save(folder / "baseline.jpg", quality=80)
    first.save(folder / "progressive.jpg", quality=80, progressive=True)
    first.save(folder / "lossy.webp", quality=60)
    first.save(folder / "lossless.webp", lossless=True)
    first.save(folder / "frames.webp", save_all=True, append_images=rest, duration=50)
    first.quantize(32).save(
        folder / "frames.gif", save_all=True, append_images=[f.quantize(32) for f in rest]
    )
    first.save(folder / "plain.bmp")
    first.quantize(16).save(folder / "palette.bmp")
    first.save(folder / "plain.tiff")
    first.save(folder / "lzw.tiff", compression="tiff_lzw")
    first.save(folder / "deflate.tiff", compression="tiff_adobe_deflate")
    first.convert("L").save(folder / "packbits.tiff", compression="packbits")


def save_audio(folder: Path) -> None:
    """Writes an audio file of every supported kind."""
    time_s = np.arange(int(RATE_HZ * SECONDS)) / RATE_HZ
    left = np.sin(2 * math.pi * (300 * time_s + 900 * time_s**2))
    right = np.sin(2 * math.pi * 440 * time_s) * np.exp(-4 * time_s)
    samples = (np.stack([left, right], axis=-1) * 12_000).astype("<i2")
    source = folder / "pcm16.wav"
    with wave.open(str(source), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())
    encodings = {
        "float.wav": ["-c:a", "pcm_f32le"],
        "pcm16.aiff": [],
        "plain.flac": [],
        "constant.mp3": ["-b:a", "48k"],
        "variable.mp3": ["-q:a", "6"],
        "vorbis.ogg": ["-c:a", "libvorbis", "-q:a", "1"],
        "aac.m4a": ["-c:a", "aac", "-b:a", "48k"],
        "aac.aac": ["-c:a", "aac", "-b:a", "48k"],
    }
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-i", str(source)]
    for name, options in encodings.items():
        mono = [] if name in ("constant.mp3", "vorbis.ogg") else ["-ac", "1"]
        subprocess.run([*ffmpeg, *mono, *options, str(folder / name)], check=True)


def png_with(kind: bytes, head: bytes, n_bytes: int) -> bytes:
    """Returns a PNG with a compressed chunk that unpacks to `n_bytes` of zeros."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        )

    size = (2).to_bytes(4, "big")
    header = chunk(b"IHDR", size + size + bytes([8, 0, 0, 0, 0]))
    bomb = chunk(kind, head + zlib.compress(bytes(n_bytes), 9))
    pixels = chunk(b"IDAT", zlib.compress(bytes(6)))
    return b"\x89PNG\r\n\x1a\n" + header + bomb + pixels + chunk(b"IEND", b"")


def save_bombs(folder: Path) -> None:
    """Writes small files that unpack to large ones."""
    (folder / "text.png").write_bytes(png_with(b"zTXt", b"Comment\0\0", 64 << 20))
    (folder / "profile.png").write_bytes(png_with(b"iCCP", b"icc\0\0", 64 << 20))
    dots = [Image.new("RGB", (1, 1), shade) for shade in ("black", "white")] * 500
    dots[0].save(folder / "frames.gif", save_all=True, append_images=dots[1:])
    black = Image.new("1", (20_000, 20_000))
    black.save(folder / "black.png", optimize=True)
    black.crop((0, 0, 12_000, 12_000)).save(folder / "black.tiff", compression="group4")
    Image.new("L", (6_000, 6_000)).save(folder / "strips.tiff", compression="tiff_adobe_deflate")
    silence = ["-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "36000"]
    silence += ["-frame_size", "65535", "-compression_level", "0", str(folder / "silence.flac")]
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y"]
    subprocess.run([*ffmpeg, *silence], check=True)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    save_images(target)
    save_audio(target)
    bombs = target / "bombs"
    bombs.mkdir(exist_ok=True)
    save_bombs(bombs)
