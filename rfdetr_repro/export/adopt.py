"""Somebody else's ONNX file as an artifact: ranked detections in the same form, made by nodes added to the file itself.

What a detector's own code does around the graph (normalisation, sigmoid, choice of the best, box form) becomes part of the
file, so its latency is of the same work as ours and one SHA-256 stands for all of it. These forms of files are taken:

- ``decoded``: ``scores`` (1, K), ``labels`` (1, K), ``boxes`` (1, K, 4) xyxy in 0..1 and maybe ``masks`` (1, K, h, w): ours;
- ``detr``: boxes (1, Q, 4) cxcywh in 0..1, logits (1, Q, C) and maybe mask logits (1, Q, h, w): RF-DETR upstream, transformers;
- ``rows``: (1, N, 6) rows of x0, y0, x1, y1 in pixels of the input, score, class: detectors with NMS inside, or without any;
- ``yolo``, ``yolo-seg``, ``yolo-objectness``: all boxes, suppression and masks are added (:mod:`.adopt_yolo`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import InputError
from ..files import sha256_bytes
from ..record import ModelId
from .adopt_yolo import YOLO_FORMS, adopt_yolo, yolo_form
from .artifact import LETTERBOX_RULE, RESIZE_RULE, Artifact, Manifest, TensorSpec, write_artifact
from .fp16_audit import load
from .nms import MOST, STANDARD, Nms
from .onnx_flops import multiply_adds
from .onnx_shapes import with_shapes
from .surgery import INPUTS, Builder, Shape, change_input, renamed

NORMALISE = tuple(INPUTS)
FORMS = ("decoded", "detr", "rows", *YOLO_FORMS)
RESIZE = {"stretch": RESIZE_RULE, "letterbox": LETTERBOX_RULE}
OLDEST_OPSET = 13


class Categories(NamedTuple):
    """The data set's categories: id and name of each, in order of id."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


def adopt(
    path: str | Path,
    out: str | Path,
    *,
    categories: Categories | None = None,
    form: str | None = None,
    normalise: str = "none",
    weights: str = "trained",
    resize: str | None = None,
    nms: Nms = STANDARD,
) -> Artifact:
    """Writes the file at ``path`` as an artifact ``out`` with its manifest beside it.

    ``categories``: of the data set the model was trained on; the model's classes are they in order, or the ids themselves where
    it has more classes than they. ``form``: one of FORMS, found from the outputs if None. ``normalise``: what RGB in 0..1 needs
    before the file's own input. ``resize``: one of RESIZE, None: letterbox for the YOLO forms, else stretch. ``nms``: suppression
    of the YOLO forms; its ``inject`` is for random weights only. Raises :class:`InputError` for what is no such detector of batch
    1 and fixed size.
    """
    _check_options(path, form, normalise, resize, weights, nms)
    model = load(path)
    image = _image_input(model, path)
    model = _inferred(model, path)
    found = form or form_of([_shape(value, path) for value in model.graph.output], path)
    params, origin = _params(model), {"adopted_from_sha256": sha256_bytes(Path(path).read_bytes())}
    change_input(model.graph, image.name, normalise)
    ids, names = _classes(categories, _ranked(model, found, image, nms, path), path)
    origin |= nms.stated() if found in YOLO_FORMS else {}
    content, found_out = _described(_inferred(model, path), path, image)
    manifest = replace(
        found_out,
        class_names=names,
        category_ids=ids,
        packages={**origin, **found_out.packages},
        model=replace(found_out.model, weights=weights),
        normalisation=f"{normalise}, added to the graph; the rest as in the file",
        resize=RESIZE[resize or ("letterbox" if found in YOLO_FORMS else "stretch")],
        params=params,
    )
    return write_artifact(out, content, manifest)


def _check_options(path: str | Path, form: str | None, normalise: str, resize: str | None, weights: str, nms: Nms) -> None:
    if normalise not in NORMALISE or form not in (None, *FORMS) or resize not in (None, *RESIZE):
        raise InputError(f"unknown normalisation {normalise!r}, form {form!r} or resize {resize!r}", path)
    if nms.inject is not None and weights != "random":
        raise InputError("scores are set in a model that is said to be trained", path, "say that its weights are random")


def _ranked(model: onnx.ModelProto, form: str, image: Shape, nms: Nms, path: str | Path) -> int | None:
    """Adds what makes ranked detections of the outputs; returns the number of classes where the outputs tell it."""
    outputs, size = [_shape(value, path) for value in model.graph.output], (image.dims[3], image.dims[2])
    if form == "decoded":
        return _decoded(model.graph, outputs, size, path)
    outputs = renamed(model.graph, outputs)
    if form in YOLO_FORMS:
        return adopt_yolo(model.graph, form, outputs, size, nms=nms, path=path)
    return {"detr": _detr, "rows": _rows}[form](model.graph, outputs, size, path)


def _params(model: onnx.ModelProto) -> int:
    """Numbers in the file's float32 constants."""
    constants = [numpy_helper.to_array(constant) for constant in model.graph.initializer]
    return sum(value.size for value in constants if value.dtype == np.float32 and value.ndim)


def _described(model: onnx.ModelProto, path: str | Path, image: Shape) -> tuple[bytes, Manifest]:
    """The finished file and what can be read off it."""
    content = model.SerializeToString(deterministic=True)
    given = [_shape(value, path) for value in model.graph.output]
    return content, Manifest(
        sha256=sha256_bytes(content),
        size_bytes=len(content),
        model=ModelId("onnx", Path(path).stem, "segment" if len(given) == 4 else "detect"),
        class_names=(),
        category_ids=(),
        inputs=(TensorSpec(image.name, image.dims, image.dtype),),
        outputs=tuple(TensorSpec(shape.name, shape.dims, shape.dtype) for shape in given),
        params=0,
        flops=2 * multiply_adds(model),
        opset=next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")),
        packages={"onnx": importlib.metadata.version("onnx")},
    )


def form_of(outputs: Sequence[Shape], path: str | Path) -> str:
    """Which of FORMS the outputs are; raises :class:`InputError` that lists them if none."""
    names, dims = [shape.name for shape in outputs], [shape.dims for shape in outputs]
    if names[:3] == ["scores", "labels", "boxes"]:
        return "decoded"
    if len(dims) == 1 and len(dims[0]) == 3 and dims[0][2] == 6:
        return "rows"
    if _boxes_and_logits(outputs) is not None:
        return "detr"
    if (yolo := yolo_form(outputs)) is not None:
        return yolo
    listed = ", ".join(f"{shape.name} {list(shape.dims)}" for shape in outputs)
    mend = "export it with boxes and logits, or with its NMS inside as rows (1, N, 6), or name its form"
    raise InputError(f"outputs {listed} are of no known form", path, mend)


def _inferred(model: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    version = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0)
    if version < OLDEST_OPSET:
        raise InputError(f"the model is of opset {version}", path, f"export it with opset {OLDEST_OPSET} or later")
    if custom := sorted({node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")}):
        raise InputError(f"the model has operators of {', '.join(custom)}", path, "export it with standard operators only")
    return with_shapes(model, path)


def _shape(value: onnx.ValueInfoProto, path: str | Path) -> Shape:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value for dim in tensor.shape.dim)
    if not tensor.HasField("shape") or 0 in dims:
        raise InputError(f"{value.name} has no fixed shape", path, "export it with a fixed size and a batch of 1")
    return Shape(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name, dims)


def _image_input(model: onnx.ModelProto, path: str | Path) -> Shape:
    constants = {constant.name for constant in model.graph.initializer}
    inputs = [_shape(value, path) for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(inputs[0].dims) != 4 or inputs[0].dims[:2] != (1, 3) or inputs[0].dtype != "float32":
        listed = ", ".join(f"{shape.name} {shape.dtype} {list(shape.dims)}" for shape in inputs)
        raise InputError(f"the model must have one float32 input (1, 3, H, W), not {listed or 'none'}", path, "export it so")
    return inputs[0]


def _boxes_and_logits(outputs: Sequence[Shape]) -> tuple[Shape, Shape, Shape | None] | None:
    flat = [shape for shape in outputs if len(shape.dims) == 3 and shape.dims[0] == 1 and shape.dtype == "float32"]
    maps = [shape for shape in outputs if len(shape.dims) == 4 and shape.dims[0] == 1]
    named = [shape for shape in flat if shape.dims[2] == 4 and ("box" in shape.name or shape.name == "dets")]
    boxes = named or [shape for shape in flat if shape.dims[2] == 4]
    logits = [shape for shape in flat if shape not in (named or boxes)[:1]]
    if (
        len(boxes) < 1
        or len(logits) != 1
        or logits[0].dims[1] != boxes[0].dims[1]
        or len(maps) > 1
        or len(boxes) > 1
        and not named
    ):
        return None
    return boxes[0], logits[0], maps[0] if maps else None


def _classes(categories: Categories | None, count: int | None, path: str | Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category id and name of each output label."""
    if categories is None:
        ids = tuple(range(count or 0))
        return ids, tuple(f"class {index}" for index in ids)
    if count is None or count == len(categories.ids):
        return categories.ids, categories.names
    if count > max(categories.ids):
        known = dict(zip(*categories, strict=True))
        return tuple(range(count)), tuple(known.get(index, f"class {index}") for index in range(count))
    mend = "name the categories the model was trained on"
    raise InputError(
        f"the model has {count} classes, the data set {len(categories.ids)} up to id {max(categories.ids)}", path, mend
    )


def _decoded(graph: onnx.GraphProto, outputs: Sequence[Shape], size: tuple[int, int], path: str | Path) -> int | None:
    if [shape.name for shape in outputs] not in (["scores", "labels", "boxes"], ["scores", "labels", "boxes", "masks"]):
        raise InputError("the outputs are not scores, labels, boxes[, masks]", path, "choose another form")
    return None


def _detr(graph: onnx.GraphProto, outputs: Sequence[Shape], size: tuple[int, int], path: str | Path) -> int:
    """Sigmoid, the best (query, class) pairs, corners: what :func:`rfdetr_repro.model.postprocess.top_k` does."""
    parts = _boxes_and_logits(outputs)
    if parts is None:
        raise InputError("no boxes (1, Q, 4) with logits (1, Q, C)", path, "choose another form")
    boxes, logits, masks = parts
    queries, classes = logits.dims[1:]
    build = Builder(graph)
    flat = build.one("Reshape", logits.name, build.constant([1, queries * classes]))
    best, index = build.add("TopK", [flat, build.constant([min(MOST, queries, queries * classes)])], 2, axis=1)
    query = build.one("Div", index, build.constant(classes))
    label = build.one("Sub", index, build.one("Mul", query, build.constant(classes)))
    rows = build.one("Squeeze", query, build.constant([0]))
    centre, extent = build.add("Split", [build.one("Gather", boxes.name, rows, axis=1), build.constant([2, 2])], 2, axis=2)
    half = build.one("Mul", extent, build.constant(0.5, np.float32))
    corners = build.one("Concat", build.one("Sub", centre, half), build.one("Add", centre, half), axis=2)
    results = {
        "scores": (build.one("Sigmoid", best), TensorProto.FLOAT),
        "labels": (label, TensorProto.INT64),
        "boxes": (corners, TensorProto.FLOAT),
    }
    if masks is not None:
        results["masks"] = (build.one("Gather", masks.name, rows, axis=1), TensorProto.FLOAT)
    build.results(**results)
    return classes


def _rows(graph: onnx.GraphProto, outputs: Sequence[Shape], size: tuple[int, int], path: str | Path) -> None:
    """Rows of a detector with its own choice inside, best first."""
    if len(outputs) != 1 or len(outputs[0].dims) != 3 or outputs[0].dims[2] != 6:
        raise InputError("no output (1, N, 6)", path, "choose another form")
    build = Builder(graph)
    corners, score, label = build.add("Split", [outputs[0].name, build.constant([4, 1, 1])], 3, axis=2)
    axis = build.constant([2])
    kept = build.constant([min(MOST, outputs[0].dims[1])])
    best, index = build.add("TopK", [build.one("Squeeze", score, axis), kept], 2, axis=1)
    rows = build.one("Squeeze", index, build.constant([0]))
    scale = build.constant(np.array([1 / size[0], 1 / size[1]] * 2).reshape(1, 1, 4), np.float32)
    labels = build.one("Cast", build.one("Squeeze", build.one("Gather", label, rows, axis=1), axis), to=TensorProto.INT64)
    boxes = build.one("Mul", build.one("Gather", corners, rows, axis=1), scale)
    build.results(scores=(best, TensorProto.FLOAT), labels=(labels, TensorProto.INT64), boxes=(boxes, TensorProto.FLOAT))
