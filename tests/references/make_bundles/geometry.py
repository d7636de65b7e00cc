"""Sizes, grids, positions and pixel values of many images, computed by the references."""

import itertools
import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from transformers import (
    AutoImageProcessor,
    Idefics3ImageProcessor,
    Phi4MultimodalImageProcessorFast,
    Qwen2VLConfig,
    Qwen2VLModel,
)
from transformers.image_processing_utils_fast import SizeDict
from transformers.image_utils import ChannelDimension
from transformers.models.idefics3.image_processing_idefics3 import (
    MAX_IMAGE_SIZE,
    _resize_output_size_rescale_to_max_len,
    _resize_output_size_scale_below_upper_bound,
)
from transformers.models.phi4_multimodal import (
    image_processing_phi4_multimodal_fast as phi4_module,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from . import media
from .common import BUNDLES, REFERENCES

EDGES = [1, 2, 3, 7, 13, 28, 31, 64, 97, 130, 199, 224, 333, 480, 512, 641, 1000, 1023, 1365, 4097]
# The first resize and the tile edge of the test bundle, SmolVLM and Idefics3.
TILES = [(96, 32), (2048, 512), (1456, 364)]
# Patch, minimum and maximum pixels of the test bundle, Qwen2-VL, and one that shrinks most images.
PATCHES = [(8, 1024, 9216), (14, 3136, 12845056), (14, 3136, 50176)]


@dataclass
class Spec:
    """The name on the command line."""

    name: str


SPECS = [Spec("geometry")]


def blank_image(width: int, height: int) -> np.ndarray:
    """Returns an image that takes one byte of memory, channels first."""
    return np.broadcast_to(np.uint8(0), (3, height, width))


class Sizes(Idefics3ImageProcessor):
    """Computes sizes without resizing pixels."""

    def resize(self, image: np.ndarray, size: dict[str, int], **_: object) -> np.ndarray:
        """Returns an image of the requested size."""
        return blank_image(size["width"], size["height"])


def idefics3() -> list[list[int]]:
    """Returns width, height and edges; then width, height, rows and columns of the tiles."""
    results, processor = [], Sizes()
    for (longest, tile), width, height in itertools.product(TILES, EDGES, EDGES):
        size = _resize_output_size_rescale_to_max_len(height, width, max_len=longest)
        size = _resize_output_size_scale_below_upper_bound(*size, max_len=MAX_IMAGE_SIZE)
        first = blank_image(size[1], size[0])
        layout = {"input_data_format": ChannelDimension.FIRST}
        full = processor.resize_for_vision_encoder(first, tile, **layout)
        _, rows, columns = processor.split_image(full, {"longest_edge": tile}, **layout)
        results.append([width, height, longest, tile, *full.shape[:0:-1], rows, columns])
    return results


def qwen2_vl() -> list[list[int]]:
    """Returns width, height, patch and limits; then width and height, or 0 for refused sizes."""
    results = []
    for (patch, min_pixels, max_pixels), width, height in itertools.product(PATCHES, EDGES, EDGES):
        try:
            size = smart_resize(height, width, patch * 2, min_pixels, max_pixels)
        except ValueError:
            size = (0, 0)
        results.append([width, height, patch, min_pixels, max_pixels, size[1], size[0]])
    return results


def mrope() -> list[dict]:
    """Returns positions of prompts: text (1), image start (8) and image features (9)."""
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "vocab_size": 16,
        },
        vision_config={"depth": 1, "embed_dim": 8, "hidden_size": 8, "num_heads": 1},
        image_token_id=9,
        video_token_id=10,
        vision_start_token_id=8,
    )
    model = Qwen2VLModel(config)
    results = []
    for grids, texts in [
        ([], [5]),
        ([[1, 4, 6]], [3, 4]),
        ([[1, 2, 2]], [0, 0]),
        ([[1, 6, 2], [1, 2, 16]], [2, 0, 1]),
        ([[1, 2, 10], [1, 8, 8], [1, 2, 2]], [1, 1, 0, 7]),
    ]:
        ids = [1] * texts[0]
        for (frames, rows, columns), text in zip(grids, texts[1:], strict=True):
            ids += [8] + [9] * (frames * rows * columns // 4) + [1] * text
        grid = torch.tensor(grids) if grids else None
        positions, delta = model.get_rope_index(torch.tensor([ids]), grid)
        results.append(
            {"token_ids": ids, "grids": grids, "ids": positions[:, 0].tolist(), "delta": int(delta)}
        )
    return results


class Crops(Phi4MultimodalImageProcessorFast):
    """Computes crops without resizing pixels."""

    def resize(self, image: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Returns one crop of the image."""
        return image[:, :448, :448]

    def rescale_and_normalize(self, image: torch.Tensor, *_: object) -> torch.Tensor:
        """Returns the image unchanged."""
        return image


def phi4() -> list[list[int]]:
    """Returns width, height, crop limit; then columns, rows and tokens, or 0 for refused sizes."""

    def blank(height: int, width: int) -> torch.Tensor:
        return torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, height, width)

    def padded(image: torch.Tensor, padding: list[int], **_: object) -> torch.Tensor:
        return blank(image.shape[1] + padding[3], image.shape[2] + padding[2])

    real = phi4_module.F
    phi4_module.F = SimpleNamespace(resize=lambda image, size: blank(*size), pad=padded)
    results, processor = [], Crops()
    limits = {"dynamic_hd": None, "patch_size": 14, "size": SizeDict(height=448, width=448)}
    rest = dict.fromkeys(["interpolation", "do_rescale", "rescale_factor", "do_normalize"])
    for max_crops, width, height in itertools.product((3, 36), EDGES, EDGES):
        options = {**limits, **rest, "dynamic_hd": max_crops}
        try:
            outputs = processor._preprocess([blank(height, width)], **options)
            rows, columns = (outputs["image_sizes"][0] // 448).tolist()
            results.append([width, height, max_crops, columns, rows, outputs["num_img_tokens"][0]])
        except ValueError:
            results.append([width, height, max_crops, 0, 0, 0])
    phi4_module.F = real
    return results


def pixels() -> list[dict]:
    """Returns some of the pixel values that the image processors of the bundles compute."""
    results = []
    for bundle in ["llava", "smolvlm", "paligemma", "gemma3", "qwen2_vl", "gemma3n", "phi4"]:
        names, step = ["tiny-7x5.png", "alpha-60x44.png", "waves-300x200.png"], 61
        if bundle == "phi4":
            # Its processor config belongs to another package. Its images become large.
            processor = Phi4MultimodalImageProcessorFast(dynamic_hd=3)
            names, step = ["waves-300x200.png", "checks-700x460.png", "checks-700x300.png"], 2003
        else:
            # As in `multimodal`: torchvision lacks the tile resize filter.
            use_fast = bundle != "smolvlm"
            processor = AutoImageProcessor.from_pretrained(BUNDLES / bundle, use_fast=use_fast)
        for name in names:
            outputs = processor(media.read_image(name), return_tensors="pt")
            values = outputs.get("pixel_values", outputs.get("image_pixel_values"))
            # Tiles have a leading image axis.
            shape = list(values.shape[1:] if values.ndim == 5 else values.shape)
            sampled = [round(value, 8) for value in values.flatten()[::step].tolist()]
            case = {"bundle": bundle, "image": name, "shape": shape, "step": step}
            results.append({**case, "values": sampled})
    return results


def make(_: Spec) -> None:
    """Writes the file; the bundles must exist."""
    families = {"idefics3": idefics3(), "qwen2_vl": qwen2_vl(), "phi4": phi4(), "mrope": mrope()}
    families["pixels"] = pixels()
    parts = []
    for name, cases in families.items():
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        parts.append(f'"{name}": [\n{lines}\n]')
    (REFERENCES / "geometry.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
