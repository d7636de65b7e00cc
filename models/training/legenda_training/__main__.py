"""Command line: `python -m legenda_training {prepare,train,evaluate,export,finetune,...}`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parents[1]


def parser() -> argparse.ArgumentParser:
    """Returns the parser with the options of every command."""
    main = argparse.ArgumentParser(prog="legenda_training", description=__doc__)
    main.add_argument(
        "--data",
        type=Path,
        default=PACKAGE / "data",
        help="work folder for icons, sprites, speech and checkpoints",
    )
    main.add_argument(
        "--preset",
        choices=("tiny", "check"),
        default="tiny",
        help="`check` is a toy size that runs the whole pipeline in minutes",
    )
    main.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    commands = main.add_subparsers(dest="command", required=True)
    prepared = commands.add_parser(
        "prepare", help="render sprites, synthesise speech, train the tokenizer"
    )
    prepared.add_argument(
        "--utterances", type=int, default=20_000, help="utterances of the trained voices"
    )
    train = commands.add_parser("train", help="train one stage, or all in order; resumes")
    train.add_argument(
        "--stage", choices=("all", "vision", "audio", "listen", "answer", "joint"), default="all"
    )
    train.add_argument(
        "--bundle", type=Path, help="`vision` or `answer` start from the weights of this bundle"
    )
    train.add_argument("--minutes", type=float, help="wall-clock budget of each stage")
    train.add_argument("--rate", type=float, help="peak learning rate of each stage")
    train.add_argument(
        "--keep-hearing", action="store_true", help="`joint` does not train the audio tower"
    )
    for name, text in (
        ("evaluate", "score a bundle"),
        ("export", "write a bundle"),
        ("sample", "write the sample tables"),
        ("card", "write the model card of a bundle from its scores"),
        ("references", "write the reference answers"),
        ("parity", "compare the slots of a bundle with PyTorch"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--bundle", type=Path, default=REPOSITORY / "models" / "tiny")
        command.add_argument(
            "--sample", type=Path, default=REPOSITORY / "jobs" / "examples" / "sample"
        )
        command.add_argument("--out", type=Path)
        command.add_argument(
            "--share", type=float, default=1.0, help="fraction of the evaluation rows to use"
        )
    tune = commands.add_parser("finetune", help="train a bundle on a Parquet table")
    tune.add_argument("table", type=Path)
    tune.add_argument("--bundle", type=Path, default=REPOSITORY / "models" / "tiny")
    tune.add_argument("--out", type=Path, required=True)
    tune.add_argument("--steps", type=int, default=300)
    tune.add_argument("--batch", type=int, default=16)
    tune.add_argument("--rate", type=float, default=2e-4)
    return main


STAGE_MINUTES = {
    "tiny": {"vision": 120.0, "audio": 40.0, "listen": 30.0, "answer": 40.0, "joint": 110.0},
    "check": {"vision": 0.25, "audio": 0.25, "listen": 0.2, "answer": 0.2, "joint": 0.4},
}
"""Default wall-clock budgets on two free cores."""
STAGE_RATE = {
    "vision": 1.8e-3,
    "audio": 1.5e-3,
    "listen": 1.2e-3,
    "answer": 1.2e-3,
    "joint": 1.2e-3,
}
"""Default peak learning rates."""


def prepare(options: argparse.Namespace) -> None:
    """Makes the training data, once."""
    from .emoji import prepare_sprites
    from .speech import prepare_speech
    from .tokenizer import stored_tokenizer

    toy = options.preset == "check"
    prepare_sprites(options.data)
    prepare_speech(options.data, "held_out", 60 if toy else 1500, held_out=True)
    prepare_speech(options.data, "trained", 400 if toy else options.utterances, held_out=False)
    stored_tokenizer(options.data)


def train(options: argparse.Namespace) -> None:
    """Trains one stage, or all stages in order."""
    from .modeling import LegendaForConditionalGeneration, tiny_config
    from .pretrain_audio import pretrain_audio
    from .pretrain_vision import pretrain_vision
    from .restore import load_bundle
    from .tokenizer import stored_tokenizer
    from .train import train as train_stage

    runs = options.data / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    stages = tuple(STAGE_MINUTES["tiny"]) if options.stage == "all" else (options.stage,)
    for stage in stages:
        minutes = options.minutes or STAGE_MINUTES[options.preset][stage]
        rate = options.rate or STAGE_RATE[stage]
        if stage in ("vision", "audio"):
            vocabulary_size = len(stored_tokenizer(options.data))
            model = LegendaForConditionalGeneration(tiny_config(vocabulary_size, options.preset))
            if stage == "vision":
                if options.bundle:
                    model = load_bundle(options.bundle)
                pretrain_vision(
                    model.vision_encoder,
                    options.data,
                    runs / "vision.pt",
                    60 * minutes,
                    peak=rate,
                    warm=options.bundle is not None,
                )
            else:
                pretrain_audio(
                    model.audio_encoder.tower,
                    options.data,
                    runs / "audio.pt",
                    60 * minutes,
                    peak=rate,
                )
        else:
            scale = 0.25 if options.preset == "check" else 1.0
            train_stage(
                options.data,
                runs,
                60 * minutes,
                stage,
                options.preset,
                peak=rate,
                scale=scale,
                bundle=options.bundle,
                train_audio=not options.keep_hearing,
            )


def export(options: argparse.Namespace) -> None:
    """Exports the latest checkpoint to a bundle and compares it with PyTorch."""
    from .export import export_bundle
    from .parity import check_slots
    from .tokenizer import stored_tokenizer
    from .train import trained_model

    out = options.out or options.bundle
    model = trained_model(options.data, options.data / "runs", options.preset)
    export_bundle(model, stored_tokenizer(options.data), out)
    check_slots(out)


def main() -> None:
    """Runs a command."""
    options = parser().parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(options.threads)
    if options.command == "prepare":
        prepare(options)
    elif options.command == "train":
        train(options)
    elif options.command == "export":
        export(options)
    elif options.command == "evaluate":
        from .evaluate import evaluate

        evaluate(
            options.bundle, options.data, options.out or options.data / "scores", options.share
        )
    elif options.command == "card":
        from .card import write_card

        write_card(options.bundle, options.data, options.out or options.data / "scores")
    elif options.command == "sample":
        from .sample import make_sample

        make_sample(options.data, options.out or options.sample)
    elif options.command == "references":
        from .references import make_references

        out = options.out or REPOSITORY / "tests" / "references"
        if make_references(options.bundle, options.sample, out):
            raise SystemExit("PyTorch and ONNX Runtime disagree")
    elif options.command == "parity":
        from .parity import check_slots

        check_slots(options.bundle)
    else:
        from .finetune import finetune

        finetune(
            options.bundle, options.table, options.out, options.steps, options.batch, options.rate
        )


if __name__ == "__main__":
    main()
