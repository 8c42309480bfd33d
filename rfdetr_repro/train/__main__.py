"""Train a supernet (or one fixed size) on a COCO-format folder:

python -m rfdetr_repro.train --data DIR --out runs/mine [--size pico] [--steps N] [--batch-size N] [--seed N]
    [--fixed [--shape HxW]] [--processes N] [--device cpu|cuda]

DIR/annotations/instances_{train,val}.json with images in DIR/{train,val}/, or Roboflow's train/valid folders.
Run it again to resume. Several GPUs, or machines with a shared folder: torchrun --nproc-per-node N -m rfdetr_repro.train ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config import SearchSpace, TrainConfig, parse_shape
from ..errors import InputError, run_main
from ..files import writable_folder
from ..presets import PAPER_SPACE, PICO_SPACE, PICO_TRAIN, Preset, preset


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("rfdetr_repro.train", description="Train the weight-sharing supernet, or one fixed size.")
    parser.add_argument("--data", required=True, help="COCO-format folder")
    parser.add_argument("--out", required=True, help="run folder; an existing run is resumed")
    parser.add_argument("--size", default="pico", help="pico, paper-supernet, or a released size (with --fixed)")
    parser.add_argument("--fixed", action="store_true", help="train only the size's own architecture, no supernet")
    parser.add_argument("--shape", type=parse_shape, help="with --fixed: input height x width in px, like 384x640")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the size's recipe)")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    parser.add_argument("--processes", type=int, help="of this machine that share each batch on the CPU (default: by its cores)")
    args = parser.parse_args(argv)
    row, space, train = preset(args.size), *_recipe(args.size, args.fixed)
    if args.shape is not None:
        if space is not None:
            raise InputError("a supernet trains on square images", mend="use --shape with --fixed")
        row = replace(row, arch=row.arch.with_input(*args.shape))
    given = {"steps": args.steps, "batch_size": args.batch_size}
    for name, value in {**given, "processes": args.processes}.items():
        if value is not None and value < 1:
            raise InputError(f"{name.replace('_', '-')} {value} is not positive")
    train = replace(train, seed=args.seed, **{name: value for name, value in given.items() if value is not None})

    _train(args, row, space, train)


def _train(args: argparse.Namespace, row: Preset, space: SearchSpace | None, train: TrainConfig) -> None:
    from ..data.coco import read_split  # torch loads slowly; arguments are checked first
    from .engine import MODEL, Recipe
    from .parallel import join_torchrun
    from .processes import run_training

    device, ranks = join_torchrun(args.device)
    split = read_split(args.data, "train")
    lines = []
    if row.model.masks and not split.has_masks:
        row = replace(row, model=replace(row.model, masks=False))
        lines.append("no masks in this data set: training boxes only")
    classes = zip(split.classes.names, split.classes.category_ids, strict=True)
    listed = ", ".join(f"{index}={name}({category_id})" for index, (name, category_id) in enumerate(classes))
    lines.append(f"{len(split)} images; class index=name(category id): {listed}")
    if ranks.rank == 0:
        print("\n".join([*lines, f"on {device}" + (f", {ranks.size} processes" if ranks.size > 1 else "")]))
    writable_folder(args.out)  # before the progress bar appears
    setup = {"recipe": Recipe(row, train, space), "split": split, "folder": Path(args.out), "device": device}
    run_training(setup, args.processes)
    if ranks.rank == 0:
        print(f"model: {Path(args.out) / MODEL}")


def _recipe(size: str, fixed: bool) -> tuple[SearchSpace | None, TrainConfig]:
    if size == "pico":
        return (None if fixed else PICO_SPACE), PICO_TRAIN
    if not fixed and size != "paper-supernet":
        raise InputError(f"size {size} stores too few layers for a supernet", mend="use --size paper-supernet, or add --fixed")
    return (None if fixed else PAPER_SPACE), TrainConfig()


if __name__ == "__main__":
    raise SystemExit(run_main(main))
