"""Small images and audio clips by formula: the references name them, the tests read them.

Formulas make the files reproducible byte for byte. There are a few files of each kind that a
decoder must support (grey, palette, alpha, 16 bits; mono, stereo, other rates).
"""

import math
import wave

import numpy as np
from PIL import Image
from scipy.signal import resample_poly

from .common import MEDIA


def waves(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Returns triangular waves along both axes, with a different wavelength in each channel."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    return np.abs((x * (3 + c) + y * (c * 2 + 2)) % 510 - 255).astype(np.uint8)


def checks(width: int, height: int, size: int) -> np.ndarray:
    """Returns coloured squares, whose edges show resampling artifacts."""
    y, x = np.mgrid[0:height, 0:width] // size
    colours = np.array([[230, 40, 40], [40, 200, 60], [30, 60, 220], [250, 250, 240], [0, 0, 0]])
    return colours[(x * 2 + y * 3 + x * y) % 5].astype(np.uint8)


def noise(width: int, height: int, seed: int) -> np.ndarray:
    """Returns noise of a linear congruential generator, one step per byte."""
    state, values = seed, []
    for _ in range(width * height * 3):
        state = (state * 1103515245 + 12345) % (1 << 31)
        values.append((state >> 16) & 255)
    return np.array(values, np.uint8).reshape(height, width, 3)


def disc(width: int, height: int) -> np.ndarray:
    """Returns a bright disc on a dark background that gets lighter to the right."""
    y, x = np.mgrid[0:height, 0:width]
    inside = (x - width // 2) ** 2 + (y - height // 2) ** 2 < (min(width, height) // 3) ** 2
    ground = np.repeat((x * 90 // max(width - 1, 1))[..., None], 3, axis=2)
    return np.where(inside[..., None], [250, 200, 30], ground).astype(np.uint8)


def images() -> dict[str, Image.Image]:
    """Returns all images by file name."""
    grey = waves(48, 80)[..., 0]
    alpha = np.dstack([disc(60, 44), waves(60, 44)[..., 1]])
    grey_alpha = np.dstack([waves(31, 47)[..., 2], waves(31, 47)[..., 0]])
    palette = Image.fromarray(checks(70, 50, 9)).quantize(8, dither=Image.Dither.NONE)
    return {
        "tiny-7x5.png": Image.fromarray(noise(7, 5, 1)),
        "waves-300x200.png": Image.fromarray(waves(300, 200)),
        "waves-90x120.png": Image.fromarray(waves(90, 120)),
        "checks-64x64.png": Image.fromarray(checks(64, 64, 8)),
        "checks-200x40.png": Image.fromarray(checks(200, 40, 13)),
        "noise-33x24.png": Image.fromarray(noise(33, 24, 7)),
        "disc-120x90.png": Image.fromarray(disc(120, 90)),
        "disc-40x160.png": Image.fromarray(disc(40, 160)),
        "grey-48x80.png": Image.fromarray(grey),
        "bits-50x30.png": Image.fromarray(checks(50, 30, 7)[..., 0]).convert("1", dither=0),
        "grey-alpha-31x47.png": Image.fromarray(grey_alpha, "LA"),
        "alpha-60x44.png": Image.fromarray(alpha, "RGBA"),
        "palette-70x50.png": palette,
    }


def large_images() -> dict[str, Image.Image]:
    """Returns images of more than one crop, by file name; only `phi4` uses them."""
    return {
        "checks-700x460.png": Image.fromarray(checks(700, 460, 37)),
        "checks-700x300.png": Image.fromarray(checks(700, 300, 29)),
    }


def tone(seconds: float, rate: int, start_hz: float, end_hz: float) -> np.ndarray:
    """Returns a gliding tone with an overtone and a slow beat; full scale is 1."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (start_hz + (end_hz - start_hz) * time / (2 * seconds)) * time
    beat = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)
    return 0.5 * beat * (np.sin(phase) + 0.3 * np.sin(3 * phase))


def audio_clips() -> dict[str, tuple[np.ndarray, int]]:
    """Returns all audio clips by file name: samples [N] or [N, 2], and the rate."""
    hiss = noise(16000, 1, 3).reshape(-1)[:16000] / 255.0 - 0.5
    left, right = tone(0.5, 44100, 300, 900), tone(0.5, 44100, 1200, 200)
    gate = (np.arange(40000) // 4000) % 2
    return {
        "glide-2s.wav": (tone(2.0, 16000, 200, 1500), 16000),
        "fall-1s.wav": (tone(1.0, 16000, 2500, 150), 16000),
        "hiss-1s.wav": (hiss * 0.4, 16000),
        "beeps-2.5s.wav": (tone(2.5, 16000, 660, 660) * gate, 16000),
        "low-3s.wav": (tone(3.0, 16000, 90, 130), 16000),
        "short-0.3s.wav": (tone(0.3, 16000, 500, 3000), 16000),
        "steps-1.7s.wav": (tone(1.7, 16000, 1000, 300) * np.linspace(1, 0.1, 27200), 16000),
        "quiet-0.8s.wav": (tone(0.8, 16000, 800, 820) * 0.02, 16000),
        "stereo-44100.wav": (np.stack([left, right], 1), 44100),
    }


def make() -> None:
    """Writes all files."""
    MEDIA.mkdir(exist_ok=True)
    for name, image in (images() | large_images()).items():
        image.save(MEDIA / name, optimize=True)
    for name, (samples, rate) in audio_clips().items():
        values = np.round(samples * 32767).astype("<i2")
        with wave.open(str(MEDIA / name), "wb") as file:
            file.setnchannels(1 if values.ndim == 1 else values.shape[1])
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(values.tobytes())


def read_image(name: str) -> Image.Image:
    """Returns an image as Hugging Face's loaders pass it to a processor."""
    return Image.open(MEDIA / name).convert("RGB")


def read_audio(name: str) -> np.ndarray:
    """Returns the samples at 16 kHz, float32 in -1..1; channels are averaged, then resampled."""
    with wave.open(str(MEDIA / name)) as file:
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        values = values.reshape(-1, file.getnchannels()).mean(axis=1)
        rate = file.getframerate()
    if rate != 16000:
        divisor = math.gcd(rate, 16000)
        values = resample_poly(values, 16000 // divisor, rate // divisor)
    return values.astype(np.float32)
