"""The output format of an adopted detector, from names and shapes, the file's metadata, and the
values on images.

The formats, each for one image per run:

- ``decoded``: scores (1, K), labels (1, K), boxes (1, K, 4) in any order, and maybe masks (1, K, h,
  w): this project's own files, the official exports of D-FINE, RT-DETR and DEIM, and files that end
  in suppression with separate outputs;
- ``detr``: boxes (1, Q, 4), logits (1, Q, C), maybe mask logits (1, Q, h, w): each class has its
  own sigmoid (RF-DETR upstream);
- ``detr-softmax``: the same, but the last class is "no object" and the scores are a softmax over
  all (DETR and its variants), inside the file or not;
- ``boxes-scores``: boxes (1, N, 4), scores (1, N, C) in 0..1;
- ``rows``: (1, N, 6), a box, a score and a class number: detectors that select their detections
  inside the graph;
- ``rows-seg``: (1, N, 6 + P) and prototypes (1, P, h, w): the same with masks;
- ``rtdetr``: (1, N, 4 + C), boxes and scores in one tensor without suppression: Ultralytics'
  RT-DETR;
- ``yolo``, ``yolo-seg``, ``yolo-objectness``: all boxes; suppression and masks are added
  (:mod:`.adopt_yolo`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from rfdetr_repro.export.onnx.surgery import Shape
from rfdetr_repro.spec.errors import InputError

from .file import Metadata
from .probe import Array, Probe
from .yolo import YOLO_FORMS, flat_and_maps

Found = TypeVar("Found")

FORMS = (
    "decoded",
    "detr",
    "detr-softmax",
    "boxes-scores",
    "rows",
    "rows-seg",
    "rtdetr",
    *YOLO_FORMS,
)
LIKELY = -1.0  # a logit whose sigmoid is a score of 0.27
FEW = 1000  # the most boxes that a detector without suppression returns
_NAMES = {
    "boxes": {"boxes", "bboxes", "det_boxes", "detection_boxes", "pred_boxes", "box", "dets"},
    "scores": {
        "scores",
        "score",
        "det_scores",
        "detection_scores",
        "pred_scores",
        "confidences",
        "confidence",
    },
    "labels": {
        "labels",
        "label",
        "classes",
        "class_ids",
        "det_classes",
        "detection_classes",
        "pred_labels",
        "pred_classes",
    },
    "masks": {"masks", "pred_masks", "detection_masks"},
    "count": {"num_dets", "num_detections", "num_predictions", "num_det"},
}


class Pair(NamedTuple):
    """Outputs for boxes (1, Q, 4), logits or scores (1, Q, C), and maybe mask maps (1, Q, h, w)."""

    boxes: Shape
    logits: Shape
    masks: Shape | None


def decoded_of(outputs: Sequence[Shape]) -> dict[str, Shape] | None:
    """Role -> output for the format ``decoded``, by name, or by type and shape where the names are
    not known; None for another format.
    """
    roles: dict[str, Shape] = {}
    for shape in outputs:
        # TensorFlow numbers a node's outputs
        plain = shape.name.lower().rsplit("/", 1)[-1].removesuffix(":0")
        names = [role for role, known in _NAMES.items() if plain in known]
        role = names[0] if names else _role_by_shape(shape)
        if role is None or role in roles:
            return None
        roles[role] = shape
    if not {"boxes", "scores", "labels"} <= roles.keys():
        return None
    flat = [_without_batch(roles[role]) for role in ("scores", "labels")]
    boxes = _without_batch(roles["boxes"], 2)
    if None in (*flat, boxes) or not flat[0] == flat[1] == boxes[:1] or boxes[1:] != (4,):
        return None
    return roles


def _without_batch(shape: Shape, rank: int = 1) -> tuple[int, ...]:
    """The shape (K,) for (K,), (1, K) or (1, K, 1), and () for any other shape.

    With ``rank`` 2: (K, 4) for (K, 4) or (1, K, 4).
    """
    dims = shape.dims
    if len(dims) == rank + 1 and dims[0] == 1:
        return dims[1:]
    if rank == 1 and len(dims) == 3 and (dims[0], dims[2]) == (1, 1):
        return dims[1:2]
    return dims if len(dims) == rank else ()


def _role_by_shape(shape: Shape) -> str | None:
    if len(shape.dims) == 3 and shape.dims[2] == 4 and shape.dtype == "float32":
        return "boxes"
    if len(shape.dims) == 4:
        return "masks"
    if len(shape.dims) != 2:
        return None
    return "labels" if shape.dtype.startswith(("int", "uint")) else "scores"


def required(found: Found | None, form: str) -> Found:
    """The outputs of a form; :class:`InputError` where the file has others."""
    if found is None:
        raise InputError(f"the outputs are not those of the form {form}")
    return found


def pair_of(outputs: Sequence[Shape]) -> Pair | None:
    """Boxes (1, Q, 4) with logits or scores (1, Q, C) and maybe maps (1, Q, h, w).

    Names decide where C is 4.
    """
    flat = [
        shape
        for shape in outputs
        if len(shape.dims) == 3 and shape.dims[0] == 1 and shape.dtype == "float32"
    ]
    maps = [shape for shape in outputs if len(shape.dims) == 4 and shape.dims[0] == 1]
    if (
        len(flat) != 2
        or len(maps) > 1
        or len(flat) + len(maps) != len(outputs)
        or flat[0].dims[1] != flat[1].dims[1]
    ):
        return None
    fours = [shape for shape in flat if shape.dims[2] == 4]
    named = [shape for shape in fours if "box" in shape.name.lower() or shape.name == "dets"]
    boxes = named if len(named) == 1 else fours
    if len(boxes) != 1:
        return None
    (logits,) = [shape for shape in flat if shape is not boxes[0]]
    return Pair(boxes[0], logits, maps[0] if maps else None)


def form_of(
    outputs: Sequence[Shape],
    metadata: Metadata,
    probe: Probe,
    known_classes: int | None,
    path: str | Path,
) -> tuple[str, bool]:
    """The output format, one of FORMS, and whether the numbers of a YOLO box are on the last axis.

    ``known_classes``: number of classes from the file's metadata, or from the data set, or None.
    Raises :class:`InputError`, which lists the outputs, if they match no format, or several that
    cannot be told apart.
    """
    flat, maps = flat_and_maps(outputs)
    if flat is not None:
        found = (
            _seg_form(flat, maps, metadata)
            if maps
            else _flat_form(flat, metadata, probe, known_classes, path)
        )
        if found is not None:
            return found
    elif decoded_of(outputs) is not None:
        return "decoded", False
    elif (pair := pair_of(outputs)) is not None:
        return _pair_form(pair, probe), False
    listed = ", ".join(f"{shape.name} {list(shape.dims)}" for shape in outputs)
    hint = (
        "export the model with boxes and logits, or with its NMS inside as rows (1, N, 6), or name "
        "its form with --form"
    )
    raise InputError(f"the outputs {listed} match no known form", path, hint)


def _pair_form(pair: Pair, probe: Probe) -> str:
    logits = np.concatenate([value[0] for value in probe.of(pair.logits.name)])  # (n, C)
    finite = logits[np.isfinite(logits).all(axis=1)]
    if are_odds(finite):
        return "detr-softmax"
    if finite.size and finite.min() >= 0 and finite.max() <= 1:
        return "boxes-scores"
    return "detr-softmax" if is_softmax(finite) else "detr"


def are_odds(values: Array) -> bool:
    """Whether rows (n, C) are softmax probabilities: within 0..1, each with the sum 1, over more
    than one class.
    """
    if not values.size or values.shape[1] < 2 or values.min() < 0 or values.max() > 1:
        return False
    return bool(np.abs(values.sum(axis=1) - 1).max() < 1e-2)


def is_softmax(logits: Array) -> bool:
    """Whether the last class of logits (n, C) is DETR's "no object": the class with the largest
    logit in most queries, and not small there.

    A class with a sigmoid of its own has a logit above LIKELY only where there is an object, and
    few queries have one; and a slot that upstream RF-DETR never uses has the lowest logit of all.
    """
    if logits.shape[1] < 2 or not len(logits):
        return False
    last = logits[:, -1]
    return bool(((logits[:, :-1].max(axis=1) < last) & (last > LIKELY)).mean() > 0.5)


def _seg_form(flat: Shape, maps: Shape, metadata: Metadata) -> tuple[str, bool] | None:
    rows = flat.dims[1]
    numbers = flat.dims[2]
    weights = maps.dims[1]
    if (
        metadata.names
        and rows == 4 + len(metadata.names) + weights
        and not (metadata.end2end or metadata.nms)
    ):
        return "yolo-seg", False
    if numbers == 6 + weights and (metadata.end2end or metadata.nms or rows <= FEW):
        return "rows-seg", False
    if rows > 4 + weights and numbers > rows:
        return "yolo-seg", False
    return ("yolo-seg", True) if numbers > 4 + weights and rows > numbers else None


def _flat_form(
    flat: Shape, metadata: Metadata, probe: Probe, known_classes: int | None, path: str | Path
) -> tuple[str, bool] | None:
    first, last = flat.dims[1:]
    if metadata.names:  # the file names its classes, so that most shapes match one form only
        count = len(metadata.names)
        if first == 4 + count and not (metadata.end2end or metadata.nms):
            return "yolo", False
    if last == 6:
        found = _six(flat, metadata, probe, known_classes, path)
        return found, found == "yolo"
    if metadata.rt_detr and last > 4:
        return "rtdetr", False
    if first > 4 and last > first:
        return "yolo", False
    if first > last > 4:
        return _boxes_last(flat, probe, known_classes)
    return None


def _six(
    flat: Shape, metadata: Metadata, probe: Probe, known_classes: int | None, path: str | Path
) -> str:
    """The format of an output (1, N, 6): finished rows, a YOLO with one class and objectness or
    with two classes, or RT-DETR with two classes.
    """
    if metadata.end2end or metadata.nms:
        return "rows"
    values = np.concatenate([value[0] for value in probe.of(flat.name)])
    tail = values[:, 5]
    if (tail == np.round(tail)).all() and (tail >= 0).all():
        few = flat.dims[1] <= FEW
        if few or tail.any():
            return "rows"
        hint = "choose --form rows or --form yolo-objectness"
        raise InputError(
            f"{flat.name} {list(flat.dims)} is empty on a picture and may have either of two forms",
            path,
            hint,
        )
    few = flat.dims[1] <= FEW and bool(np.abs(values[:, :4]).max() <= 2)
    if metadata.rt_detr or (known_classes in (2, None) and few):
        return "rtdetr"
    return "yolo" if known_classes == 2 else "yolo-objectness"


def _boxes_last(flat: Shape, probe: Probe, known_classes: int | None) -> tuple[str, bool]:
    """The format of an output (1, N, numbers): with or without objectness, all boxes or a
    selection.
    """
    boxes, numbers = flat.dims[1:]
    values = np.concatenate([value[0] for value in probe.of(flat.name)])
    few = boxes <= FEW and bool(np.abs(values[:, :4]).max() <= 2)
    if (known_classes is not None and numbers == 4 + known_classes) or (
        few and (known_classes or 0) + 5 != numbers
    ):
        return ("rtdetr", False) if few else ("yolo", True)
    if known_classes is None and numbers == 84:  # COCO's 80 classes without objectness
        return "yolo", True
    return "yolo-objectness", False
