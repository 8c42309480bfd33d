"""Reads an ONNX file to adopt: external data, metadata, and the image input, which becomes a
standard input.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rfdetr_repro.export.onnx.surgery import PREFIX, Builder, Shape
from rfdetr_repro.export.onnx_file import load_whole
from rfdetr_repro.export.trial import check_size
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file

REFUSED_TASKS = {
    "pose": "keypoints",
    "obb": "oriented boxes",
    "classify": "classes of whole images",
    "semantic": "a class map",
    "depth": "a depth map",
}
SIZES = ("orig_target_sizes", "orig_target_size", "orig_sizes", "orig_size", "target_sizes")
IMAGE_TYPES = ("float32", "float16", "float64", "uint8")


@dataclass(frozen=True)
class Metadata:
    """The file's own metadata; None and empty values are not stated."""

    author: str = ""
    task: str = ""
    head: str = ""
    names: tuple[str, ...] = ()
    image_hw: tuple[int, int] | None = None
    end2end: bool = False
    nms: bool = False
    entries: dict[str, str] = field(default_factory=dict)

    @property
    def ultralytics(self) -> bool:
        """Whether Ultralytics' or YOLOv5's exporter wrote the file: only these write ``stride`` and
        ``names``, or ``end2end``.
        """
        written = self.entries.keys()
        return (
            "ultralytics" in self.author.lower()
            or {"stride", "names"} <= written
            or "end2end" in written
        )

    @property
    def rt_detr(self) -> bool:
        """Whether the file is Ultralytics' RT-DETR."""
        words = f"{self.head} {self.entries.get('description', '')}".lower()
        return self.ultralytics and ("rtdetr" in words or "rt-detr" in words)


def read(path: str | Path) -> tuple[onnx.ModelProto, Metadata, dict[str, str]]:
    """The model with all its weights inside, its metadata, and the SHA-256 hashes of the files
    read.

    Raises :class:`InputError` for a file that is not a whole ONNX model.
    """
    model, external = load_whole(path)
    hashes = {"adopted_from_sha256": sha256_file(Path(path)), **external}
    return model, _metadata(model), hashes


def refuse_other_tasks(model: onnx.ModelProto, metadata: Metadata, path: str | Path) -> None:
    """Raises :class:`InputError` for a model that, by its metadata or output names, is not a
    detector of upright boxes.
    """
    for value in model.graph.output:
        if any(word in value.name.lower() for word in ("keypoint", "kpt")):
            raise InputError(
                f"the output {value.name} holds keypoints",
                path,
                "adopt a detector or an instance segmentation model",
            )
    if metadata.task in REFUSED_TASKS:
        what = (
            f"the file's metadata says task={metadata.task}: the model returns "
            f"{REFUSED_TASKS[metadata.task]}, not detections"
        )
        raise InputError(what, path, "adopt a detector or an instance segmentation model")


def _metadata(model: onnx.ModelProto) -> Metadata:
    entries = {entry.key: entry.value for entry in model.metadata_props}
    names = _value(entries.get("names"))
    if isinstance(names, dict):
        keys = sorted(names) if all(isinstance(key, int) for key in names) else list(names)
        names = [names[key] for key in keys]
    options = _value(entries.get("args"))
    return Metadata(
        author=entries.get("author", ""),
        task=entries.get("task", "").lower(),
        head=entries.get("head", ""),
        names=tuple(map(str, names)) if isinstance(names, (list, tuple)) else (),
        image_hw=_sides(_value(entries.get("imgsz"))),
        end2end=entries.get("end2end", "").lower() == "true",
        nms=isinstance(options, dict) and options.get("nms") is True,
        entries=entries,
    )


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width; None for anything but one or several positive whole numbers, and then an
    open size is asked for.
    """
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if not sides or any(type(side) is not int or side < 1 for side in sides):
        return None
    return sides[0], sides[-1]


def _value(text: str | None) -> Any:
    """A Python or JSON literal, None for anything else."""
    if text is None:
        return None
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


@dataclass(frozen=True)
class ImageInput:
    """The artifact's image input, float32 (1, 3, H, W), and the file's original input."""

    shape: Shape
    dtype: str  # numpy dtype name of the file's own input
    channels_last: bool
    path: str | Path  # the file's path, for errors
    assumed: tuple[str, ...] = ()  # values that were set in the file

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the input in pixels."""
        return self.shape.dims[3], self.shape.dims[2]

    def describe(self) -> str:
        """The input in words, for the manifest."""
        parts = [f"{self.shape.dims[2]}x{self.shape.dims[3]} RGB 0..1"]
        if self.dtype != "float32" or self.channels_last:
            parts.append(f"inside {self.dtype} {'NHWC' if self.channels_last else 'NCHW'}")
        return ", ".join([*parts, *self.assumed])


def standard_input(
    model: onnx.ModelProto, metadata: Metadata, wanted_hw: tuple[int, int] | None, path: str | Path
) -> ImageInput:
    """Gives the model a single image input of fixed size, float32 (1, 3, H, W); inputs for image
    sizes become constants.

    ``wanted_hw``: (height, width) for a file whose size is symbolic. Only the inputs are changed; a
    uint8 or float16 input, and an input with channels last, keeps its type and layout behind the
    added nodes. Raises :class:`InputError` for other inputs.
    """
    constants = {constant.name for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    images = [value for value in inputs if _is_image(value)]
    others = [value for value in inputs if value not in images]
    if len(images) != 1 or any(not _is_side_input(value) for value in others):
        listed = ", ".join(_listed(value) for value in inputs)
        what = (
            f"the model must have one image input (1, 3, H, W) or (1, H, W, 3), not "
            f"{listed or 'none'}"
        )
        raise InputError(
            what,
            path,
            "export the model with this input; an input orig_target_sizes for the image size is "
            "accepted too",
        )
    value = images[0]
    dims = _dims(value)
    last = dims[1] != 3 and dims[3] == 3
    (batch, height, width) = (dims[0], *dims[1:3]) if last else (dims[0], *dims[2:])
    if batch not in (0, 1):
        raise InputError(
            f"the model needs a batch of {batch}: {_listed(value)}",
            path,
            "export the model with a batch of 1",
        )
    height, width = _size(value, (height, width), metadata, wanted_hw, path)
    check_size(height, width, path)
    assumed = ("batch 1",) * (batch == 0) + ((f"size {height}x{width}",) if 0 in dims[1:] else ())
    dtype = _kind(value)
    inner = (1, height, width, 3) if last else (1, 3, height, width)
    if 0 in dims:
        _forget_shapes(model.graph)
    _set_dims(value, inner)
    side = [_side_constant(model.graph, other, (height, width)) for other in others]
    shape = Shape(value.name, "float32", (1, 3, height, width))
    if last or dtype != "float32":
        _convert(model, value, shape, dtype, last)
    return ImageInput(shape, dtype, last, path, (*assumed, *side))


def _is_image(value: onnx.ValueInfoProto) -> bool:
    dims = _dims(value)
    return len(dims) == 4 and _kind(value) in IMAGE_TYPES and (dims[1] in (0, 3) or dims[3] == 3)


def _is_side_input(value: onnx.ValueInfoProto) -> bool:
    dims = _dims(value)
    if value.name in SIZES:
        return dims in ((1, 2), (0, 2), (2,), (1, 0), (0, 0))
    return value.name == "pixel_mask" and len(dims) == 3


def _side_constant(graph: onnx.GraphProto, value: onnx.ValueInfoProto, hw: tuple[int, int]) -> str:
    """Replaces an input for the image size by (1, 1), so that boxes are relative to the image, and
    an input for a pixel mask by ones.
    """
    dims = _dims(value)
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if value.name in SIZES:
        array = np.ones((2,) if len(dims) == 1 else (1, 2), dtype)
        metadata = f"{value.name} = (1, 1)"
    else:
        array = np.ones((1, dims[1] or hw[0], dims[2] or hw[1]), dtype)
        metadata = f"{value.name} all ones"
    graph.initializer.append(numpy_helper.from_array(array, value.name))
    graph.input.remove(value)
    return metadata


def _size(
    value: onnx.ValueInfoProto,
    hw: tuple[int, int],
    metadata: Metadata,
    wanted: tuple[int, int] | None,
    path: str | Path,
) -> tuple[int, int]:
    if 0 not in hw:
        if wanted not in (None, hw):
            raise InputError(
                f"the model's input is fixed at {hw[0]}x{hw[1]}",
                path,
                "leave --shape out, or export the model for another size",
            )
        return hw
    found = wanted or metadata.image_hw
    if found is None:
        what = (
            f"height and width of {_listed(value)} are open, and the file does not state the size "
            f"that it was made for"
        )
        raise InputError(what, path, "give the size with --shape HEIGHTxWIDTH")
    for fixed, side in zip(hw, found, strict=True):
        if fixed not in (0, side):
            raise InputError(
                f"{_listed(value)} does not accept the size {found[0]}x{found[1]}",
                path,
                "give another size with --shape",
            )
    return found


def _convert(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, shape: Shape, dtype: str, last: bool
) -> None:
    """Adds nodes that convert float32 (1, 3, H, W) in 0..1 to the file's own type and layout,
    before all nodes that read the image.
    """
    graph = model.graph
    inner = f"{PREFIX}image"
    for node in graph.node:
        node.input[:] = [inner if name == shape.name else name for name in node.input]
    before = len(graph.node)
    build = Builder(graph)
    name = shape.name
    if dtype == "uint8":
        scaled = build.one("Mul", name, build.constant(255, np.float32))
        limits = build.constant(0, np.float32), build.constant(255, np.float32)
        name = build.one("Clip", build.one("Round", scaled), *limits)
    if dtype != "float32":
        name = build.one("Cast", name, to=value.type.tensor_type.elem_type)
    name = build.one("Transpose", name, perm=[0, 2, 3, 1]) if last else name
    build.add("Identity", [name], [inner])
    to_front(graph, before)
    value.CopyFrom(helper.make_tensor_value_info(shape.name, TensorProto.FLOAT, shape.dims))


def to_front(graph: onnx.GraphProto, before: int) -> None:
    """Moves the nodes from index ``before`` on to the front, in their order."""
    added = [graph.node.pop() for _ in range(len(graph.node) - before)]
    for node in added:
        graph.node.insert(0, node)


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Removes shapes with symbols, so that they are inferred again from the fixed input."""
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The dimensions of a value, with 0 for a dimension that is not a positive number."""
    return tuple(max(0, dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def _set_dims(value: onnx.ValueInfoProto, dims: tuple[int, ...]) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
        dim.dim_value = size


def _listed(value: onnx.ValueInfoProto) -> str:
    dims = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
    return f"{value.name} {_kind(value)} [{', '.join(map(str, dims))}]"


def _kind(value: onnx.ValueInfoProto) -> str:
    """The numpy dtype name of a tensor; "no tensor" or the ONNX number for other values."""
    number = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or number == TensorProto.UNDEFINED:
        return "no tensor"
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(number)).name
    except (KeyError, TypeError, ValueError):
        return f"ONNX type {number}"
