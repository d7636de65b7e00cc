"""Makes golden.json: reference results for inputs that are computed by formulas.

Run with the versions below. `models/tests/models/golden.rs` uses the same formulas.

    python models/tests/models/golden/make_golden.py

Versions: Python 3.11, numpy 2.4.6, pillow 13.0.0, torch 2.15.0, torchvision 0.29.2,
transformers 5.23.0, tokenizers 0.23.3.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf
from transformers import PreTrainedTokenizerFast, SiglipImageProcessor, WhisperFeatureExtractor

HERE = Path(__file__).parent
BUNDLE = HERE.parents[2] / "tiny"

FILTERS = {
    0: (Image.Resampling.NEAREST, InterpolationMode.NEAREST),
    1: (Image.Resampling.LANCZOS, InterpolationMode.LANCZOS),
    2: (Image.Resampling.BILINEAR, InterpolationMode.BILINEAR),
    3: (Image.Resampling.BICUBIC, InterpolationMode.BICUBIC),
}
# Width, height, new width, new height.
# The last three: Pillow 13 resizes vertically first if more than twice as many rows as columns go.
SIZES = [
    *[(41, 29, 16, 16), (16, 16, 41, 29), (50, 12, 20, 30), (12, 50, 30, 20), (33, 24, 33, 11)],
    *[(40, 160, 24, 96), (31, 60, 21, 39), (30, 60, 20, 40)],
]
LARGE = (640, 427, 96, 96)

TEXTS = [
    "What is the name of this emoji? 🐱",
    "How many apples are there?",
    "Übersetze: der Hund läuft  schnell.\n\nZwei Zeilen,\ttab.",
    "日本語のテキスト und العربية, 12345 + 6.78%",
    " leading and trailing ",
    "don't you'll we've I'd",
]


def noise_image(width: int, height: int, seed: int) -> np.ndarray:
    """Returns noise of a linear congruential generator, one step per byte."""
    state, values = seed, []
    for _ in range(width * height * 3):
        state = (state * 1103515245 + 12345) % (1 << 31)
        values.append((state >> 16) & 255)
    return np.array(values, dtype=np.uint8).reshape(height, width, 3)


def smooth_image(width: int, height: int) -> np.ndarray:
    """Returns triangular waves along both axes."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    wave = (x * 3 + y * (c + 2)) % 510
    return np.abs(wave - 255).astype(np.uint8)


def test_audio(n_samples: int) -> np.ndarray:
    """Returns two triangular waves; all steps except the last division are exact."""
    i = np.arange(n_samples, dtype=np.int64)
    low = np.abs((i % 73) * 2 - 73)
    high = np.abs((i % 11) * 2 - 11)
    return ((low * 4 + high * 3 - 160) / 512).astype(np.float32)


def resize(pixels: np.ndarray, width: int, height: int, number: int, backend: str) -> np.ndarray:
    """Resizes an image with one back end and Pillow's filter `number`."""
    pil_filter, torch_filter = FILTERS[number]
    if backend == "pil":
        return np.asarray(Image.fromarray(pixels).resize((width, height), pil_filter))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    resized = tvf.resize(tensor, [height, width], interpolation=torch_filter, antialias=True)
    return resized.permute(1, 2, 0).contiguous().numpy()


def resize_cases() -> list[dict]:
    """Returns small images, enlarged and reduced with every filter by both back ends."""
    cases = []
    for backend in ["torchvision", "pil"]:
        for number in FILTERS:
            for seed, (width, height, new_width, new_height) in enumerate(SIZES):
                pixels = noise_image(width, height, seed)
                resized = resize(pixels, new_width, new_height, number, backend)
                cases.append(
                    {
                        "backend": backend,
                        "resample": number,
                        "seed": seed,
                        "from": [width, height],
                        "to": [new_width, new_height],
                        # Enough to locate an error; the digest covers the rest.
                        "head": resized.reshape(-1)[:24].tolist(),
                        "sha256": hashlib.sha256(resized.tobytes()).hexdigest(),
                    }
                )
    return cases


def main() -> None:
    """Writes `golden.json`."""
    processor = json.loads((BUNDLE / "processor_config.json").read_text())
    image_processor = SiglipImageProcessor(**processor["image_processor"])
    audio_extractor = WhisperFeatureExtractor(**processor["feature_extractor"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUNDLE)

    width, height, new_width, new_height = LARGE
    large = smooth_image(width, height)
    pixel_values = image_processor(Image.fromarray(large), return_tensors="np")["pixel_values"][0]
    whisper = WhisperFeatureExtractor()
    features, whisper_features = (
        extractor(test_audio(n), sampling_rate=16000, return_tensors="np")["input_features"][0]
        for extractor, n in [(audio_extractor, 40_000), (whisper, 100_000)]
    )

    golden = {
        "resize": resize_cases(),
        "resize_large": {
            backend: [
                hashlib.sha256(
                    resize(large, new_width, new_height, n, backend).tobytes()
                ).hexdigest()
                for n in FILTERS
            ]
            for backend in ["torchvision", "pil"]
        },
        "pixel_values": {
            "shape": list(pixel_values.shape),
            "every_97th": pixel_values.reshape(-1)[::97].tolist(),
        },
        "input_features": {
            "shape": list(features.shape),
            "every_61st": [round(float(v), 6) for v in features.reshape(-1)[::61]],
        },
        "whisper_features": {
            "shape": list(whisper_features.shape),
            "every_997th": [round(float(v), 6) for v in whisper_features.reshape(-1)[::997]],
        },
        "tokenizer_sha256": hashlib.sha256((BUNDLE / "tokenizer.json").read_bytes()).hexdigest(),
        "token_ids": [
            {
                "text": text,
                "ids": tokenizer.apply_chat_template(
                    [
                        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                        {
                            "role": "user",
                            "content": [
                                {"type": "image"},
                                {"type": "text", "text": text},
                            ],
                        },
                    ],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                ),
            }
            for text in TEXTS
        ],
    }
    (HERE / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
