"""``python -m rfdetr_repro.data.embedded``: writes the embedded data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import LARGEST_SEED, ArgumentParser, output_folder, whole

from .dataset import NOTE, EmbeddedConfig, write_embedded


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser("rfdetr_repro.data.embedded", description=NOTE)
    arguments.add_argument("--out", required=True, type=output_folder, help="folder to write")
    arguments.add_argument(
        "--train-images",
        type=whole(1, 10**6),
        default=EmbeddedConfig.train_images,
        help="how many (default: %(default)s)",
    )
    arguments.add_argument(
        "--side",
        type=whole(64, 4096),
        default=EmbeddedConfig.image_side,
        help="image side in pixels",
    )
    arguments.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), default=0, help="of the compositions"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    config = EmbeddedConfig(image_side=args.side, train_images=args.train_images, seed=args.seed)
    print(f"{write_embedded(args.out, config)}: {NOTE}")
