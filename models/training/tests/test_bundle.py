"""Exports a small random model, runs it in ONNX Runtime and restores it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from legenda_training.export import export_bundle, frozen
from legenda_training.modeling import LegendaForConditionalGeneration, tiny_config
from legenda_training.parity import check_slots
from legenda_training.restore import load_bundle, unfold_norms
from legenda_training.runner import BundleRunner, Row
from legenda_training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """An exported toy bundle and its frozen PyTorch model."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(1200)
    model = LegendaForConditionalGeneration(tiny_config(len(tokenizer), "check"))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for parameter in model.parameters():  # the exporter would merge equal initializers
            parameter.add_(0.02 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("bundle")
    return folder, export_bundle(model, tokenizer, folder)


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(1)
    model = LegendaForConditionalGeneration(tiny_config(1200, "check")).eval()
    pixels = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
        before, after = model.vision_encoder(pixels), frozen(model).vision_encoder(pixels)
    assert torch.allclose(before, after, atol=0.02)


def test_unfolding_keeps_the_function_and_gives_statistics_back(
    bundle: tuple[Path, torch.nn.Module],
) -> None:
    encoder = load_bundle(bundle[0]).vision_encoder
    pixels = torch.rand(16, 3, 96, 96)
    with torch.no_grad():
        before = encoder(pixels)
        unfold_norms(encoder, pixels)
        in_evaluation, in_training = encoder.eval()(pixels), encoder.train()(pixels)
    # In training, a norm uses the batch statistics, which are the same here.
    assert torch.allclose(before, in_evaluation, atol=1e-4)
    assert torch.allclose(before, in_training, atol=1e-2)


def test_slots_equal_pytorch(bundle: tuple[Path, torch.nn.Module]) -> None:
    assert check_slots(bundle[0]) < 1e-3


def test_weights_come_back_exactly(bundle: tuple[Path, torch.nn.Module]) -> None:
    folder, model = bundle
    stored, loaded = model.state_dict(), load_bundle(folder).state_dict()
    assert stored.keys() == loaded.keys()
    for name, value in stored.items():
        if "num_batches" not in name:
            assert torch.allclose(value, loaded[name], atol=1e-6), name


def test_all_media_run_through_the_bundle(bundle: tuple[Path, torch.nn.Module]) -> None:
    from PIL import Image

    runner = BundleRunner(bundle[0])
    image = Image.fromarray(np.full((50, 70, 3), 90, np.uint8))
    audio = np.zeros(8000, np.float32)
    rows = [Row("Hello?"), Row("What is this?", image), Row(None, image, audio)]
    assert all(len(tokens) >= 1 for tokens in runner.generate(rows))


def test_answers_do_not_depend_on_the_batch(bundle: tuple[Path, torch.nn.Module]) -> None:
    runner = BundleRunner(bundle[0])
    rows = [Row(" and ".join(["a dog"] * n) + "?") for n in (1, 5, 2, 9, 3, 7, 4)]
    single = [tokens for row in rows for tokens in runner.generate([row])]
    assert runner.generate(rows, batch=len(rows)) == single
    assert runner.generate(rows, batch=3) == single


def test_tokenizer_gives_text_back(bundle: tuple[Path, torch.nn.Module]) -> None:
    tokenizer = BundleRunner(bundle[0]).processor.tokenizer
    for text in ("a dog left of a cat", "  zwei  Löwen\n", "Ünïcode 🐶"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
