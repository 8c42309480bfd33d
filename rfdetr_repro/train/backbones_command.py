"""``rfdetr-repro backbones``: compares backbones on one data set, as Table 6 of the paper does."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.data.source import DataSource, add_data_arguments, source_of
from rfdetr_repro.spec.arguments import ArgumentParser, output_folder, whole
from rfdetr_repro.spec.backbones import BACKBONES, name_of, with_backbone
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO_TRAIN, Preset, preset
from rfdetr_repro.spec.shared_arguments import add_device, add_steps, add_training
from rfdetr_repro.spec.train_config import TRAIN_WHOLE, TrainConfig, with_settings

if TYPE_CHECKING:
    from .backbones import Contender

log = logging.getLogger(__name__)

MOST_SEEDS = 100


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``rfdetr-repro backbones``."""
    arguments = ArgumentParser(
        "rfdetr_repro.train.backbones_command",
        description="Trains detectors that differ in the backbone alone by one recipe, and prints "
        "their accuracy, parameters and operations side by side, as Table 6 of the paper does.",
        examples=(
            "backbones --out runs/backbones",
            "backbones --data DIR --out runs/backbones --backbones dinov2-pico,convnext-pico",
            "backbones --data DIR --out runs/small --size nano --backbones "
            "dinov2-small,dinov3-small --weights dinov3-small=FOLDER",
        ),
    )
    add_data_arguments(
        arguments,
        "its train and val splits are used (default: the data set of the package, composed in "
        "OUT/data)",
        ("train", "val"),
    )
    model = arguments.add_argument_group("model")
    add = model.add_argument
    add(
        "--size",
        default="pico",
        help="size whose backbone is replaced; everything else is that of the size (default: pico)",
    )
    add(
        "--backbones",
        type=_names,
        metavar="NAME[,NAME]",
        help=f"backbones to compare, the first of which the others are compared with: "
        f"{', '.join(BACKBONES)} (default: those as large as the size's own)",
    )
    add(
        "--weights",
        type=_assigned,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="folder of Hugging Face transformers with the weights that a backbone starts with; "
        "may be repeated (default: random weights)",
    )
    recipe = arguments.add_argument_group("recipe")
    add = recipe.add_argument
    add_steps(recipe, "number of optimizer steps of each training")
    add(
        "--batch-size",
        type=whole(*TRAIN_WHOLE["batch_size"]),
        help="images per micro-batch, over all processes (default: the size's recipe)",
    )
    add(
        "--seeds",
        type=whole(1, MOST_SEEDS),
        default=3,
        metavar="N",
        help="number of trainings of each backbone, with the seeds 0 to N - 1 (default: 3)",
    )
    add_training(recipe)
    run = arguments.add_argument_group("run")
    add_device(run, "of the trainings")
    run.add_argument(
        "--out",
        type=output_folder,
        required=True,
        help="folder of the trainings and of backbones.csv; finished trainings in it are kept",
    )
    return arguments


def _names(text: str) -> tuple[str, ...]:
    """The type of ``--backbones``."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        _check_name(name)
    if not names:
        raise argparse.ArgumentTypeError("no backbone is named")
    return names


def _check_name(name: str) -> None:
    if name not in BACKBONES:
        raise argparse.ArgumentTypeError(
            f"unknown backbone {name[:40]!r}; choose from {', '.join(BACKBONES)}"
        )


def _assigned(text: str) -> tuple[str, Path]:
    """The type of ``--weights``."""
    name, equals, folder = text.partition("=")
    if not equals or not folder:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not NAME=FOLDER")
    _check_name(name)
    return name, Path(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``rfdetr-repro backbones``."""
    args = parser().parse_args(argv)
    data = source_of(args, ("train", "val"), needed=False)
    row = preset(args.size)
    names = args.backbones or _as_large(row, args.size)
    config = PICO_TRAIN if args.size == "pico" else TrainConfig()
    given = {
        name: value
        for name in ("steps", "batch_size")
        if (value := getattr(args, name)) is not None
    }
    config = with_settings(replace(config, **given), args.set)
    # torch loads slowly; arguments are checked first
    from rfdetr_repro.data.coco import read_splits
    from rfdetr_repro.data.embedded.dataset import write_embedded
    from rfdetr_repro.ops.device import choose_device

    from .backbones import RESULTS, Comparison, table

    contenders = _contenders(names, args.weights)
    comparison = Comparison(
        row,
        config,
        tuple(range(args.seeds)),
        {},
        args.out,
        choose_device(args.device),
        args.processes,
        args.loader_threads,
    )
    comparison.check(contenders)
    source = DataSource.of(write_embedded(args.out / "data")) if data is None else data
    splits = read_splits(source)
    if "val" not in splits:
        raise InputError("the backbones are compared on a val split", source, "add a val split")
    comparison = replace(comparison, splits=splits)
    results = []
    for result in comparison.run(contenders):
        results.append(result)
        count = len(contenders) * args.seeds
        log.info(
            f"{result.backbone}, seed {result.seed}: trained and evaluated, {len(results)} of "
            f"{count} trainings are done"
        )
    print("\n".join(table(results)))
    print(f"{args.out / RESULTS}")


def _as_large(row: Preset, size: str) -> tuple[str, ...]:
    """The named backbones that are as large as that of ``row``."""
    own = name_of(row.model)
    letter = own.rpartition("-")[2]
    found = tuple(
        name for name in BACKBONES if name.rpartition("-")[2] == letter and _fits(row, name)
    )
    if own not in found or len(found) < 2:
        raise InputError(
            f"no named backbones are as large as that of the size {size}",
            hint="name them by --backbones",
        )
    return found


def _fits(row: Preset, name: str) -> bool:
    """Whether a backbone runs at the architecture of ``row``."""
    try:
        return with_backbone(row, BACKBONES[name])[0].arch == row.arch
    except InputError:
        return False


def _contenders(names: Sequence[str], weights: Sequence[tuple[str, Path]]) -> list[Contender]:
    """The backbones with their weights. Raises :class:`InputError` for weights of a backbone that
    is not compared or has weights already, and for a folder with another backbone.
    """
    from rfdetr_repro.model.checkpoints.backbone_folders import read_backbone

    from .backbones import Contender

    folders: dict[str, Path] = {}
    for name, path in weights:
        if name in folders:
            raise InputError(
                f"--weights names {name} twice", path, "give one folder for each backbone"
            )
        folders[name] = path
    if unused := sorted(folders.keys() - set(names)):
        raise InputError(
            f"--weights names {unused[0]}, which is not compared", hint="add it to --backbones"
        )
    found = []
    for name in names:
        folder = read_backbone(folders[name]) if name in folders else None
        if folder is not None:
            held = folder.name
            if held != name:
                raise InputError(
                    f"the folder holds the backbone {held}, not {name}",
                    folders[name],
                    f"write --weights {held}=FOLDER",
                )
        found.append(Contender(name, folder))
    return found
