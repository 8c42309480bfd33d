"""How the outputs of an ONNX file are read, and the nodes that turn them into ranked detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from rfdetr_repro.export.onnx.nms import MOST, Nms
from rfdetr_repro.export.onnx.surgery import Builder, Shape, renamed
from rfdetr_repro.export.onnx_file import opset_of
from rfdetr_repro.spec.errors import InputError

from .boxes import Layout, confident, corners_array, duplicates, layout_of
from .classes import Categories
from .description import fixed_shape
from .file import ImageInput, Metadata
from .forms import FEW, are_odds, decoded_of, form_of, pair_of
from .probe import Probe
from .ranked import add_decoded, add_detr, add_rows, add_rt_detr, add_suppressed
from .seen import Seen
from .wishes import Wishes
from .yolo import YOLO_FORMS, adopt_yolo, flat_and_maps

_USUAL = {
    "decoded": "xyxy-relative",
    "detr": "cxcywh-relative",
    "detr-softmax": "cxcywh-relative",
    "boxes-scores": "xyxy-pixels",
    "rows": "xyxy-pixels",
    "rows-seg": "xyxy-pixels",
    "rtdetr": "cxcywh-relative",
}


class Reading(NamedTuple):
    """How the outputs are read.

    The output format, one of FORMS; whether the numbers of a YOLO box are on the last axis; the box
    format; whether suppression is added; whether 0.5 is subtracted from masks in 0..1; whether the
    detections were sorted on every image; whether the logits are softmax probabilities.
    """

    form: str
    channels_last: bool
    layout: Layout
    suppressed: bool
    halves: bool
    ranked: bool
    odds: bool


def chosen_form(
    outputs: Sequence[Shape],
    metadata: Metadata,
    probe: Probe,
    categories: Categories | None,
    wishes: Wishes,
    path: str | Path,
) -> tuple[str, bool]:
    """The output format, one of FORMS, and whether the numbers of a YOLO box are on the last
    axis.
    """
    known = len(metadata.names) or (len(categories.ids) if categories else None)
    if wishes.form is None:
        form, last = form_of(outputs, metadata, probe, known, path)
    else:
        form = wishes.form
        last = _channels_last(wishes.form, outputs, known)
    _fits(form, outputs, last, path)
    return form, last


def _channels_last(form: str, outputs: Sequence[Shape], known_classes: int | None) -> bool:
    """For a requested format: whether the numbers of a YOLO box are on the last axis, inferred from
    their count or from the number of boxes.
    """
    flat, maps = flat_and_maps(outputs)
    if form not in ("yolo", "yolo-seg") or flat is None or flat.dims[1] <= flat.dims[2]:
        return False
    if known_classes is None:
        return flat.dims[1] >= MOST
    return flat.dims[2] == 4 + known_classes + (maps.dims[1] if maps else 0)


def _fits(form: str, outputs: Sequence[Shape], channels_last: bool, path: str | Path) -> None:
    """Raises :class:`InputError` unless the outputs can be read in this format."""
    flat, maps = flat_and_maps(outputs)
    wanted = {
        "decoded": (
            decoded_of(outputs) is not None,
            "the outputs are not scores, labels, boxes[, masks]",
        ),
        "rows": (flat is not None and maps is None and flat.dims[2] == 6, "no output (1, N, 6)"),
        "rows-seg": (
            flat is not None and maps is not None and flat.dims[2] == 6 + maps.dims[1],
            "no rows (1, N, 6 + P)",
        ),
        "rtdetr": (
            flat is not None and maps is None and flat.dims[2] > 4,
            "no output (1, N, 4 + C)",
        ),
        "yolo-seg": (
            flat is not None and maps is not None,
            f"the outputs do not have the form {form}",
        ),
        "yolo": (flat is not None and maps is None, f"the outputs do not have the form {form}"),
        "yolo-objectness": (
            flat is not None and maps is None,
            f"the outputs do not have the form {form}",
        ),
    }
    fits, what = wanted.get(
        form, (pair_of(outputs) is not None, "no boxes (1, Q, 4) with logits (1, Q, C)")
    )
    if not fits:
        raise InputError(what, path, "choose another form")
    if flat is not None and form.startswith("yolo"):
        last = form == "yolo-objectness" or channels_last
        numbers = flat.dims[2 if last else 1]
        if numbers <= (5 if form == "yolo-objectness" else 4) + (maps.dims[1] if maps else 0):
            raise InputError(
                f"{numbers} numbers per box leave no class", path, "choose another form"
            )


def _usual_boxes(form: str, outputs: Sequence[Shape], metadata: Metadata) -> str:
    """The usual box format, one of BOXES, of an output format, which is taken unless the values
    rule it out.
    """
    if metadata.rt_detr and form == "rows":
        return "cxcywh-relative"
    if form == "decoded" and any("detection_boxes" in shape.name for shape in outputs):
        return "yxyx-relative"  # TensorFlow's object detection
    return _USUAL.get(form, "cxcywh-pixels")


def chosen_layout(
    form: str,
    outputs: Sequence[Shape],
    metadata: Metadata,
    looked: Sequence[Seen],
    image: ImageInput,
    wishes: Wishes,
) -> Layout:
    """The box format: the user's choice, or the usual format, checked against the values on
    images.
    """
    if wishes.boxes is not None:
        layout = Layout.parse(wishes.boxes)
    else:
        usual = _usual_boxes(form, outputs, metadata)
        boxes = confident([one.boxes for one in looked], [one.scores for one in looked])
        layout = layout_of(boxes, image.size, usual, image.path)
    # every anchor has a box, and each box shows the unit
    if not layout.proved and form in YOLO_FORMS:
        largest = max((float(np.abs(one.boxes).max(initial=0)) for one in looked), default=0.0)
        layout = layout._replace(unit="relative" if 0 < largest <= 2 else "pixels")
    if form in YOLO_FORMS and layout.order not in ("cxcywh", "xyxy"):
        raise InputError(
            f"boxes {layout.order} of a YOLO",
            image.path,
            "state the box format with --boxes: cxcywh or xyxy",
        )
    return layout


def needs_suppression(outputs: Sequence[Shape], looked: Sequence[Seen], layout: Layout) -> bool:
    """Whether there are more boxes than a set-prediction detector returns, or several confident
    boxes per object.
    """
    pair = pair_of(outputs)
    many = pair is not None and pair.boxes.dims[1] > FEW
    return many or any(
        duplicates(corners_array(one.boxes, layout.order), one.labels, one.scores) for one in looked
    )


def gives_odds(outputs: Sequence[Shape], probe: Probe) -> bool:
    """Whether the logits are softmax probabilities already."""
    pair = pair_of(outputs)
    return pair is not None and all(are_odds(value[0]) for value in probe.of(pair.logits.name))


def masks_in_0_1(outputs: Sequence[Shape], probe: Probe) -> bool:
    """Whether the masks are in 0..1 rather than logits."""
    roles = decoded_of(outputs)
    if roles is None or "masks" not in roles:
        return False
    values = probe.of(roles["masks"].name)
    return all(value.size and value.min() >= 0 and value.max() <= 1 for value in values) and any(
        value.any() for value in values
    )


def add_nodes(
    model: onnx.ModelProto, reading: Reading, image: ImageInput, nms: Nms, path: str | Path
) -> None:
    """Adds the nodes that turn the outputs, read as ``reading`` describes, into ranked
    detections.
    """
    outputs = [fixed_shape(value, path) for value in model.graph.output]
    size = image.size
    form = reading.form
    layout = reading.layout
    if form == "decoded" and reading.ranked and _is_ours(outputs, layout, reading.halves):
        return
    build = Builder(model.graph, opset_of(model))
    roles = decoded_of(outputs)  # by the names that the outputs have before they are renamed
    others = renamed(model.graph, outputs)
    if form == "decoded" and roles is not None:
        new = dict(zip((shape.name for shape in outputs), others, strict=True))
        add_decoded(
            build,
            {role: new[shape.name] for role, shape in roles.items()},
            size,
            layout,
            reading.halves,
        )
    elif form in YOLO_FORMS:
        adopt_yolo(
            build,
            form,
            others,
            size,
            layout,
            nms=nms,
            channels_last=reading.channels_last,
            path=path,
        )
    elif form in ("rows", "rows-seg"):
        add_rows(build, others, size, layout, path)
    elif form == "rtdetr":
        add_rt_detr(build, others, size, layout)
    elif reading.suppressed:
        add_suppressed(build, others, size, layout, nms)
    else:
        add_detr(build, form, others, size, layout, reading.odds)


def _is_ours(outputs: Sequence[Shape], layout: Layout, halves: bool) -> bool:
    """Whether the outputs are this project's own, in order and types, so that no node is needed."""
    ours = [
        ("scores", "float32", 2),
        ("labels", "int64", 2),
        ("boxes", "float32", 3),
        ("masks", "float32", 4),
    ]
    same = [(shape.name, shape.dtype, len(shape.dims)) for shape in outputs] == ours[: len(outputs)]
    return same and (layout.order, layout.unit) == ("xyxy", "relative") and not halves
