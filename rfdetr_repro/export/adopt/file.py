"""Somebody else's ONNX file read whole: external data, what its metadata says, and its image input
made a standard one.
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
    "classify": "classes of whole pictures",
    "semantic": "a class map",
    "depth": "a depth map",
}
SIZES = ("orig_target_sizes", "orig_target_size", "orig_sizes", "orig_size", "target_sizes")
IMAGE_TYPES = ("float32", "float16", "float64", "uint8")


@dataclass(frozen=True)
class Told:
    """What the file's own metadata says; None and empty: nothing."""

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
        """Ultralytics' and YOLOv5's exporters write ``stride`` and ``names``, or ``end2end``;
        nobody else's does.
        """
        written = self.entries.keys()
        return (
            "ultralytics" in self.author.lower()
            or {"stride", "names"} <= written
            or "end2end" in written
        )

    @property
    def rt_detr(self) -> bool:
        words = f"{self.head} {self.entries.get('description', '')}".lower()
        return self.ultralytics and ("rtdetr" in words or "rt-detr" in words)


def read(path: str | Path) -> tuple[onnx.ModelProto, Told, dict[str, str]]:
    """The model with all its weights inside, what its metadata says, and hashes of the files it was
    read from.
    """
    model, beside = load_whole(path)
    hashes = {"adopted_from_sha256": sha256_file(Path(path)), **beside}
    return model, _told(model), hashes


def refuse_other_tasks(model: onnx.ModelProto, told: Told, path: str | Path) -> None:
    """:class:`InputError` for a model that its metadata or the names of its outputs say to be no
    detector of upright boxes.
    """
    for value in model.graph.output:
        if any(word in value.name.lower() for word in ("keypoint", "kpt")):
            raise InputError(
                f"the output {value.name} holds keypoints",
                path,
                "adopt a detector or a model of instance masks",
            )
    if told.task in REFUSED_TASKS:
        what = (
            f"the file's metadata says task={told.task}: the model gives "
            f"{REFUSED_TASKS[told.task]}, not detections"
        )
        raise InputError(what, path, "adopt a detector or a model of instance masks")


def _told(model: onnx.ModelProto) -> Told:
    entries = {entry.key: entry.value for entry in model.metadata_props}
    names = _value(entries.get("names"))
    if isinstance(names, dict):
        keys = sorted(names) if all(isinstance(key, int) for key in names) else list(names)
        names = [names[key] for key in keys]
    size = _value(entries.get("imgsz"))
    hw = (int(size[0]), int(size[-1])) if isinstance(size, (list, tuple)) and size else None
    options = _value(entries.get("args"))
    return Told(
        author=entries.get("author", ""),
        task=entries.get("task", "").lower(),
        head=entries.get("head", ""),
        names=tuple(map(str, names)) if isinstance(names, (list, tuple)) else (),
        image_hw=(size, size) if isinstance(size, int) else hw,
        end2end=entries.get("end2end", "").lower() == "true",
        nms=isinstance(options, dict) and options.get("nms") is True,
        entries=entries,
    )


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
    """The image as the artifact takes it, float32 (1, 3, H, W), and what the file's own input
    was.
    """

    shape: Shape
    dtype: str  # of the file's own input
    channels_last: bool
    path: str | Path  # of the file, for errors
    assumed: tuple[str, ...] = ()  # what was set in the file

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.shape.dims[3], self.shape.dims[2]

    def describe(self) -> str:
        parts = [f"{self.shape.dims[2]}x{self.shape.dims[3]} RGB 0..1"]
        if self.dtype != "float32" or self.channels_last:
            parts.append(f"inside {self.dtype} {'NHWC' if self.channels_last else 'NCHW'}")
        return ", ".join([*parts, *self.assumed])


def standard_input(
    model: onnx.ModelProto, told: Told, wanted_hw: tuple[int, int] | None, path: str | Path
) -> ImageInput:
    """Gives the model one image input of fixed size, batch 1, float32 (1, 3, H, W); inputs for
    sizes become constants.

    ``wanted_hw``: for a file whose height and width are symbolic. Nothing but the inputs is
    changed; a uint8 or float16 input, and one with channels last, keeps its own type and layout
    behind the added nodes.
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
            what, path, "export it so; sizes of the picture may be asked for as orig_target_sizes"
        )
    value = images[0]
    dims = _dims(value)
    last = dims[1] != 3 and dims[3] == 3
    (batch, height, width) = (dims[0], *dims[1:3]) if last else (dims[0], *dims[2:])
    if batch not in (0, 1):
        raise InputError(
            f"the model takes a batch of {batch}: {_listed(value)}",
            path,
            "export it with a batch of 1",
        )
    height, width = _size(value, (height, width), told, wanted_hw, path)
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
    """An input for the picture's size becomes (1, 1), so that boxes come as parts of the picture; a
    mask of pixels, all ones.
    """
    dims = _dims(value)
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if value.name in SIZES:
        array = np.ones((2,) if len(dims) == 1 else (1, 2), dtype)
        told = f"{value.name} = (1, 1)"
    else:
        array = np.ones((1, dims[1] or hw[0], dims[2] or hw[1]), dtype)
        told = f"{value.name} all ones"
    graph.initializer.append(numpy_helper.from_array(array, value.name))
    graph.input.remove(value)
    return told


def _size(
    value: onnx.ValueInfoProto,
    hw: tuple[int, int],
    told: Told,
    wanted: tuple[int, int] | None,
    path: str | Path,
) -> tuple[int, int]:
    if 0 not in hw:
        if wanted not in (None, hw):
            raise InputError(
                f"the model's input is fixed at {hw[0]}x{hw[1]}",
                path,
                "leave --shape out, or export it again",
            )
        return hw
    found = wanted or told.image_hw
    if found is None:
        what = (
            f"height and width of {_listed(value)} are open, and the file does not say which it "
            f"was made for"
        )
        raise InputError(what, path, "name them with --shape HEIGHTxWIDTH")
    for fixed, side in zip(hw, found, strict=True):
        if fixed not in (0, side):
            raise InputError(
                f"{_listed(value)} does not take {found[0]}x{found[1]}",
                path,
                "name another --shape",
            )
    return found


def _convert(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, shape: Shape, dtype: str, last: bool
) -> None:
    """Nodes from float32 (1, 3, H, W) in 0..1 to the file's own type and layout, ahead of
    everything that reads the image.
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
    """Moves the nodes from index ``before`` on ahead of all others, in their order."""
    added = [graph.node.pop() for _ in range(len(graph.node) - before)]
    for node in added:
        graph.node.insert(0, node)


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Shapes with symbols are found anew, from the fixed input."""
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """0 for what is not a positive number."""
    return tuple(max(0, dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def _set_dims(value: onnx.ValueInfoProto, dims: tuple[int, ...]) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
        dim.dim_value = size


def _listed(value: onnx.ValueInfoProto) -> str:
    dims = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
    return f"{value.name} {_kind(value)} [{', '.join(map(str, dims))}]"


def _kind(value: onnx.ValueInfoProto) -> str:
    """numpy's name of a tensor's type; what is no tensor of a known type has none."""
    number = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or number == TensorProto.UNDEFINED:
        return "no tensor"
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(number)).name
    except (KeyError, TypeError, ValueError):
        return f"ONNX type {number}"
