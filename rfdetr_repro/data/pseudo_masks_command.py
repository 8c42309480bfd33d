"""``python -m rfdetr_repro.data.pseudo_masks``: adds masks to a data set with boxes, by the user's
copy of SAM 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    folder_name,
    former_names,
    input_folder,
    number,
    output_file,
)
from rfdetr_repro.spec.errors import InputError

from .pseudo_masks import SMALLEST_BOX_IOU, SMALLEST_IOU, Filter, Sam2, label, read_job
from .source import add_data_arguments, source_of


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``python -m rfdetr_repro.data.pseudo_masks``."""
    arguments = ArgumentParser(
        "rfdetr_repro.data.pseudo_masks",
        description=(
            "Makes masks for the boxes of a data set with a copy of SAM 2 that the "
            "user has; nothing is downloaded."
        ),
        examples=("pseudo-masks --data DIR --sam SAM2 --out masks.json",),
    )
    add_data_arguments(
        arguments, "the --split, whose annotations are a COCO JSON file, is labelled", ("labelled",)
    )
    arguments.add_argument(
        "--split",
        default="train",
        type=folder_name,
        help="split of the data to label (default: train)",
    )
    sam = arguments.add_argument(
        "--sam",
        "--model",
        dest="sam",
        required=True,
        type=input_folder,
        metavar="FOLDER",
        help="folder of a SAM 2 model in transformers' form",
    )
    former_names(sam, ("--model",))
    arguments.add_argument("--out", required=True, type=output_file, help="COCO JSON to write")
    arguments.add_argument(
        "--smallest-iou",
        type=number(0, 1),
        default=SMALLEST_IOU,
        help="smallest IoU, predicted by the model, of a mask that is kept (default: %(default)s)",
    )
    arguments.add_argument(
        "--smallest-box-iou",
        type=number(0, 1),
        default=SMALLEST_BOX_IOU,
        help="smallest IoU of a kept mask's box with the object's box (default: %(default)s)",
    )
    arguments.add_argument(
        "--device",
        default="cpu",
        help="device to run the model on: cpu, cuda or cuda:N (default: cpu)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``python -m rfdetr_repro.data.pseudo_masks``."""
    args = parser().parse_args(argv)
    limits = Filter(args.smallest_iou, args.smallest_box_iou)
    source = source_of(args, (args.split,))
    if source is None:
        raise InputError("no data", hint="give a data set with --data")
    job = read_job(source, args.split, args.out)  # before the model, which loads slowly
    verdicts = label(job, Sam2(args.sam, args.device), limits)
    found = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print(f"{args.out}: {found or 'nothing to do'}")
