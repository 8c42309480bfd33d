"""Train a supernet (or one fixed size) on a data set:

python -m rfdetr_repro.train --data DIR --out runs/mine [--size pico] [--steps N] \
    [--batch-size N] [--seed N] [--weights FILE] [--fixed [--shape HxW]] \
    [--backbone NAME] [--backbone-weights FOLDER] \
    [--patience N --evaluate-every N] [--set NAME=VALUE ...] [--processes N] \
    [--device cpu|cuda] [--plan]

DIR is in COCO, Roboflow, YOLO, Pascal VOC or another format of docs/data.md. Run the command again
to resume. Several GPUs, or machines with a shared folder: torchrun --nproc-per-node N -m
rfdetr_repro.train ...
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.spec.arch import SearchSpace, parse_shape
from rfdetr_repro.spec.arguments import (
    LARGEST_SEED,
    ArgumentParser,
    input_path,
    label,
    output_folder,
    refuse,
    whole,
)
from rfdetr_repro.spec.backbones import (
    BACKBONES,
    backbone_named,
    name_of,
    space_for,
    with_backbone,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import (
    PAPER_SPACE,
    PICO,
    PICO_OWN,
    PICO_SPACE,
    PICO_TRAIN,
    PICO_WEIGHTS,
    Preset,
    preset,
)
from rfdetr_repro.spec.shared_arguments import add_device, add_model, add_steps, add_training
from rfdetr_repro.spec.sizing import Sizing
from rfdetr_repro.spec.train_config import (
    PARTS,
    PRECISIONS,
    TRAIN_WHOLE,
    TrainConfig,
    frozen_parts,
    with_settings,
)

from .run import TrainRequest, train

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

log = logging.getLogger(__name__)

AUTO = "auto"  # batch size by memory; size by the data


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``python -m rfdetr_repro.train``."""
    arguments = ArgumentParser(
        "rfdetr_repro.train",
        description="Trains the weight-sharing supernet, or one fixed size.",
        examples=(
            "train --data DIR --out runs/mine",
            "train --data DIR --out runs/nano --fixed --size nano --model FILE.pth",
            "train --data DIR --model paper-supernet --plan",
        ),
    )
    model = arguments.add_argument_group("model")
    add = model.add_argument
    add_data_arguments(arguments, "optional with --plan", ("train", "val"))
    add_model(
        model,
        needed=False,
        text="what to train: the name of a size, which starts from random weights; or a file with "
        "weights or a run folder, whose weights are trained further as --size (default: auto)",
    )
    add(
        "--size",
        help="auto: the small size with resolution, queries and mask maps by the data, from the "
        "weights that come with the package; or pico, paper-supernet, paper-supernet-seg, or a "
        "released size (with --fixed) (default: auto; pico with a file in --model or --weights)",
    )
    add(
        "--fixed",
        action="store_true",
        help="train the size's own architecture only, not a supernet",
    )
    add("--shape", type=parse_shape, help="with --fixed: input height x width in px, like 384x640")
    add(
        "--weights",
        type=input_path,
        help="file with the initial weights: a DINOv2 encoder, a released or transformers "
        "checkpoint, or the model of an earlier run; the same as a file in --model (default: "
        "random weights)",
    )
    add(
        "--backbone",
        choices=tuple(BACKBONES),
        metavar="NAME",
        help=f"backbone in place of the size's own DINOv2: {', '.join(BACKBONES)}; those called "
        f"pico are as small as that of the size pico (default: the size's own, or that of "
        f"--backbone-weights)",
    )
    add(
        "--backbone-weights",
        type=input_path,
        metavar="FOLDER",
        help="folder of Hugging Face transformers with config.json and model.safetensors of a "
        "DINOv2, with or without registers, a DINOv3 ViT or a ConvNeXt, whose backbone and weights "
        "the model starts with; everything else starts from random weights (default: random "
        "weights)",
    )
    add(
        "--queries",
        type=whole(1, 1000),
        help="object queries of the model, for images with many objects; queries beyond those of "
        "the initial weights start as copies of these (default: by the data, or the size's)",
    )
    recipe = arguments.add_argument_group("recipe")
    add = recipe.add_argument
    add_steps(recipe, "number of optimizer steps")
    add(
        "--batch-size",
        type=_batch_size,
        metavar="N",
        help='images per micro-batch, over all processes; "auto": as many as fit into memory, with '
        "as many images per optimizer step as the recipe has (default: the size's recipe)",
    )
    add(
        "--accumulate",
        type=whole(*TRAIN_WHOLE["accumulate"]),
        help="micro-batches per optimizer step (default: the size's recipe)",
    )
    add(
        "--seed",
        type=whole(0, LARGEST_SEED),
        default=0,
        help="seed of the initial weights, the order of images and all random draws (default: 0)",
    )
    add(
        "--sampling",
        choices=("uniform", "sandwich"),
        help="architectures of each step: a random architecture, or the largest, the smallest and "
        "a random architecture (default: uniform)",
    )
    add(
        "--evaluate-every",
        type=whole(1, TRAIN_WHOLE["evaluate_every"][1]),
        help="number of steps between evaluations on the val split (default: the size's recipe)",
    )
    add(
        "--patience",
        type=whole(1, TRAIN_WHOLE["patience"][1]),
        help="stop after this number of evaluations without a better AP; the best weights become "
        "the model (default: train all steps)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="what training steps compute in. auto: bfloat16 in backbone and projector where the "
        "device is fast in it, float32 elsewhere, with TF32 products on GPUs of compute capability "
        "8.0 or more; float32: all of it, with exact products; tf32: float32 with TF32 products; "
        "bf16: bfloat16 in backbone, projector and decoder. Losses, matching and boxes are float32 "
        "in all of them (default: auto)",
    )
    add(
        "--freeze",
        type=_parts,
        metavar="PART[,PART]",
        help=f"parts of the model that keep their initial weights: {', '.join(PARTS)} (default: "
        f"all parts are trained)",
    )
    add_training(recipe)
    run = arguments.add_argument_group("run")
    add_device(run, "of the training")
    add = run.add_argument
    add("--out", type=output_folder, help="run folder; an existing run is resumed")
    add(
        "--tensorboard",
        action="store_true",
        help="also write TensorBoard curves to OUT/tensorboard",
    )
    add("--wandb", action="store_true", help="also send the curves to Weights & Biases")
    add("--mlflow", action="store_true", help="also send the curves to MLflow")
    add(
        "--project",
        type=label,
        metavar="NAME",
        help="name of the project at Weights & Biases, or of the experiment at MLflow (default: "
        "rfdetr-repro)",
    )
    add(
        "--plan",
        action="store_true",
        help="do not train: time a few steps on this machine, and print the time and memory of the "
        "whole run",
    )
    return arguments


def _batch_size(text: str) -> int | str:
    """The type of ``--batch-size``."""
    return AUTO if text == AUTO else whole(*TRAIN_WHOLE["batch_size"])(text)


def _parts(text: str) -> tuple[str, ...]:
    """The type of ``--freeze``."""
    try:
        if parts := frozen_parts(text):
            return parts
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    raise argparse.ArgumentTypeError("no part is named")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``python -m rfdetr_repro.train``."""
    args = parser().parse_args(argv)
    args.data = source_of(args, ("train", "val"), needed=False)
    if not (args.wandb or args.mlflow):
        refuse({"--project": args.project}, "without --wandb or --mlflow")
    _choose_model(args)
    row = PICO if args.size == AUTO else preset(args.size)
    space, config = _recipe(args.size, args.fixed)
    row, space = _with_backbone(args, row, space)
    if args.shape is not None:
        if space is not None:
            raise InputError("a supernet trains on square images", hint="use --shape with --fixed")
        row = replace(row, arch=row.arch.with_input(*args.shape))
    names = (
        "steps",
        "batch_size",
        "accumulate",
        "evaluate_every",
        "patience",
        "sampling",
        "precision",
        "freeze",
    )
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    args.auto = given.get("batch_size") == AUTO
    if args.auto:
        del given["batch_size"]
        if args.accumulate is not None:
            raise InputError(
                "--batch-size auto chooses --accumulate too", hint="leave --accumulate out"
            )
    config = with_settings(replace(config, seed=args.seed, **given), args.set)
    if args.plan:
        _plan(args, row, space, config)
        return
    for name in ("data", "out"):
        if getattr(args, name) is None:
            raise InputError(
                f"--{name} is missing", hint="give a folder; only --plan works without"
            )
    _train(args, row, space, config)


def _choose_model(args: argparse.Namespace) -> None:
    """Sets ``size`` and ``weights`` by ``--model``. Raises :class:`InputError` for contradictory
    arguments.
    """
    given = args.model
    if given is not None and given.size is not None:
        if args.size not in (None, given.size):
            raise InputError(f"--model {given} and --size {args.size} contradict each other")
        args.size = given.size
    elif given is not None:
        if args.weights is not None:
            raise InputError("--model and --weights both name weights", hint="leave one out")
        args.weights, note = given.weights()
        if note:
            log.info(note)
    if args.backbone is not None or args.backbone_weights is not None:
        _check_backbone(args)
        args.size = args.size or "pico"
        return
    args.size = args.size or (AUTO if args.weights is None else "pico")
    if args.size == AUTO and args.weights is None:
        args.weights = PICO_WEIGHTS


def _check_backbone(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` where other weights would bring a backbone of their own."""
    asked = "--backbone" if args.backbone_weights is None else "--backbone-weights"
    if args.weights is not None:
        if args.backbone_weights is None:
            return  # the file is checked against the name
        raise InputError(
            "--backbone-weights and a file with weights both bring a backbone",
            args.weights,
            "leave one out",
        )
    if args.size == AUTO:
        raise InputError(
            f"--size {AUTO} starts from weights that come with the package, which have a DINOv2; "
            f"{asked} asks for another backbone",
            hint="name a size, such as --size pico",
        )


def _with_backbone(
    args: argparse.Namespace, row: Preset, space: SearchSpace | None
) -> tuple[Preset, SearchSpace | None]:
    """Size and space with the backbone of ``--backbone`` or of the folder of
    ``--backbone-weights``, which is read here; logs what had to change with it.
    """
    args.folder = None
    if args.backbone is None and args.backbone_weights is None:
        return row, space
    if args.backbone_weights is not None:
        from rfdetr_repro.model.checkpoints.backbone_folders import read_backbone

        args.folder = read_backbone(args.backbone_weights)
    fields = backbone_named(args.backbone) if args.folder is None else args.folder.fields
    row, told = with_backbone(row, fields)
    if args.backbone is not None and name_of(row.model) != args.backbone:
        raise InputError(
            f"the folder holds the backbone {name_of(row.model)}, not {args.backbone}",
            args.backbone_weights,
            "leave --backbone out",
        )
    lines = [told]
    if space is not None:
        space, about_space = space_for(space, row.model.backbone)
        lines.append(about_space)
    for line in filter(None, lines):
        log.info(line)
    return row, space


def _plan(
    args: argparse.Namespace, row: Preset, space: SearchSpace | None, config: TrainConfig
) -> None:
    from rfdetr_repro.ops.device import choose_device

    from .auto_batch import LEAST_OBJECTS, fitted
    from .plan import plan
    from .recipe import Recipe

    images, objects = None, LEAST_OBJECTS
    if args.data is not None:
        from rfdetr_repro.data.coco import read_split

        from .prepare import start_of

        split = read_split(args.data, "train")
        sizing, space, config = _sized(args, row, split, space, config)
        row = start_of(row, split, args.weights, sizing).preset
        row = replace(row, model=replace(row.model, num_classes=len(split.classes.names)))
        images, objects = len(split), split.most_objects()
    else:
        if args.size == AUTO:
            print("without --data nothing follows the data: planned for the size pico")
        if args.queries is not None:
            sizing = Sizing(queries=args.queries)
            space = None if space is None else sizing.space(space, row.arch)
            row = sizing.preset(row)
    recipe, device = Recipe(row, config, space), choose_device(args.device)
    if args.auto:
        recipe, why = fitted(recipe.check(), device, args.out, objects, args.processes)
        print(why)
    print("\n".join(plan(recipe, device, images, processes=args.processes or 1).lines()))


def _train(
    args: argparse.Namespace, row: Preset, space: SearchSpace | None, config: TrainConfig
) -> None:
    from rfdetr_repro.data.census import check_usable, mask_lines, print_census
    from rfdetr_repro.data.coco import read_splits

    from .loggers import LOGGERS, loggers

    curves = loggers([name for name in LOGGERS if getattr(args, name)], args.project)
    # torch loads slowly; arguments are checked first
    from .parallel import join_torchrun
    from .prepare import Backbone, start_of
    from .recipe import Recipe

    device, ranks = join_torchrun(args.device)
    splits = read_splits(args.data)
    split = splits.pop("train")
    if ranks.rank == 0:
        print_census([split, *splits.values()])
    else:
        check_usable([split, *splits.values()])
    sizing, space, config = _sized(args, row, split, space, config)
    start = start_of(row, split, args.weights, sizing, Backbone(args.folder, config.seed))
    request = TrainRequest(
        recipe=Recipe(start.preset, config, space),
        split=split,
        folder=args.out,
        held_out=splits if config.evaluate_every else {},
        initial=start.initial,
        device=device,
        processes=args.processes,
        loader_threads=args.loader_threads,
        callbacks=curves,
        pictures=True,
        auto_batch=args.auto,
    )
    if ranks.rank == 0:
        of_masks = mask_lines(splits.values()) if row.model.masks and not start.boxes_only else []
        notes = [start.boxes_only, *of_masks, start.taken, _classes(split)]
        log.info("\n".join(line for line in notes if line))
        log.info(f"on {device}" + (f", {ranks.size} processes" if ranks.size > 1 else ""))
    run = train(request)
    if ranks.rank == 0:
        if run.best is not None:
            print(run.best.describe())
        print(f"model: {run.model}")


def _sized(
    args: argparse.Namespace,
    row: Preset,
    split: CocoSplit,
    space: SearchSpace | None,
    config: TrainConfig,
) -> tuple[Sizing | None, SearchSpace | None, TrainConfig]:
    """The settings that follow the data or ``--queries``, with space and recipe changed by them."""
    from .sized import sizing_for, steps_for, tell_sizing, warn_of_queries

    if args.size == AUTO:
        sizing = sizing_for(split, row.arch.patch, args.queries, args.shape)
        if args.steps is None and not any(text.startswith("steps=") for text in args.set):
            steps = steps_for(len(split), config.batch_size * config.accumulate)
            config = replace(config, steps=steps)
    elif args.queries is not None:
        sizing = Sizing(queries=args.queries)
    else:
        for line in warn_of_queries(split, row.model.queries):
            log.warning(line)
        return None, space, config
    space = None if space is None else sizing.space(space, row.arch)
    masks = row.model.masks and split.has_masks
    log.info("\n".join(tell_sizing(sizing, space, split, masks)))
    return sizing, space, config


def _classes(split: CocoSplit) -> str:
    """The number of images, and the class of each label."""
    classes = zip(split.classes.names, split.classes.category_ids, strict=True)
    listed = ", ".join(
        f"{index}={name}({category_id})" for index, (name, category_id) in enumerate(classes)
    )
    return f"{len(split)} images; class index=name(category id): {listed}"


def _recipe(size: str, fixed: bool) -> tuple[SearchSpace | None, TrainConfig]:
    if size in ("pico", AUTO):
        return (None if fixed else PICO_SPACE), PICO_OWN if size == AUTO else PICO_TRAIN
    if not fixed and size not in ("paper-supernet", "paper-supernet-seg"):
        raise InputError(
            f"size {size} stores too few layers for a supernet",
            hint="use --size paper-supernet, or add --fixed",
        )
    return (None if fixed else PAPER_SPACE), TrainConfig()
