"""``python -m rfdetr_repro.data.domains``: writes the data sets of embedded-10."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from rfdetr_repro.spec.arguments import LARGEST_SEED, ArgumentParser, output_folder, whole
from rfdetr_repro.spec.logs import progress_bar

from .dataset import NOTE, DomainConfig, check_folders, folder_of, write_domain
from .kinds import DOMAINS, TEN

MOST_IMAGES = 10**6


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``python -m rfdetr_repro.data.domains``."""
    arguments = ArgumentParser(
        "rfdetr_repro.data.domains",
        description=f"Writes embedded-10: ten small data sets of different kinds, each as a COCO "
        f"folder with boxes and masks. {NOTE}",
        examples=(
            "domains --out data/domains",
            "domains --out data/domains --only cells document --seed 1",
        ),
    )
    arguments.add_argument(
        "--out",
        required=True,
        type=output_folder,
        help="folder in which each data set gets a folder of its own name",
    )
    arguments.add_argument(
        "--only",
        nargs="+",
        choices=tuple(DOMAINS),
        default=[domain.name for domain in TEN],
        metavar="NAME",
        help=f"the data sets to write; signs-3 is written only if it is named here, and has the "
        f"pictures of signs with three classes instead of forty. Names: {', '.join(DOMAINS)} "
        f"(default: the first ten)",
    )
    arguments.add_argument(
        "--train-images",
        type=whole(1, MOST_IMAGES),
        default=DomainConfig.train_images,
        help="number of images of each train split (default: %(default)s)",
    )
    arguments.add_argument(
        "--test-images",
        type=whole(1, MOST_IMAGES),
        default=DomainConfig.test_images,
        help="number of images of each val split and of each test split (default: %(default)s)",
    )
    arguments.add_argument(
        "--seed",
        type=whole(0, LARGEST_SEED),
        default=0,
        help="seed of the pictures (default: %(default)s)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``python -m rfdetr_repro.data.domains``."""
    args = parser().parse_args(argv)
    config = DomainConfig(args.train_images, args.test_images, args.test_images, args.seed)
    names = tuple(dict.fromkeys(args.only))
    check_folders(args.out, names, config)
    for name in names:
        progress = partial(progress_bar, title=f"composing {name}", unit="x32 images")
        folder = write_domain(folder_of(args.out, name), name, config, progress)
        print(f"{folder}: {DOMAINS[name].resembles}")
    print(NOTE)
