"""``python -m rfdetr_repro.data.embedded``: writes the embedded data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import LARGEST_SEED, ArgumentParser, number, output_folder, whole

from .dataset import NOTE, EmbeddedConfig, write_embedded


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``python -m rfdetr_repro.data.embedded``."""
    arguments = ArgumentParser(
        "rfdetr_repro.data.embedded",
        description=f"Writes the synthetic data set that comes with this package. {NOTE}",
        examples=("embedded --out data/embedded", "embedded --out data/varied --varied 0.5"),
    )
    arguments.add_argument(
        "--out", required=True, type=output_folder, help="folder to write the data set to"
    )
    arguments.add_argument(
        "--train-images",
        type=whole(1, 10**6),
        default=EmbeddedConfig.train_images,
        help="number of images of the train split (default: %(default)s)",
    )
    arguments.add_argument(
        "--side",
        type=whole(64, 4096),
        default=EmbeddedConfig.image_side,
        help="side of the square images in pixels (default: %(default)s)",
    )
    arguments.add_argument(
        "--seed",
        type=whole(0, LARGEST_SEED),
        default=0,
        help="seed of the compositions (default: %(default)s)",
    )
    arguments.add_argument(
        "--varied",
        type=number(0.0, 1.0),
        default=EmbeddedConfig.varied,
        metavar="SHARE",
        help="share of the objects and backgrounds of the train split that get another shape and "
        "other colours, from 0 to 1, so that a model learns the classes and not the few objects "
        "(default: %(default)s)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``python -m rfdetr_repro.data.embedded``."""
    args = parser().parse_args(argv)
    config = EmbeddedConfig(
        image_side=args.side, train_images=args.train_images, seed=args.seed, varied=args.varied
    )
    print(f"{write_embedded(args.out, config)}: {NOTE}")
