"""Makes small audio files of every format and codec, to test where the samples start and end.

    pip install numpy==2.4.6 imageio-ffmpeg==0.8.1
    python tests/audio/make_audio.py tests/audio/files

All contain the audio of `channel` below, which `tests/tests/cli/audio.rs` also computes.
"""

import math
import subprocess
import sys
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np

SECONDS = 0.3
FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y"]
# Without versions and times, so that the files are reproducible.
PLAIN = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"]


def channel(index: int, rate_hz: int) -> np.ndarray:
    """Returns one channel: a rising tone plus a hum; the sweep differs by channel."""
    time_s = np.arange(round(rate_hz * SECONDS)) / rate_hz
    rising = np.sin(2 * math.pi * ((300 + 40 * index) * time_s + 1500 * time_s**2))
    return 0.4 * rising + 0.2 * np.sin(2 * math.pi * 110 * time_s)


def source(folder: Path, rate_hz: int, n_channels: int) -> Path:
    """Writes a WAV file from which the other files are encoded."""
    samples = np.stack([channel(index, rate_hz) for index in range(n_channels)], axis=-1)
    path = folder / f"source-{rate_hz}-{n_channels}.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(n_channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32_767).round().astype("<i2").tobytes())
    return path


def convert(path: Path, target: Path, *options: str) -> None:
    """Writes `target` with ffmpeg."""
    subprocess.run([*FFMPEG, "-i", str(path), *PLAIN, *options, str(target)], check=True)


def main(folder: Path) -> None:
    """Writes all files."""
    folder.mkdir(parents=True, exist_ok=True)
    stereo, mono, wide = (
        source(folder, 22_050, 2),
        source(folder, 16_000, 1),
        source(folder, 48_000, 2),
    )
    surround = source(folder, 24_000, 6)

    aac = ["-c:a", "aac", "-b:a", "64k"]
    convert(stereo, folder / "aac.m4a", *aac)
    convert(mono, folder / "aac-mono.mp4", *aac)
    convert(surround, folder / "aac-surround.m4a", *aac)
    cut = ["-ss", "0.1", "-t", "0.15", "-i", str(folder / "aac.m4a")]
    subprocess.run([*FFMPEG, *cut, *PLAIN, "-c", "copy", str(folder / "aac-cut.m4a")], check=True)
    convert(stereo, folder / "mp3.mp3", "-q:a", "3")
    convert(mono, folder / "mp3-mono.mp3", "-b:a", "48k")
    convert(stereo, folder / "mp3.wav", "-c:a", "libmp3lame", "-q:a", "3")
    convert(wide, folder / "mp2.mp2", "-c:a", "mp2", "-b:a", "128k")

    vorbis = ["-c:a", "libvorbis", "-q:a", "3"]
    convert(stereo, folder / "vorbis.ogg", *vorbis)
    convert(mono, folder / "vorbis-mono.ogg", *vorbis, "-serial_offset", "7")
    convert(surround, folder / "vorbis-surround.ogg", *vorbis)
    both = (folder / "vorbis.ogg").read_bytes(), (folder / "vorbis-mono.ogg").read_bytes()
    (folder / "chained.ogg").write_bytes(both[0] + both[1])

    opus = ["-c:a", "libopus", "-b:a", "48k"]
    convert(wide, folder / "opus.ogg", *opus)
    convert(wide, folder / "opus.mp4", *opus)
    convert(mono, folder / "opus-voice.ogg", *opus, "-application", "voip", "-b:a", "16k")
    convert(surround, folder / "opus-surround.ogg", *opus, "-b:a", "160k")

    convert(stereo, folder / "flac.ogg", "-c:a", "flac")
    convert(stereo, folder / "flac.mp4", "-c:a", "flac", "-strict", "-2")
    convert(
        stereo,
        folder / "flac-32.flac",
        "-c:a",
        "flac",
        "-sample_fmt",
        "s32",
        "-strict",
        "-2",
        "-bits_per_raw_sample",
        "32",
    )
    convert(stereo, folder / "alac.m4a", "-c:a", "alac")
    convert(stereo, folder / "ac3.mp4", "-c:a", "ac3", "-b:a", "96k", "-ar", "32000")
    for name, codec in [
        ("adpcm-ms", "adpcm_ms"),
        ("adpcm-ima", "adpcm_ima_wav"),
        ("a-law", "pcm_alaw"),
        ("mu-law", "pcm_mulaw"),
        ("bits-24", "pcm_s24le"),
    ]:
        convert(mono, folder / f"{name}.wav", "-c:a", codec)
    for path in [stereo, mono, wide, surround]:
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
