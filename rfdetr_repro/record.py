"""The one thing that flows: a ``Record`` says what ran, on which data, from which file, how, where, and what came out.

Absent is ``None``, never 0 or -1. Accuracy is a fraction in 0..1, latency is in milliseconds. ``Record.id`` hashes the *request*,
so a campaign resumes by skipping ids that are stored. Published numbers are Records too (``rfdetr_repro.paper``). No torch here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from .config import Arch, Protocol
from .errors import InputError

SCHEMA = 1


@dataclass(frozen=True)
class ModelId:
    family: str  # "rfdetr", "yolov8", ...
    name: str  # printed name
    task: str = "detect"  # "detect" or "segment"
    size: str | None = None  # N, S, M, ...
    variant: str | None = None  # e.g. "nas", "nas+fine-tuning"
    arch: Arch | None = None
    checkpoint_sha256: str | None = None
    weights: str = "trained"  # "trained", "random" (never with an accuracy), "published"


@dataclass(frozen=True)
class DataId:
    name: str
    split: str
    sha256: str | None = None
    num_images: int | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the images are composed by this project: their AP says nothing about COCO."""
        return self.name.startswith("embedded")


@dataclass(frozen=True)
class ArtifactId:
    sha256: str  # of the file that ran (engine or ONNX)
    onnx_sha256: str
    runtime: str  # "onnxruntime-cpu", "tensorrt", ...
    precision: str  # "fp32", "fp16"
    size_bytes: int
    options: str = ""  # build and session options that change what runs


@dataclass(frozen=True)
class Cost:
    params: int | None = None
    flops: float | None = None  # 2 per multiply-add


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics as fractions; ``None`` where the metric has no ground truth."""

    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_s: float | None = None
    ap_m: float | None = None
    ap_l: float | None = None
    max_dets: int = 100
    artifact_sha256: str | None = None  # the file the detections came from; None: from the checkpoint in PyTorch


@dataclass(frozen=True)
class Latency:
    median_ms: float
    method: str = "measured"  # "measured" or "modelled" (additive latency model) or "published"
    ci_low_ms: float | None = None
    ci_high_ms: float | None = None
    p05_ms: float | None = None
    p90_ms: float | None = None  # None below 64 samples
    p95_ms: float | None = None
    p99_ms: float | None = None  # None below 662 samples
    num_samples: int | None = None
    num_dropped: int | None = None
    stop_reason: str | None = None
    images_per_s: float | None = None
    cuda_graph: bool | None = None
    throttled: str = "unknown"  # "no", "yes: CAUSE", "unknown"
    artifact_sha256: str | None = None
    samples_sha256: str | None = None  # names the raw .npy beside the store
    heldout_error: float | None = None  # modelled only: median relative error on engines left out of the fit


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    memory_gib: float
    os: str
    gpu: str | None = None
    driver: str | None = None


@dataclass(frozen=True)
class Published:
    table: str  # "2", "v2_17", ...
    row: int  # 0-based line of the CSV
    version: str  # "v1", "v2", "v1+v2"
    section: str = ""
    latency_backend: str = ""
    note: str = ""
    citation: str = ""


@dataclass(frozen=True)
class Record:
    source: str  # "search", "protocol", "training", or "paper:table2:row5"
    model: ModelId
    data: DataId | None = None
    artifact: ArtifactId | None = None
    cost: Cost | None = None
    accuracy: Accuracy | None = None  # boxes
    mask_accuracy: Accuracy | None = None
    latency: Latency | None = None
    protocol: Protocol | None = None
    machine: Machine | None = None
    published: Published | None = None
    campaign: str | None = None
    started_at: str | None = None  # UTC, ISO 8601
    command: str | None = None
    seed: int | None = None
    env: dict[str, str] = field(default_factory=dict)  # package -> version, "git" -> commit
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        hashes = {part.artifact_sha256 for part in (self.accuracy, self.mask_accuracy, self.latency) if part is not None}
        if self.source == "protocol" and (self.artifact is None or hashes - {self.artifact.sha256}):
            raise InputError(
                "accuracy and latency do not come from the record's own artifact",
                self.model.name,
                "measure both from the same file",
            )
        if self.model.weights == "random" and (self.accuracy or self.mask_accuracy):
            raise InputError("a model with random weights cannot have an accuracy", self.model.name)
        for accuracy in (self.accuracy, self.mask_accuracy):
            for name in ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l"):
                value = getattr(accuracy, name, None)
                if value is not None and not 0.0 <= value <= 1.0:
                    raise InputError(f"{name} = {value} is not a fraction", self.model.name, "store AP as 0..1")
        if self.latency is not None and not 0 < self.latency.median_ms < math.inf:
            raise InputError(f"latency {self.latency.median_ms} ms is not a positive number", self.model.name)

    @property
    def id(self) -> str:
        """16 hex digits over the request: model, data, runtime, precision, protocol, machine (not over any result)."""
        model = {**dataclasses.asdict(self.model), "arch": self.model.arch and self.model.arch.knobs()}
        request = {
            "source": self.source,
            "model": model,
            "data": self.data and (self.data.name, self.data.split, self.data.sha256),
            "runtime": self.artifact and (self.artifact.runtime, self.artifact.precision, self.artifact.options),
            "protocol": self.protocol and dataclasses.asdict(self.protocol),
            "machine": self.machine and (self.machine.cpu, self.machine.gpu),
        }
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """One line of JSON, without absent fields."""
        return json.dumps({"id": self.id, **_prune(dataclasses.asdict(self))}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Inverse of :meth:`to_json`. Raises :class:`InputError` on anything that is not a Record of this schema."""
        try:
            fields = json.loads(line)
            stored_id = fields.pop("id", None)
            if fields.get("schema") != SCHEMA:
                raise ValueError(f"schema {fields.get('schema')!r}, expected {SCHEMA}")
            record = _build(cls, fields)
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"not a Record: {error}") from error
        if stored_id is not None and stored_id != record.id:
            raise InputError(f"Record {stored_id} does not hash to its id ({record.id})", mend="the line was altered; remove it")
        return record


def _prune(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _prune(item) for key, item in value.items() if item is not None}
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Resolved field types; resolving them anew for every stored line would dominate reading a store."""
    return typing.get_type_hints(kind)


def _build(kind: type, fields: dict[str, Any]) -> Any:
    """Rebuilds a (nested) dataclass from plain JSON values, refusing unknown fields and wrong types."""
    if not isinstance(fields, dict):
        raise TypeError(f"{kind.__name__} must be an object")
    hints = _hints(kind)
    if unknown := sorted(set(fields) - set(hints)):
        raise ValueError(f"unknown fields {unknown} of {kind.__name__}")
    return kind(**{name: _value(hints[name], value, f"{kind.__name__}.{name}") for name, value in fields.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value)
    plain = typing.get_origin(kind) or kind
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, plain) or (plain is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} = {value!r} is not {plain.__name__}")
    if plain is dict and not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"{name} = {value!r} maps to something else than text")
    return value
