"""ONNX artifacts whose outputs have another type or shape, and files of the two formats side by
side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper
from samples_export import ARCH, meta, tiny_artifact, tiny_detector

from rfdetr_repro.export.artifact import Artifact, write_artifact
from rfdetr_repro.export.torch import export_torch
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.files import sha256_bytes

KINDS = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "bool": TensorProto.BOOL,
    "float64": TensorProto.DOUBLE,
}
KINDS |= {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
REFUSED = [
    ("scores", "bfloat16"),
    ("scores", "bool"),
    ("boxes", "float64"),
    ("labels", "float32"),
    ("masks", "bool"),
]
WIDENED = [("scores", "float16"), ("boxes", "float16"), ("masks", "float16"), ("labels", "int32")]


class Both(NamedTuple):
    """One subnet and its two files."""

    subnet: Detector
    onnx: Artifact
    torch: Artifact


def both_formats(folder: Path) -> Both:
    detector = tiny_detector()
    subnet = detector.slice(ARCH)
    return Both(
        subnet,
        tiny_artifact(folder, detector),
        export_torch(subnet, folder / f"{ARCH.key}.safetensors", meta=meta()),
    )


def rewritten(artifact: Artifact, content: bytes, folder: Path) -> Artifact:
    """Another file under the same manifest, but for hash and size."""
    manifest = replace(artifact.manifest, sha256=sha256_bytes(content), size_bytes=len(content))
    return write_artifact(folder / artifact.path.name, content, manifest)


def with_output_type(artifact: Artifact, output: str, dtype: str, folder: Path) -> Artifact:
    """The same model whose ``output`` is cast to ``dtype`` at the end."""
    model = onnx.load(artifact.path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{output}_before" if name == output else name for name in names]
    model.graph.node.append(
        helper.make_node("Cast", [f"{output}_before"], [output], to=KINDS[dtype])
    )
    next(
        value for value in model.graph.output if value.name == output
    ).type.tensor_type.elem_type = KINDS[dtype]
    return rewritten(artifact, model.SerializeToString(), folder)
