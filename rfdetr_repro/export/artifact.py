"""The unit of measurement: a model file with a manifest that describes the file
(``NAME.onnx`` + ``NAME.json``; ``NAME.safetensors`` + ``NAME.safetensors.json``).

An artifact is identified by the SHA-256 of its file. :func:`load_artifact` refuses a file whose
hash differs from the hash in its manifest. This module does not import PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfdetr_repro.records.record import Cost, ModelId, Quantised
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbones import known_backbones
from rfdetr_repro.spec.codec import decode
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json, sha256_file, write_atomic
from rfdetr_repro.spec.protocol import OF_ENGINES
from rfdetr_repro.spec.ranges import check_classes, choose, is_text
from rfdetr_repro.spec.resize_rules import ANTIALIASED, LETTERBOX, RULES

SCHEMA = 1
RESIZE_RULE = ANTIALIASED
LETTERBOX_RULE = LETTERBOX
OPEN_BATCH = "dynamic"
MOST_IMAGES = 4096  # largest batch
MODULE = "module"  # what builds a model that no file can be made of, in PyTorch
FORMATS = ("onnx", "torch", MODULE, *OF_ENGINES)
CONTRACTS = ("decoded", "upstream")
NORMALISATION = "ImageNet mean and standard deviation, inside the graph"


@dataclass(frozen=True)
class ArtifactMeta:
    """Facts that an exporter cannot derive from the weights.

    ``category_ids[label]`` is the data set's category id of an output label.
    """

    model: ModelId  # the exporter fills in the architecture
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    resize: str = RESIZE_RULE  # resize rule of the images in training, from the model card


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, shape, numpy dtype name.

    The shape is static. In the manifest of a file that takes any number of images at once
    (``Manifest.batch``), the shape is that of one image.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Manifest:
    """Everything that is needed to run the file and to report its measurements."""

    sha256: str
    size_bytes: int
    model: ModelId
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    params: int  # number of parameters of the deployed subnet
    flops: int  # 2 per multiply-add of matrix products and convolutions, one image
    # "fp32", "fp16", "int8" (see `quantised`), or "not fp16" for an engine that should compute in
    # float16 and mostly does not; of a float32 file for PyTorch, and in memory of an ONNX file,
    # also that in which a session is to compute the file (runtime/bfloat16.py)
    precision: str = "fp32"
    # or "torch" (export/torch.py), or an engine's backend (export/tensorrt/engine.py)
    format: str = "onnx"
    opset: int | None = None
    input_range: tuple[float, float] = (0.0, 1.0)  # RGB
    normalisation: str = NORMALISATION
    contract: str = "decoded"  # or "upstream": raw boxes and logits, see export/onnx/exporter.py
    resize: str = RESIZE_RULE
    # versions of the packages that made the file
    packages: dict[str, str] = field(default_factory=dict)
    # of an engine: the SHA-256 of the ONNX file that it was built from
    onnx_sha256: str | None = None
    build: dict[str, str] = field(default_factory=dict)  # options and circumstances of a conversion
    # fp16 and int8: reason -> nodes kept in float32
    islands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # of an engine: precision -> number of layers that compute in this precision; of an INT8 file:
    # precision -> number of products and convolutions
    census: dict[str, int] = field(default_factory=dict)
    # of an adopted file: how the file was read, see export/adopt/
    adoption: dict[str, str] = field(default_factory=dict)
    # number of images of every run, or "dynamic": any number, which is chosen in each run
    batch: int | str = 1
    quantised: Quantised | None = None  # of an INT8 file
    schema: int = SCHEMA

    @property
    def input_hw(self) -> tuple[int, int]:
        """(H, W) of the image input."""
        height, width = self.inputs[0].shape[-2:]
        return height, width

    @property
    def open_batch(self) -> bool:
        """Whether the file takes any number of images at once."""
        return self.batch == OPEN_BATCH

    @property
    def images_per_run(self) -> int:
        """The number of images of every run; 1 for a file that takes any number."""
        return self.batch if isinstance(self.batch, int) else 1

    def takes(self, batch: int) -> bool:
        """Whether the file runs ``batch`` images at once."""
        return self.open_batch or batch == self.batch

    @property
    def cost(self) -> Cost:
        """Parameters and floating-point operations, as a Record holds them."""
        return Cost(self.params, float(self.flops))

    def to_json(self) -> str:
        """The manifest as JSON text."""
        fields = dataclasses.asdict(self)
        fields["model"]["arch"] = self.model.arch and self.model.arch.key
        if self.model.backbone is None:
            del fields["model"]["backbone"]
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, fields: Any, path: str | Path) -> Manifest:
        """A manifest from parsed JSON; raises :class:`InputError`, which names ``path``, if the
        content is not a manifest.
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
    """Raises ValueError where fields contradict each other or are out of range."""
    check_classes(manifest.class_names, manifest.category_ids)
    for digest in (manifest.sha256, manifest.onnx_sha256):
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{digest[:70]!r} is not a SHA-256 hash")
    _check_tensors(manifest)
    # what a program has to do before the file runs; anything else would be done wrongly
    if manifest.resize not in RULES:
        raise ValueError(f"unknown resize rule {manifest.resize[:70]!r}")
    _check_words(manifest)
    if manifest.input_range != (0.0, 1.0):
        raise ValueError(f"the input's range is {manifest.input_range}, not 0 to 1")
    if manifest.model.weights not in ("trained", "random", "published"):
        raise ValueError(
            f"the origin of the weights, {manifest.model.weights!r}, is not trained, random or "
            f"published"
        )
    if manifest.model.backbone is not None:
        choose(manifest.model.backbone, known_backbones(), "backbone")
    if not all(0 <= n < 2**63 for n in (manifest.params, manifest.flops, manifest.size_bytes)):
        raise ValueError("a number of parameters, operations or bytes is out of range")


def _check_words(manifest: Manifest) -> None:
    choose(manifest.format, FORMATS, "format")
    choose(manifest.contract, CONTRACTS, "contract")
    for what, text in (
        ("normalisation", manifest.normalisation),
        ("precision", manifest.precision),
        ("model.name", manifest.model.name),
    ):
        if not is_text(text):
            raise ValueError(f"{what} = {text[:60]!r} is not a text of printable characters")
    if manifest.opset is not None and not 0 < manifest.opset < 2**31:
        raise ValueError(f"there is no opset {str(manifest.opset)[:20]}")


def _check_tensors(manifest: Manifest) -> None:
    if not manifest.inputs or not manifest.outputs:
        raise ValueError("the model has no inputs or no outputs")
    for spec in (*manifest.inputs, *manifest.outputs):
        if not all(0 < side < 2**31 for side in spec.shape):
            raise ValueError(f"{spec.name} has the shape {spec.shape}")
    shape = manifest.inputs[0].shape
    if len(shape) != 4:
        raise ValueError(f"the input shape {shape} is not that of a batch of images")
    known = manifest.batch == OPEN_BATCH or (
        isinstance(manifest.batch, int) and not isinstance(manifest.batch, bool)
    )
    if not known or shape[0] != manifest.images_per_run:
        raise ValueError(f"the batch {manifest.batch!r} does not fit the input shape {shape}")


@dataclass(frozen=True)
class Artifact:
    """A model file on disk and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return self.manifest.sha256


def manifest_path(path: str | Path) -> Path:
    """``NAME.json`` for ``NAME.onnx``, ``NAME.EXT.json`` for any other file, so that files with the
    same stem have separate manifests.
    """
    path = Path(path)
    return (
        path.with_suffix(".json")
        if path.suffix in ("", ".onnx", ".json")
        else path.with_name(f"{path.name}.json")
    )


def has_manifest(path: str | Path) -> bool:
    """Whether the file has a manifest. A broken link counts: it is a lost manifest, not a file
    without a manifest.
    """
    return os.path.lexists(manifest_path(path))


def write_artifact(path: str | Path, content: bytes, manifest: Manifest) -> Artifact:
    """Writes file and manifest, each completely or not at all; the manifest is written last, so
    that an interrupted run leaves no inconsistent pair.
    """
    path = Path(path)
    if manifest_path(path) == path:
        raise InputError(
            "an artifact's file name cannot end in .json", path, "choose a name like model.onnx"
        )
    write_atomic(path, content)
    write_atomic(manifest_path(path), manifest.to_json())
    return Artifact(path, manifest)


def existing_artifact(path: str | Path) -> Artifact | None:
    """The artifact at ``path``, checked as by :func:`load_artifact`; None where the file or its
    manifest is not there, as after a run that was killed while it wrote them.
    """
    path = Path(path)
    if not path.is_file() or not manifest_path(path).is_file():
        return None
    return load_artifact(path)


def load_artifact(path: str | Path) -> Artifact:
    """The artifact at ``path``, after a check of the file's hash against the manifest.

    Raises :class:`InputError` if the file or the manifest is missing, or if the hash differs.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            "the artifact does not exist",
            path,
            "make an artifact with python -m rfdetr_repro.export",
        )
    manifest_file = manifest_path(path)
    if not manifest_file.is_file():
        raise InputError(
            "the artifact has no manifest",
            manifest_file,
            f"keep {manifest_file.name} next to {path.name}, or export the model again",
        )
    manifest = Manifest.from_json(read_json(manifest_file), manifest_file)
    size = path.stat().st_size
    if size != manifest.size_bytes:  # told before a file of any size is hashed
        raise InputError(
            f"the file's hash differs from the hash in its manifest: it has {size} bytes instead "
            f"of {manifest.size_bytes}",
            path,
            "export the model again",
        )
    found = sha256_file(path)
    if found != manifest.sha256:
        named = manifest.sha256[:12]
        raise InputError(
            f"the file's hash ({found[:12]}) differs from the hash in its manifest ({named})",
            path,
            "export the model again",
        )
    return Artifact(path, manifest)
