"""The unit that is measured: a model file and, beside it, a manifest that says what it is
(``NAME.onnx`` + ``NAME.json``; ``NAME.safetensors`` + ``NAME.safetensors.json``).

A file is named by its SHA-256. :func:`load_artifact` refuses a file whose bytes are not those its
manifest names. No torch here.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfdetr_repro.records.record import Cost, ModelId
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.codec import decode
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json, sha256_file, write_atomic
from rfdetr_repro.spec.resize_rules import ANTIALIASED, LETTERBOX

SCHEMA = 1
RESIZE_RULE = ANTIALIASED
LETTERBOX_RULE = LETTERBOX
NORMALISATION = "ImageNet mean and standard deviation, inside the graph"


@dataclass(frozen=True)
class ArtifactMeta:
    """What an exporter cannot read off the weights.

    ``category_ids[label]`` is the data set's id of an output label.
    """

    model: ModelId  # its arch is filled in by the exporter
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    resize: str = RESIZE_RULE  # of pictures, as the weights know them: the model card's rule


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: static shape, numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Manifest:
    """Everything a reader of the file needs to use it and to report it."""

    sha256: str
    size_bytes: int
    model: ModelId
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    params: int  # of the deployed subnet
    flops: int  # 2 per multiply-add of matrix products and convolutions, one image
    # "fp16"; of an engine that is not mostly half where it should be: "not fp16"
    precision: str = "fp32"
    # or "torch" (export/torch.py), or an engine's backend (export/tensorrt/engine.py)
    format: str = "onnx"
    opset: int | None = None
    input_range: tuple[float, float] = (0.0, 1.0)  # RGB
    normalisation: str = NORMALISATION
    contract: str = "decoded"  # or "upstream": raw boxes and logits, see export/onnx/exporter.py
    resize: str = RESIZE_RULE
    packages: dict[str, str] = field(default_factory=dict)  # what made the file
    onnx_sha256: str | None = None  # of an engine: the ONNX file it was built from
    build: dict[str, str] = field(default_factory=dict)  # options and circumstances of a conversion
    # fp16: reason -> nodes kept in float32
    islands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # of an engine: precision -> layers that work in it
    census: dict[str, int] = field(default_factory=dict)
    # of somebody else's file: what was taken of it, see export/adopt/
    adoption: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def input_hw(self) -> tuple[int, int]:
        """(H, W) of the image input."""
        height, width = self.inputs[0].shape[-2:]
        return height, width

    @property
    def cost(self) -> Cost:
        return Cost(self.params, float(self.flops))

    def to_json(self) -> str:
        fields = dataclasses.asdict(self)
        fields["model"]["arch"] = self.model.arch and self.model.arch.key
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, fields: Any, path: str | Path) -> Manifest:
        """Rebuilds a manifest from parsed JSON; anything else is an :class:`InputError` that names
        ``path``.
        """
        try:
            if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            model = fields["model"]
            if model["arch"] is not None:
                model = {**model, "arch": dataclasses.asdict(Arch.parse(model["arch"]))}
            manifest = decode(cls, {**fields, "model": model})
            _check(manifest)
            return manifest
        except (
            InputError,
            TypeError,
            KeyError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            raise InputError(
                f"not an artifact manifest ({error})", path, "export the model again"
            ) from error


def _check(manifest: Manifest) -> None:
    """Raises ValueError where fields of the right types do not fit together."""
    if len(manifest.class_names) != len(manifest.category_ids):
        raise ValueError(
            f"{len(manifest.class_names)} class names and {len(manifest.category_ids)} category ids"
        )
    # below 0: classes that the data set lacks
    known = [number for number in manifest.category_ids if number >= 0]
    if len(set(known)) != len(known):
        raise ValueError("two classes have one category id")
    for digest in (manifest.sha256, manifest.onnx_sha256):
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{digest[:70]!r} is no SHA-256")
    _check_tensors(manifest)
    if manifest.model.weights not in ("trained", "random", "published"):
        raise ValueError(f"weights {manifest.model.weights!r} are not trained, random or published")
    if not all(0 <= n < 2**63 for n in (manifest.params, manifest.flops, manifest.size_bytes)):
        raise ValueError("a number of parameters, operations or bytes is out of range")


def _check_tensors(manifest: Manifest) -> None:
    if not manifest.inputs or not manifest.outputs:
        raise ValueError("a model without inputs or outputs")
    for spec in (*manifest.inputs, *manifest.outputs):
        if not all(0 < side < 2**31 for side in spec.shape):
            raise ValueError(f"{spec.name} has the shape {spec.shape}")
    if len(manifest.inputs[0].shape) != 4:
        raise ValueError(f"its input {manifest.inputs[0].shape} is no batch of images")


@dataclass(frozen=True)
class Artifact:
    """A model file on disk and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        return self.manifest.sha256


def manifest_path(path: str | Path) -> Path:
    """``NAME.json`` beside ``NAME.onnx``; ``NAME.EXT.json`` beside any other, so files of one name
    do not share a manifest.
    """
    path = Path(path)
    return (
        path.with_suffix(".json")
        if path.suffix in ("", ".onnx", ".json")
        else path.with_name(f"{path.name}.json")
    )


def write_artifact(path: str | Path, content: bytes, manifest: Manifest) -> Artifact:
    """Writes file and manifest, each whole or not at all; the manifest comes last, so a killed run
    leaves no pair that lies.
    """
    path = Path(path)
    if manifest_path(path) == path:
        raise InputError("an artifact cannot be called .json", path, "name it like model.onnx")
    write_atomic(path, content)
    write_atomic(manifest_path(path), manifest.to_json())
    return Artifact(path, manifest)


def load_artifact(path: str | Path) -> Artifact:
    """Reads the manifest of ``path`` and checks the file's hash.

    Missing or differing: :class:`InputError`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such artifact", path, "make one with python -m rfdetr_repro.export")
    beside = manifest_path(path)
    if not beside.is_file():
        raise InputError(
            "the artifact has no manifest",
            beside,
            f"keep {beside.name} beside {path.name}, or export again",
        )
    manifest = Manifest.from_json(read_json(beside), beside)
    found = sha256_file(path)
    if found != manifest.sha256:
        named = manifest.sha256[:12]
        raise InputError(
            f"the file ({found[:12]}) is not the one its manifest names ({named})",
            path,
            "export the model again",
        )
    return Artifact(path, manifest)
