"""Reads a whole ONNX file: the graph, and weights in further files of the same folder.

Further files are checked before they are opened: they must be regular files in the model's own
folder, and together no larger than a protobuf message may be.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input, refuse_stand_in, sha256_file

LARGEST_BYTES = 2**31 - 1  # largest size of a protobuf message
OLDEST_OPSET = 13


def load(path: str | Path) -> onnx.ModelProto:
    """The ONNX model at ``path``, without its external data; raises :class:`InputError` if the file
    is missing or broken.
    """
    with open_input(Path(path)) as stream:
        head = stream.read(256)
        refuse_stand_in(head, path)
        if os.fstat(stream.fileno()).st_size > LARGEST_BYTES:  # told before the file takes memory
            raise InputError(
                "the model has more than 2 GB",
                path,
                "export the model with external data, or in float16",
            )
        content = head + stream.read()
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.node:
            raise ValueError("the graph has no nodes")
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise InputError(f"not an ONNX model ({error})", path, "export the model again") from error
    return model


def load_whole(path: str | Path) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with all its weights inside, and the SHA-256 hashes of the external files that were
    read.

    Raises :class:`InputError` for a constant whose data do not match its type and shape.
    """
    model = load(path)
    hashes = {}
    files = _external_files(model, Path(path))
    if files:
        try:
            external_data_helper.load_external_data_for_model(model, str(Path(path).parent))
        except Exception as error:  # onnx raises its own checker's and the system's errors
            raise InputError(
                f"the model's external data cannot be read ({error})",
                path,
                "export the model again",
            ) from error
        for tensor in tensors(model.graph):
            tensor.ClearField("data_location")
        digest = hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()
        hashes = {
            "external_data_sha256": digest,
            "external_data": ", ".join(file.name for file in files),
        }
    _check_constants(model, path)
    return model, hashes


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of the standard operators; 0 where the file states none."""
    return next(
        (opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0
    )


def check_operators(model: onnx.ModelProto, path: str | Path) -> None:
    """Raises :class:`InputError` for an old opset and for operators that are not standard."""
    version = opset_of(model)
    if version < OLDEST_OPSET:
        raise InputError(
            f"the model has the opset {version}",
            path,
            f"export the model with opset {OLDEST_OPSET} or later",
        )
    if custom := sorted(
        {node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    ):
        raise InputError(
            f"the model has custom operators of {', '.join(custom)}",
            path,
            "export the model with standard operators only",
        )


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The constants of the graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors(inner)


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The external files that hold the model's weights; raises :class:`InputError` for a missing
    file and for a file outside the model's folder.
    """
    outside = [
        tensor for tensor in tensors(model.graph) if tensor.data_location == TensorProto.EXTERNAL
    ]
    names = set()
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries.get("location"):
            raise InputError(
                f"the data of {tensor.name} are in a file without a name",
                path,
                "export the model again",
            )
        if any(
            not entries.get(key, "0").isdecimal() or len(entries.get(key, "")) > 18
            for key in ("offset", "length")
        ):
            what = f"the data of {tensor.name} have no usable offset and length"
            raise InputError(what, path, "export the model again")
        names.add(entries["location"])
    return _checked_files([path.parent / name for name in sorted(names)], path)


def _checked_files(files: list[Path], path: Path) -> list[Path]:
    size = path.stat().st_size
    for file in files:
        try:
            folder = path.parent.resolve()
            inside = file.resolve()
            if not inside.is_relative_to(folder):
                what = f"the external data file {file.name} is outside the model's folder"
                raise InputError(what, path, "keep the files together")
            if not file.is_file():
                what = (
                    f"the model's weights are in {file.name}, which is missing or not a regular "
                    f"file"
                )
                raise InputError(what, path, f"put {file.name} into the model's folder")
            size += file.stat().st_size
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # a loop of links, a NUL character, or a name that is too long
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"the model's external data cannot be read ({reason})",
                path,
                "export the model again",
            ) from error
    if size > LARGEST_BYTES:
        raise InputError(
            "the model has more than 2 GB with its external data",
            path,
            "export the model in float16",
        )
    return files


def _check_constants(model: onnx.ModelProto, path: str | Path) -> None:
    """Raises :class:`InputError` for a constant whose data contradict its size or type, and for
    weights that are NaN.

    Infinite constants belong to masks and limits, and are accepted.
    """
    for tensor in tensors(model.graph):
        name = tensor.name or "without a name"
        try:
            value = numpy_helper.to_array(tensor)
            odd = value.dtype.kind in "fc" and bool(np.isnan(value).any())
        except Exception as error:  # onnx raises whatever fits
            what = f"the data of the constant {name} do not match its type and shape ({error})"
            raise InputError(
                what, path, "copy the file again, or export the model again"
            ) from error
        if odd:
            what = f"the weights hold values that are not finite (NaN), in {name}"
            raise InputError(what, path, "export an earlier checkpoint")
