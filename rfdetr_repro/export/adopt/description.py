"""Description of a finished ONNX file: shapes, number of parameters, precision, manifest."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from rfdetr_repro.export.artifact import Manifest, TensorSpec
from rfdetr_repro.export.onnx.shapes import multiply_adds
from rfdetr_repro.export.onnx.surgery import Shape
from rfdetr_repro.export.onnx_file import opset_of
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_bytes

from .file import ImageInput


def parameters(model: onnx.ModelProto) -> int:
    """Number of floating-point constants in the file, or of the integers that replace them in a
    quantised file.
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


def precision_of(model: onnx.ModelProto) -> str:
    """``fp16`` where most weights are float16, ``int8`` where they are quantised, else ``fp32``."""
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


def finished(model: onnx.ModelProto, path: str | Path, image: ImageInput) -> tuple[bytes, Manifest]:
    """The finished file's bytes and its manifest."""
    content = model.SerializeToString(deterministic=True)
    given = [fixed_shape(value, path) for value in model.graph.output]
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


def fixed_shape(value: onnx.ValueInfoProto, path: str | Path) -> Shape:
    """Name, dtype and shape of a value; raises :class:`InputError` unless the shape is fixed."""
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value for dim in tensor.shape.dim)
    if not tensor.HasField("shape") or min(dims, default=1) < 1 or not tensor.elem_type:
        raise InputError(
            f"the shape of {value.name} is not fixed",
            path,
            "export the model with a fixed size and a batch of 1",
        )
    try:
        return Shape(
            value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name, dims
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{value.name} has the unknown ONNX type {tensor.elem_type}", path, "export it again"
        ) from error


def described(adoption: dict[str, str]) -> str:
    """A manifest's ``adoption`` in one line."""
    return "; ".join(f"{key} {value}" for key, value in adoption.items())
