"""The currency of the package: a ``Record`` states what ran, on which data, from which file, how
and where, and the results, in the parts of :mod:`.parts`.

Absent is ``None``, never 0 or -1. Accuracy is a fraction in 0..1, latency is in milliseconds.
``Record.id`` hashes the *request*, so a campaign resumes by skipping ids that are stored. A stored
line also holds digests of the results, which every reader checks
(``rfdetr_repro.records.digests``). Published numbers are Records too (``paper/published.py``). No
torch here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbones import known_backbones
from rfdetr_repro.spec.codec import decode, without_absent
from rfdetr_repro.spec.errors import InputError, shortened
from rfdetr_repro.spec.files import parse_json
from rfdetr_repro.spec.json_text import sorted_encoder
from rfdetr_repro.spec.metrics import COCO_METRICS
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.ranges import choose

from .digests import altered, canonical, digests_of
from .parts import (
    Accuracy,
    ArtifactId,
    Budget,
    Build,
    Cost,
    DataId,
    FrameTimes,
    GpuState,
    Itself,
    Latency,
    Machine,
    ModelId,
    Paced,
    PartTime,
    Published,
    Quantised,
    Resampled,
    TrainFacts,
)

__all__ = [
    "AP_RULE",
    "FINE_TUNING",
    "FIXED",
    "MEAN",
    "NEVER_TRAINED",
    "RF100",
    "RIVALS",
    "SCHEMA",
    "TUNED",
    "Accuracy",
    "ArtifactId",
    "Budget",
    "Build",
    "Cost",
    "DataId",
    "FrameTimes",
    "GpuState",
    "Itself",
    "Latency",
    "Machine",
    "MeasuredRecord",
    "ModelId",
    "Paced",
    "PartTime",
    "Published",
    "Quantised",
    "Record",
    "Resampled",
    "ScoredRecord",
    "SearchedRecord",
    "TimedRecord",
    "TrainFacts",
]

SCHEMA = 1
# source: an average over data sets; variant: a size no training step drew
MEAN = "mean"
NEVER_TRAINED = "patch never trained"
# What an accuracy measured here counts. Before this rule was stated, an artifact passed on its best
# 100 detections per image, and the search and PyTorch did not cut boxes.
AP_RULE = "every detection, boxes cut at the border"
# campaign: a found architecture before and after fine-tuning; variant: after fine-tuning
FINE_TUNING = "fine-tuning"
TUNED = "nas+fine-tuning"
# campaign: RF-DETR and rivals, trained on the same data by the same budget with several seeds
RIVALS = "rivals"
# campaign: each of several data sets with its own search; variant: one architecture for all
RF100 = "rf100"
FIXED = "fixed architecture"


_request_text = sorted_encoder(", ", ": ", allow_nan=True)


@functools.cache
def _numbers_of(kind: type) -> tuple[str, ...]:
    """Names of the fields that hold one number."""
    types = ("int", "float", "int | None", "float | None")
    return tuple(field.name for field in dataclasses.fields(kind) if field.type in types)


def _check_numbers(part: object, where: str) -> None:
    """Raises :class:`InputError` where a count, a time, a share or an AP is negative or not a
    finite number.
    """
    kind: Any = type(part)
    for name in _numbers_of(kind) if part is not None else ():
        value = getattr(part, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{name} = {value!r} is not a number", where)
        most = 2**63 if isinstance(value, int) else math.inf
        if not 0 <= value < most and not name.startswith("ap"):  # an AP has its own message
            what = "latency" if name == "median_ms" else name
            raise InputError(
                f"{what} {shortened(str(value), 40)} is not a finite positive number or zero",
                where,
                "leave out what is not known",
            )


def _check_names(record: Record) -> None:
    """Raises :class:`InputError` for a blank name of what the Record is about."""
    names = {"source": record.source, "model.name": record.model.name}
    if record.data is not None:
        names |= {"data.name": record.data.name, "data.split": record.data.split}
    if record.artifact is not None:
        names |= {"artifact.runtime": record.artifact.runtime}
    for what, name in names.items():
        if not name.strip():
            raise InputError(f"{what} is empty", "the Record")


def _check_model(model: ModelId) -> None:
    choose(model.task, ("detect", "segment"), "task", model.name)
    choose(model.weights, ("trained", "random", "published"), "kind of weights", model.name)
    if model.backbone is not None:
        choose(model.backbone, known_backbones(), "backbone", model.name)


def _check_counts(record: Record) -> None:
    for part in (
        record.data,
        record.budget,
        record.artifact,
        record.cost,
        record.accuracy,
        record.mask_accuracy,
        record.latency,
        record.machine,
    ):
        _check_numbers(part, record.model.name)
    if record.seed is not None and not 0 <= record.seed < 2**63:
        raise InputError(f"seed {record.seed} is not from 0 to 2^63 - 1", record.model.name)


def _check_words(latency: Latency, where: str) -> None:
    choose(latency.method, ("measured", "modelled", "published"), "origin of a latency", where)
    if not str(latency.throttled).startswith(("no", "yes", "unknown")):
        raise InputError(
            f"throttled = {latency.throttled!r} does not begin with no, yes or unknown", where
        )


def _check_fractions(accuracy: Accuracy, where: str) -> None:
    for name in (*COCO_METRICS, "ap_low", "ap_high"):
        value = getattr(accuracy, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise InputError(f"{name} = {value} is not a fraction", where, "store AP as 0..1")


def _check_times(latency: Latency, where: str) -> None:
    if not 0 < latency.median_ms < math.inf:
        raise InputError(f"latency {latency.median_ms} ms is not a positive number", where)
    low = latency.ci_low_ms
    high = latency.ci_high_ms
    if low is not None and high is not None and not low <= high:
        raise InputError(f"the latency's interval [{low}, {high}] ms ends before it begins", where)


def _check_parts(latency: Latency, where: str) -> None:
    """Raises :class:`InputError` for the parts of frames without pixels, of a size that occurs
    twice, and for times that are not positive or lie outside their interval.
    """
    frames = latency.parts or ()
    sizes = [frame.size_hw for frame in frames]
    if any(height < 1 or width < 1 for height, width in sizes) or len(set(sizes)) < len(sizes):
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise InputError(f"parts of the latency of frames {shown} px", where, "measure again")
    for frame in frames:
        _check_numbers(frame, where)
        for part in (frame.preprocessing, frame.network, frame.postprocessing, frame.decoding):
            if part is not None:
                _check_part(part, where)


def _check_part(part: PartTime, where: str) -> None:
    _check_numbers(part, where)
    low = part.median_ms if part.low_ms is None else part.low_ms
    high = part.median_ms if part.high_ms is None else part.high_ms
    slack = 1e-9 * part.median_ms
    if not 0 < part.median_ms or not low - slack <= part.median_ms <= high + slack:
        message = f"a part of the latency takes {part.median_ms:g} ms, of [{low:g}, {high:g}]"
        raise InputError(message, where, "measure again")


def _check_interval(accuracy: Accuracy, where: str) -> None:
    ap = accuracy.ap
    low = accuracy.ap_low
    high = accuracy.ap_high
    if ap is None or low is None or high is None:
        return
    slack = 1e-9 * abs(ap)
    if not low - slack <= ap <= high + slack:
        raise InputError(f"the AP {ap:g} lies outside its own interval [{low:g}, {high:g}]", where)


@dataclass(frozen=True)
class Record:
    """What ran, on which data, from which file, how and where, and the results.

    Raises :class:`InputError` for contradictions, such as an accuracy of random weights, results of
    another file than ``artifact``, or numbers out of range.
    """

    source: str  # "search", "protocol", "training", MEAN or "paper:table2:row5"
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
    # what a modelled latency is for: "onnxruntime fp32", "tensorrt fp16 CUDA graph", ...
    deployment: str | None = None
    env: dict[str, str] = field(default_factory=dict)  # package -> version, "git" -> commit
    parts: tuple[str, ...] | None = None  # ids of the Records that this one averages
    # of another project's file: form, boxes, resize rule, normalisation and classes as interpreted
    adoption: dict[str, str] | None = None
    quantised: Quantised | None = None  # of an INT8 file: what became INT8
    # of a study's training: digest of recipe, train split and initial weights
    training_sha256: str | None = None
    budget: Budget | None = None  # of the training, where models or data sets are compared
    # how far the results of what was timed are from those of another implementation, in words
    agreement: str | None = None
    schema: int = SCHEMA
    # read from a line without digests; never stored itself
    unverified: bool = field(default=False, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        hashes = {
            part.artifact_sha256
            for part in (self.accuracy, self.mask_accuracy, self.latency)
            if part is not None
        }
        if self.source == "protocol" and (self.artifact is None or hashes - {self.artifact.sha256}):
            raise InputError(
                "accuracy and latency do not come from the record's own artifact",
                self.model.name,
                "measure both from the same file",
            )
        if self.model.weights == "random" and (self.accuracy or self.mask_accuracy):
            raise InputError("a model with random weights cannot have an accuracy", self.model.name)
        _check_names(self)
        _check_model(self.model)
        if self.latency is not None:
            _check_words(self.latency, self.model.name)
        _check_counts(self)
        for accuracy in (self.accuracy, self.mask_accuracy):
            if accuracy is not None:
                _check_fractions(accuracy, self.model.name)
        if self.latency is not None:
            _check_times(self.latency, self.model.name)
            _check_parts(self.latency, self.model.name)
        for accuracy in (self.accuracy, self.mask_accuracy):
            if accuracy is not None:
                _check_interval(accuracy, self.model.name)

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits over the request: model, data, runtime, precision, protocol and machine,
        without any result.
        """
        model = {**vars(self.model), "arch": self.model.arch and self.model.arch.knobs()}
        if self.model.backbone is None:  # as before Records stated backbones
            del model["backbone"]
        if self.model.trained_in is None:  # as before Records stated it
            del model["trained_in"]
        request = {
            "source": self.source,
            "model": model,
            "data": self.data and (self.data.name, self.data.split, self.data.sha256),
            "runtime": self.artifact
            and (self.artifact.runtime, self.artifact.precision, self.artifact.options),
            "protocol": self.protocol and self.protocol.settings(),
            "machine": self.machine and (self.machine.cpu, self.machine.gpu),
        }
        # absent from the hash of Records that count nothing
        if self.cost is not None and self.cost.counter is not None:
            request["counted"] = (self.cost.counter, self.cost.form)
        if self.deployment is not None:
            request["deployment"] = self.deployment
        return hashlib.sha256(_request_text(request).encode()).hexdigest()[:16]

    def as_accuracy(self, masks: bool = False) -> ScoredRecord:
        """The view with an AP, of boxes or of masks. Raises :class:`InputError` for a Record
        without that AP.
        """
        return _required(ScoredRecord.of(self, masks), self, "AP of masks" if masks else "AP")

    def as_latency(self) -> TimedRecord:
        """The view with a latency. Raises :class:`InputError` for a Record without a latency."""
        return _required(TimedRecord.of(self), self, "latency")

    def as_measured(self) -> MeasuredRecord:
        """The view with file, protocol and latency. Raises :class:`InputError` for a Record without
        one of these parts.
        """
        return _required(MeasuredRecord.of(self), self, "latency of a file under a protocol")

    def as_searched(self) -> SearchedRecord:
        """The view with an architecture. Raises :class:`InputError` for a Record without an
        architecture.
        """
        return _required(SearchedRecord.of(self), self, "architecture")

    def to_json(self) -> str:
        """One line of JSON, without absent fields, with digests of its contents (without digests
        where the Record is ``unverified``).
        """
        fields = without_absent(dataclasses.asdict(self))
        sealed = {} if fields.pop("unverified") else {"digest": digests_of(fields, self.id)}
        return json.dumps({"id": self.id, **sealed, **fields}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Record:
        """Inverse of :meth:`to_json`. Raises :class:`InputError` for anything that is not a Record
        of this schema, or was altered.

        A line without digests, as older versions wrote it, gives a Record that is ``unverified``.
        """
        try:
            fields = parse_json(line)
            stored_id = fields.pop("id", None)
            digest = fields.pop("digest", None)
            if fields.get("schema") != SCHEMA:
                raise ValueError(f"schema {fields.get('schema')!r}, expected {SCHEMA}")
            if "unverified" in fields:
                raise ValueError("unknown fields ['unverified'] of Record")
            texts = canonical(fields)
            shared = {
                name: _shared(name, texts[name])
                for name in _SHARED
                if isinstance(fields.get(name), dict)
            }
            record = decode(cls, {**fields, **shared, "unverified": digest is None})
            wrong = "" if digest is None else altered(texts, record.id, digest)
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"not a Record: {error}") from error
        if stored_id is not None and stored_id != record.id:
            raise InputError(
                f"Record {stored_id} does not hash to its id ({record.id})",
                hint="the line was altered; remove it",
            )
        if wrong:
            message = f"{wrong} of Record {record.id} was altered: the digest differs"
            raise InputError(message, hint="remove the line, measure again")
        return record


# Parts that many Records of a store have in common. None of them holds a list or a dictionary, so
# Records may share them.
_SHARED: dict[str, type] = {
    "data": DataId,
    "artifact": ArtifactId,
    "cost": Cost,
    "protocol": Protocol,
    "machine": Machine,
}


@functools.lru_cache(maxsize=4096)
def _shared(name: str, text: str) -> Any:
    """The part ``name`` with this canonical text, checked and constructed once."""
    return decode(_SHARED[name], json.loads(text), f"Record.{name}")


# Views: a Record together with the parts that its reader needs, none of which is None. ``of``
# returns None for a Record that lacks a part; the methods of Record raise.


@dataclass(frozen=True)
class ScoredRecord:
    """A Record with an AP."""

    record: Record
    accuracy: Accuracy
    ap: float  # fraction in 0..1

    @classmethod
    def of(cls, record: Record, masks: bool = False) -> ScoredRecord | None:
        """The view of boxes or of masks; None for a Record without that AP."""
        accuracy = record.mask_accuracy if masks else record.accuracy
        if accuracy is None or accuracy.ap is None:
            return None
        return cls(record, accuracy, accuracy.ap)


@dataclass(frozen=True)
class TimedRecord:
    """A Record with a latency: measured, modelled or published."""

    record: Record
    latency: Latency

    @classmethod
    def of(cls, record: Record) -> TimedRecord | None:
        """The view; None for a Record without a latency."""
        return None if record.latency is None else cls(record, record.latency)

    @property
    def ms(self) -> float:
        """The median in milliseconds."""
        return self.latency.median_ms


@dataclass(frozen=True)
class MeasuredRecord:
    """A Record with a latency, the file that ran and the protocol."""

    record: Record
    artifact: ArtifactId
    protocol: Protocol
    latency: Latency

    @classmethod
    def of(cls, record: Record) -> MeasuredRecord | None:
        """The view; None for a Record without a file, a protocol or a latency."""
        if record.artifact is None or record.protocol is None or record.latency is None:
            return None
        return cls(record, record.artifact, record.protocol, record.latency)

    @property
    def graph(self) -> bool:
        """Whether a CUDA graph was replayed."""
        return bool(self.latency.cuda_graph)


@dataclass(frozen=True)
class SearchedRecord:
    """A Record of one architecture of a search space."""

    record: Record
    arch: Arch

    @classmethod
    def of(cls, record: Record) -> SearchedRecord | None:
        """The view; None for a Record without an architecture."""
        return None if record.model.arch is None else cls(record, record.model.arch)


View = TypeVar("View")


def _required(view: View | None, record: Record, what: str) -> View:
    if view is None:
        raise InputError(f"Record {record.id} of {record.model.name} has no {what}")
    return view
