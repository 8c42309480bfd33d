"""Somebody else's ONNX file as an artifact: ranked detections in the same form, made by nodes added
to the file itself.

What a detector's own code does around the graph (normalisation, sigmoid, choice of the best, box
form) becomes part of the file, so its latency is of the same work as ours and one SHA-256 stands
for all of it. :mod:`.adopt_forms` lists the forms of outputs that are taken. What the file does not
state is told from its metadata (:mod:`.adopt_file`) and from its numbers on pictures
(:mod:`.adopt_probe`); what is taken for granted is said in the manifest's ``adoption``; what cannot
be told is refused with the option that names it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from rfdetr_repro.data.letterbox import Letterbox
from rfdetr_repro.data.resizing import resize_image
from rfdetr_repro.export.artifact import (
    LETTERBOX_RULE,
    RESIZE_RULE,
    Artifact,
    Manifest,
    TensorSpec,
    write_artifact,
)
from rfdetr_repro.export.onnx.flops import multiply_adds
from rfdetr_repro.export.onnx.nms import MOST, STANDARD, Nms
from rfdetr_repro.export.onnx.shapes import inferred_shapes, with_shapes
from rfdetr_repro.export.onnx.surgery import INPUTS, Builder, Shape, change_input, renamed
from rfdetr_repro.export.onnx_file import check_operators, opset_of
from rfdetr_repro.export.trial import run_once
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.resize_rules import with_antialias

from .boxes import BOXES, Layout, confident, corners_array, duplicates, layout_of
from .classes import CLASSES, Categories, ClassMap, join
from .file import ImageInput, Told, read, refuse_other_tasks, standard_input
from .forms import FEW, FORMS, are_odds, decoded_of, form_of, pair_of
from .probe import Probe, stand_in
from .ranked import add_decoded, add_detr, add_rows, add_rt_detr, add_suppressed
from .seen import Evidence, Picture, Seen, Truth, agreed, seen
from .yolo import YOLO_FORMS, adopt_yolo, flat_and_maps

__all__ = [
    "BOXES",
    "CLASSES",
    "FORMS",
    "NORMALISE",
    "RESIZE",
    "Categories",
    "Picture",
    "Wishes",
    "adopt",
]
Array = np.ndarray[Any, Any]
NORMALISE = tuple(INPUTS)
RESIZE = {"stretch": RESIZE_RULE, "letterbox": LETTERBOX_RULE}
_USUAL = {
    "decoded": "xyxy-relative",
    "detr": "cxcywh-relative",
    "detr-softmax": "cxcywh-relative",
    "boxes-scores": "xyxy-pixels",
    "rows": "xyxy-pixels",
    "rows-seg": "xyxy-pixels",
    "rtdetr": "cxcywh-relative",
}


@dataclass(frozen=True)
class Wishes:
    """What the user says of the file; None: to be told from the file. Each is checked against the
    choices named here.

    ``form``: of FORMS. ``normalise``: of NORMALISE, what RGB in 0..1 needs before the file's own
    input. ``resize``: of RESIZE; ``antialias``: whether that averages. ``boxes``: of BOXES.
    ``classes``: of CLASSES. ``shape``: (height, width) of a file that leaves them open.
    """

    form: str | None = None
    normalise: str | None = None
    resize: str | None = None
    antialias: bool | None = None
    boxes: str | None = None
    classes: str | None = None
    shape: tuple[int, int] | None = None

    def check(self, path: str | Path) -> None:
        choices = {
            "form": FORMS,
            "normalise": NORMALISE,
            "resize": tuple(RESIZE),
            "boxes": BOXES,
            "classes": CLASSES,
        }
        for name, known in choices.items():
            if (given := getattr(self, name)) not in (None, *known):
                raise InputError(
                    f"unknown {name} {given!r}", path, f"choose one of {', '.join(known)}"
                )


class _Reading(NamedTuple):
    """How the outputs are read: one of FORMS; whether a YOLO's numbers of a box are the last axis;
    how boxes are written; whether suppression is added; whether 0.5 is taken off masks in 0..1;
    whether the best came first on every picture; whether logits are a softmax already.
    """

    form: str
    channels_last: bool
    layout: Layout
    suppressed: bool
    halves: bool
    ranked: bool
    odds: bool


def adopt(
    path: str | Path,
    out: str | Path,
    *,
    categories: Categories | None = None,
    weights: str = "trained",
    nms: Nms = STANDARD,
    pictures: Sequence[Callable[[], Picture]] = (),
    **said: Any,
) -> Artifact:
    """Writes the file at ``path`` as an artifact ``out`` with its manifest beside it.

    ``categories``: of the data set the model was trained on. ``nms``: suppression of forms that
    need one; its ``inject`` is for random weights only. ``pictures``: makers of pictures of the
    kind the model was trained on, on which its outputs are looked at; without any a drawn picture
    stands in. ``said``: what the user says of the file, by the names of :class:`Wishes`. Raises
    :class:`InputError` for what is no detector of one image, and for what cannot be told and was
    not said.
    """
    wishes = Wishes(**said)
    wishes.check(path)
    if nms.inject is not None and weights != "random":
        raise InputError(
            "scores are set in a model that is said to be trained",
            path,
            "say that its weights are random",
        )
    model, told, hashes = read(path)
    refuse_other_tasks(model, told, path)
    check_operators(model, path)
    params = _params(model)
    precision = _precision(model)
    image = standard_input(model, told, wishes.shape, path)
    _try(model, path)
    model = with_shapes(model, path)
    _widen_outputs(model)
    normalised, why_normalised = _normalise(model, image, told, wishes)
    change_input(model.graph, image.shape.name, normalised)
    trained = categories if weights != "random" else None
    outputs = [_shape(value, path) for value in model.graph.output]
    resized, why_resized = _resize(told, wishes)
    probe = Probe(model, image.shape.name, _inputs(pictures, image, resized), path)
    form, last = _form(outputs, told, probe, trained, wishes, path)
    looked = seen(form, outputs, probe, last, path)
    truths = _truths(pictures, image, resized)
    layout = _layout(form, outputs, told, looked if weights != "random" else [], image, wishes)
    if wishes.boxes is None:
        layout = agreed(layout, looked, truths, image.size)
    if wishes.resize is None and form in YOLO_FORMS and not told.ultralytics:
        resized = "letterbox"
        why_resized = " (usual for this form; --resize stretch is the other way)"
    rule, why_rule = _filter(RESIZE[resized], told, form, wishes)
    truths = _truths(pictures, image, resized)
    suppressed = form in YOLO_FORMS or (
        form == "boxes-scores" and _needs_suppression(outputs, looked, layout)
    )
    evidence = Evidence(form, outputs, probe, last, layout, image.size, truths, path)
    joined = _join(trained, evidence, told, looked, wishes)
    ranked = all((np.diff(one.scores) <= 0).all() for one in looked)
    halves = form == "decoded" and _masks_in_0_1(outputs, probe)
    reading = _Reading(
        form,
        last,
        layout,
        suppressed,
        halves,
        ranked,
        form == "detr-softmax" and _odds(outputs, probe),
    )
    _add_nodes(model, reading, image, nms, path)
    content, manifest = _described(with_shapes(model, path), path, image)
    adoption = {
        "input": image.describe(),
        "form": form + (" (as asked)" if wishes.form else ""),
        "boxes": layout.describe() + (" (as asked)" if wishes.boxes else ""),
        "resize": f"{resized}{why_resized}, {why_rule}",
        "normalisation": normalised + why_normalised,
        "classes": joined.how,
    } | ({"suppression": nms.describe()} if suppressed else {})
    manifest = replace(
        manifest,
        class_names=joined.names,
        category_ids=joined.ids,
        packages={**hashes, **(nms.stated() if suppressed else {}), **manifest.packages},
        model=replace(manifest.model, weights=weights),
        normalisation=f"{normalised}, added to the graph; the rest as in the file",
        resize=rule,
        params=params,
        precision=precision,
        adoption=adoption,
    )
    return write_artifact(out, content, manifest)


def _try(model: onnx.ModelProto, path: str | Path) -> None:
    """Runs the file once, in another process: what comes later runs it in this one."""
    try:
        run_once(model.SerializeToString(), path)
    except InputError:
        inferred_shapes(model, path)  # where shapes are the cause, the error names them
        raise


def _form(
    outputs: Sequence[Shape],
    told: Told,
    probe: Probe,
    categories: Categories | None,
    wishes: Wishes,
    path: str | Path,
) -> tuple[str, bool]:
    """One of FORMS that the outputs fit, and whether a YOLO's numbers of a box are the last
    axis.
    """
    known = len(told.names) or (len(categories.ids) if categories else None)
    if wishes.form is None:
        form, last = form_of(outputs, told, probe, known, path)
    else:
        form = wishes.form
        last = _channels_last(wishes.form, outputs, known)
    _fits(form, outputs, last, path)
    return form, last


def _widen_outputs(model: onnx.ModelProto) -> None:
    """Outputs in float16 become float32 under their own names."""
    for value in model.graph.output:
        if value.type.tensor_type.elem_type in (TensorProto.FLOAT16, TensorProto.DOUBLE):
            narrow = f"{value.name}/own_type"
            for node in model.graph.node:
                node.input[:] = [narrow if name == value.name else name for name in node.input]
                node.output[:] = [narrow if name == value.name else name for name in node.output]
            model.graph.node.append(
                helper.make_node("Cast", [narrow], [value.name], to=TensorProto.FLOAT)
            )
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _normalise(
    model: onnx.ModelProto, image: ImageInput, told: Told, wishes: Wishes
) -> tuple[str, str]:
    """One of NORMALISE, and why."""
    inputs = [value.name for value in model.graph.input]
    upstream = {"dets", "labels"} <= {
        value.name for value in model.graph.output
    } and "input" in inputs
    if image.dtype == "uint8":
        if wishes.normalise not in (None, "none", "bytes", "bgr-bytes", "bgr"):
            raise InputError(
                f"a uint8 input cannot take {wishes.normalise} values", hint="leave --normalise out"
            )
        return (
            ("bgr", "")
            if wishes.normalise in ("bgr", "bgr-bytes")
            else ("none", " (bytes, as the input's type says)")
        )
    if wishes.normalise is not None:
        return wishes.normalise, " (as asked)"
    if upstream and not _normalises_itself(model.graph, image.shape.name):
        return (
            "imagenet",
            " (the input and outputs are named as upstream RF-DETR exports them, and it "
            "normalises outside)",
        )
    if told.ultralytics:
        return "none", " (as its authors do)"
    inside = _normalises_itself(model.graph, image.shape.name)
    return (
        "none",
        " (the file does so itself)"
        if inside
        else " (assumed: RGB in 0..1; --normalise imagenet is the other way)",
    )


def _normalises_itself(graph: onnx.GraphProto, image: str) -> bool:
    """Whether a constant is subtracted from the image, or it is scaled channel by channel, before
    the first other operation.
    """
    constants = {constant.name for constant in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    values = {image}
    for node in graph.node:
        if not values & set(node.input):
            continue
        others = [name for name in node.input if name not in values]
        if (
            node.op_type in ("Sub", "Add", "BatchNormalization")
            and others
            and all(name in constants for name in others)
        ):
            return True
        if node.op_type in ("Cast", "Transpose", "Identity", "Reshape", "Resize", "Mul", "Div"):
            values |= set(node.output)
    return False


def _resize(told: Told, wishes: Wishes) -> tuple[str, str]:
    """One of RESIZE, and why; of YOLO's forms the form decides later."""
    if wishes.resize is not None:
        return wishes.resize, " (as asked)"
    if told.ultralytics:
        return (
            ("stretch", " (as its authors do)")
            if told.rt_detr
            else ("letterbox", " (as its authors do)")
        )
    return "stretch", " (assumed; --resize letterbox is the other way)"


def _filter(rule: str, told: Told, form: str, wishes: Wishes) -> tuple[str, str]:
    """The resize rule with or without antialiasing, and what is said of that.

    Ultralytics resizes with OpenCV, which does not average (and YOLO's other authors do so too);
    the rest resizes with Pillow or torchvision, which do.
    """
    if wishes.antialias is not None:
        return with_antialias(
            rule, wishes.antialias
        ), f"{'with' if wishes.antialias else 'without'} antialiasing (as asked)"
    if told.ultralytics:
        return with_antialias(rule, False), "without antialiasing (as its authors do)"
    if "rfdetr_notes" in told.entries:
        return with_antialias(
            rule, False
        ), "without antialiasing (the file is of upstream RF-DETR >= 1.8)"
    if form in YOLO_FORMS:
        return with_antialias(
            rule, False
        ), "without antialiasing (usual for this form; --antialias is the other way)"
    return with_antialias(
        rule, True
    ), "with antialiasing (assumed; --no-antialias is the other way)"


def _inputs(
    pictures: Sequence[Callable[[], Picture]], image: ImageInput, resize: str
) -> list[Callable[[], Array]]:
    hw = image.shape.dims[2], image.shape.dims[3]

    def network_input(picture: Callable[[], Picture]) -> Array:
        pixels = picture().pixels
        size = pixels.shape[0], pixels.shape[1]
        fitted = (
            resize_image(pixels, hw)
            if resize == "stretch"
            else Letterbox(size, hw).picture(pixels, resize_image)
        )
        return np.ascontiguousarray(
            fitted.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        )

    return [partial(network_input, picture) for picture in pictures] or [partial(stand_in, hw)]


def _truths(
    pictures: Sequence[Callable[[], Picture]], image: ImageInput, resize: str
) -> list[Callable[[], Truth]]:
    """Each picture's objects where the network sees them: boxes xyxy in 0..1 of its input, category
    ids.
    """
    hw = image.shape.dims[2], image.shape.dims[3]

    def truth(picture: Callable[[], Picture]) -> Truth:
        pixels, boxes, ids = picture()
        height, width = pixels.shape[:2]
        if resize == "stretch":
            return Truth(boxes / [width, height, width, height], ids)
        letterbox = Letterbox((height, width), hw)
        (top, left), (input_h, input_w) = letterbox.top_left, hw
        return Truth(
            (boxes * letterbox.scale + [left, top, left, top])
            / [input_w, input_h, input_w, input_h],
            ids,
        )

    return [partial(truth, picture) for picture in pictures]


def _channels_last(form: str, outputs: Sequence[Shape], known_classes: int | None) -> bool:
    """Of a form that was asked for: whether a YOLO's numbers of a box are the last axis, by their
    count or by many boxes.
    """
    flat, maps = flat_and_maps(outputs)
    if form not in ("yolo", "yolo-seg") or flat is None or flat.dims[1] <= flat.dims[2]:
        return False
    if known_classes is None:
        return flat.dims[1] >= MOST
    return flat.dims[2] == 4 + known_classes + (maps.dims[1] if maps else 0)


def _fits(form: str, outputs: Sequence[Shape], channels_last: bool, path: str | Path) -> None:
    """:class:`InputError` unless the outputs can be read in this form."""
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
            f"the outputs are not of the form {form}",
        ),
        "yolo": (flat is not None and maps is None, f"the outputs are not of the form {form}"),
        "yolo-objectness": (
            flat is not None and maps is None,
            f"the outputs are not of the form {form}",
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


def _usual_boxes(form: str, outputs: Sequence[Shape], told: Told) -> str:
    """How boxes of this form are written as long as their values do not say otherwise: one of
    BOXES.
    """
    if told.rt_detr and form == "rows":
        return "cxcywh-relative"
    if form == "decoded" and any("detection_boxes" in shape.name for shape in outputs):
        return "yxyx-relative"  # TensorFlow's object detection
    return _USUAL.get(form, "cxcywh-pixels")


def _layout(
    form: str,
    outputs: Sequence[Shape],
    told: Told,
    looked: Sequence[Seen],
    image: ImageInput,
    wishes: Wishes,
) -> Layout:
    if wishes.boxes is not None:
        layout = Layout.parse(wishes.boxes)
    else:
        usual = _usual_boxes(form, outputs, told)
        boxes = confident([one.boxes for one in looked], [one.scores for one in looked])
        layout = layout_of(boxes, image.size, usual, image.path)
    if not layout.proved and form in YOLO_FORMS:  # all anchors have a box, and each tells the unit
        largest = max((float(np.abs(one.boxes).max(initial=0)) for one in looked), default=0.0)
        layout = layout._replace(unit="relative" if 0 < largest <= 2 else "pixels")
    if form in YOLO_FORMS and layout.order not in ("cxcywh", "xyxy"):
        raise InputError(
            f"boxes {layout.order} of a YOLO",
            image.path,
            "name what they are with --boxes: cxcywh or xyxy",
        )
    return layout


def _needs_suppression(outputs: Sequence[Shape], looked: Sequence[Seen], layout: Layout) -> bool:
    """More boxes than any detector of sets gives, or several confident boxes of one object."""
    pair = pair_of(outputs)
    many = pair is not None and pair.boxes.dims[1] > FEW
    return many or any(
        duplicates(corners_array(one.boxes, layout.order), one.labels, one.scores) for one in looked
    )


def _join(
    categories: Categories | None,
    evidence: Evidence,
    told: Told,
    looked: Sequence[Seen],
    wishes: Wishes,
) -> ClassMap:
    settled = evidence.form not in ("decoded", "rows", "rows-seg")
    count = max(one.classes for one in looked)
    if not settled and told.names:
        settled, count = count <= len(told.names), max(count, len(told.names))
    elif not settled and categories is not None:
        count = max(one.classes for one in evidence.seen())
    return join(
        categories,
        count,
        told.names,
        evidence,
        asked=wishes.classes,
        settled=settled,
        path=evidence.path,
    )


def _odds(outputs: Sequence[Shape], probe: Probe) -> bool:
    pair = pair_of(outputs)
    return pair is not None and all(are_odds(value[0]) for value in probe.of(pair.logits.name))


def _masks_in_0_1(outputs: Sequence[Shape], probe: Probe) -> bool:
    roles = decoded_of(outputs)
    if roles is None or "masks" not in roles:
        return False
    values = probe.of(roles["masks"].name)
    return all(value.size and value.min() >= 0 and value.max() <= 1 for value in values) and any(
        value.any() for value in values
    )


def _add_nodes(
    model: onnx.ModelProto, reading: _Reading, image: ImageInput, nms: Nms, path: str | Path
) -> None:
    outputs = [_shape(value, path) for value in model.graph.output]
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
    """Whether nothing is left to do: this project's own outputs, in their order and types."""
    ours = [
        ("scores", "float32", 2),
        ("labels", "int64", 2),
        ("boxes", "float32", 3),
        ("masks", "float32", 4),
    ]
    same = [(shape.name, shape.dtype, len(shape.dims)) for shape in outputs] == ours[: len(outputs)]
    return same and (layout.order, layout.unit) == ("xyxy", "relative") and not halves


def _params(model: onnx.ModelProto) -> int:
    """Numbers in the file's constants of a floating type, or of the integers that stand for them in
    a quantised file.
    """
    kinds = {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.INT8,
        TensorProto.UINT8,
    }
    counted = [
        constant
        for constant in model.graph.initializer
        if constant.dims and constant.data_type in kinds
    ]
    return sum(int(np.prod(constant.dims)) for constant in counted)


def _precision(model: onnx.ModelProto) -> str:
    """``fp16`` where most weights are, ``int8`` where they are quantised."""
    sizes: dict[int, int] = {}
    for constant in model.graph.initializer:
        sizes[constant.data_type] = sizes.get(constant.data_type, 0) + int(np.prod(constant.dims))
    wide = sizes.get(TensorProto.FLOAT, 0)
    half = sizes.get(TensorProto.FLOAT16, 0)
    whole = sizes.get(TensorProto.INT8, 0) + sizes.get(TensorProto.UINT8, 0)
    if any(
        node.op_type in ("DequantizeLinear", "QLinearConv") for node in model.graph.node
    ) and whole > max(wide, half):
        return "int8"
    return "fp16" if half > wide else "fp32"


def _described(
    model: onnx.ModelProto, path: str | Path, image: ImageInput
) -> tuple[bytes, Manifest]:
    """The finished file and what can be read off it."""
    content = model.SerializeToString(deterministic=True)
    given = [_shape(value, path) for value in model.graph.output]
    return content, Manifest(
        sha256=sha256_bytes(content),
        size_bytes=len(content),
        model=ModelId("onnx", Path(path).stem, "segment" if len(given) == 4 else "detect"),
        class_names=(),
        category_ids=(),
        inputs=(TensorSpec(image.shape.name, image.shape.dims, image.shape.dtype),),
        outputs=tuple(TensorSpec(shape.name, shape.dims, shape.dtype) for shape in given),
        params=0,
        flops=2 * multiply_adds(model),
        opset=opset_of(model),
        packages={"onnx": importlib.metadata.version("onnx")},
    )


def _shape(value: onnx.ValueInfoProto, path: str | Path) -> Shape:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value for dim in tensor.shape.dim)
    if not tensor.HasField("shape") or min(dims, default=1) < 1 or not tensor.elem_type:
        raise InputError(
            f"{value.name} has no fixed shape", path, "export it with a fixed size and a batch of 1"
        )
    try:
        return Shape(
            value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name, dims
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{value.name} is of the unknown ONNX type {tensor.elem_type}", path, "export it again"
        ) from error


def described(adoption: dict[str, str]) -> str:
    """One line of what a manifest's ``adoption`` says."""
    return "; ".join(f"{key} {value}" for key, value in adoption.items())
