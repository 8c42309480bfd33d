"""Options that say how to read an ONNX file of another program."""

from __future__ import annotations

import argparse

from rfdetr_repro.spec.arch import parse_shape

FORMS = (
    "decoded",
    "detr",
    "detr-softmax",
    "boxes-scores",
    "rows",
    "rows-seg",
    "rtdetr",
    "yolo",
    "yolo-seg",
    "yolo-objectness",
)
NORMALISE = ("none", "imagenet", "bytes", "bgr-bytes", "bgr")
RESIZE = ("stretch", "letterbox")
CLASSES = ("order", "ids", "background-first")
BOXES = tuple(
    f"{order}-{unit}"
    for order in ("xyxy", "cxcywh", "xywh", "yxyx")
    for unit in ("pixels", "relative")
)
OUTPUT_WISHES = ("form", "boxes", "classes", "normalise", "resize")


def add_wishes(group: argparse._ArgumentGroup) -> None:
    """Adds the options that describe a file of another program.

    An option that is left out is inferred from the file and from a run on images, and printed.
    """
    add_output_wishes(group)
    group.add_argument(
        "--shape",
        type=parse_shape,
        help="height x width of the input, such as 384x640, for a file that leaves the size open",
    )
    group.add_argument(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        help="whether the resize averages over pixels when an image shrinks",
    )


def add_output_wishes(group: argparse._ArgumentGroup) -> None:
    """Adds the options of OUTPUT_WISHES, for commands with their own ``--shape``."""
    group.add_argument(
        "--form",
        choices=FORMS,
        help="format of the model's outputs (docs/any_onnx.md lists the formats)",
    )
    group.add_argument(
        "--boxes",
        choices=BOXES,
        help="order of a box's four numbers, and their unit: pixels of the input, or relative to "
        "the input's size",
    )
    group.add_argument(
        "--classes",
        choices=CLASSES,
        help="category of output class k; order: the k-th category; ids: the category with id k; "
        "background-first: the k-th category, and class 0 is no object",
    )
    group.add_argument(
        "--normalise",
        choices=NORMALISE,
        help="normalisation that the model's input needs, starting from RGB in 0..1",
    )
    group.add_argument(
        "--resize", choices=RESIZE, help="how an image is resized to the model's input"
    )
