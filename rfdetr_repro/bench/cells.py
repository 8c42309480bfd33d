"""The cells (artifact, split, protocol) of one row of a measurement: what the store holds of them,
and the file's sessions that measure the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rfdetr_repro.bench.gpu.load import this_gpu, work_before
from rfdetr_repro.data.census import mask_lines
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.record import AP_RULE, Accuracy, Budget, DataId, Latency, Machine, Record
from rfdetr_repro.records.samples import Series, save_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.session import OrtSession, Session
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol

from .accuracy import Progress, accuracy_of
from .interleaved import Call, Measurement
from .machine import this_machine
from .memory import peak_memory_bytes
from .parts import Wanted, measure_parts, with_parts
from .scopes import example_input, timed_call
from .suppression import suppression_ms
from .watching import Report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """The fields that all Records of a campaign share."""

    campaign: str | None = None
    command: str | None = None
    seed: int | None = None
    budget: Budget | None = None  # of trainings that are compared
    max_dets: int = 100
    machine: Machine | None = None  # None: this machine
    parts: Wanted | None = None  # parts of the latency that are measured beside it


@dataclass(frozen=True)
class Row:
    """One artifact and the function that opens build 0, 1, ...: a new session of the file, or of
    another engine built from the file.
    """

    artifact: Artifact
    open_build: Callable[[int], Session]
    splits: tuple[CocoSplit, ...] = ()  # without splits, only latency is measured
    seed: int | None = None  # of the training, if it differs from that of the other rows


class Cells:
    """All cells of one row: what is stored of them, what is missing, and the sessions that measure
    it.
    """

    def __init__(
        self,
        row: Row,
        protocols: Sequence[Protocol],
        store: Store,
        context: Context,
        env: dict[str, str],
    ) -> None:
        """Opens the row's file; ``env``: versions and settings, for the Records. Raises
        :class:`InputError` for a file that cannot be measured as asked, and
        :class:`StatedFailure` for a file that does not run.
        """
        if row.splits and row.artifact.manifest.model.weights == "random":
            raise InputError(
                "a model with random weights has no accuracy",
                row.artifact.path,
                "measure its latency without data",
            )
        self.row = row
        self.store = store
        self.context = context
        self.env = env
        self.sessions = {0: self._open(0)}  # by the number of the build
        self._evaluated = False  # whether the first session has run over a split
        self.suppression_ms: float | None = None
        self.peak_memory_bytes: int | None = None
        self.accuracies: dict[DataId, tuple[Accuracy, Accuracy | None]] = {}
        data: list[DataId | None] = [_data(split) for split in row.splits] or [None]
        taken = [each for each in protocols if row.artifact.manifest.takes(each.batch)]
        self.requests = [self._request(part, protocol) for part in data for protocol in taken]
        if not taken:
            manifest = row.artifact.manifest
            raise InputError(
                f"the file takes {manifest.images_per_run} images at once, and none of the "
                f"protocols does",
                row.artifact.path,
                f"measure with a batch of {manifest.images_per_run}",
            )
        identity = self.sessions[0].artifact_id
        self.stored = [
            record
            for record in store.read()
            if record.source == "protocol" and record.artifact == identity
        ]
        self.stored = [
            record
            for record in self.stored
            if record.accuracy is None or record.accuracy.rule == AP_RULE
        ]
        self.done = {record.id: record for record in self.stored if record.latency is not None}
        log.debug(
            f"{store.path} holds {len(self.done)} finished Records of {row.artifact.path}: those "
            f"that are asked for are not measured again"
        )

    def _open(self, build: int) -> Session:
        session = self.row.open_build(build)
        if self.row.artifact.sha256 not in (
            session.artifact_id.sha256,
            session.artifact_id.onnx_sha256,
        ):
            opened = session.artifact_id.sha256[:12]
            named = self.row.artifact.sha256[:12]
            raise StatedFailure(
                f"the session opened {opened}, the artifact is {named}: accuracy and latency must "
                f"come from one file"
            )
        try:
            found = session.run(example_input(session, None))
        except (InputError, StatedFailure):
            raise
        except Exception as error:  # a runtime raises what it likes
            raise StatedFailure(f"{self.row.artifact.path} does not run ({error})") from error
        if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes_xyxy).all()):
            raise StatedFailure(
                f"{self.row.artifact.path} gives scores or boxes that are not finite"
            )
        return session

    def find_accuracies(self, name: str, progress: Progress, report: Report) -> None:
        """Of each split with a missing cell: from a stored Record of the same file, else by a run
        over the split.
        """
        for split in self.row.splits:
            data = _data(split)
            if all(request.id in self.done for request in self.requests if request.data == data):
                continue
            for record in self.stored:
                if (
                    record.data == data
                    and record.accuracy
                    and record.accuracy.max_dets == self.context.max_dets
                ):
                    self.accuracies[data] = record.accuracy, record.mask_accuracy
            if data not in self.accuracies:
                if len(self.sessions[0].manifest.outputs) == 4:
                    for line in mask_lines([split]):
                        log.info(line)

                def told(indices: Iterable[int], split: CocoSplit = split) -> Iterable[int]:
                    return progress(report.images(name, split.split, indices))

                found = accuracy_of(
                    self.sessions[0], split, max_dets=self.context.max_dets, progress=told
                )
                self._evaluated = True
                self.accuracies[data] = found

    def lacks(self, protocol: Protocol) -> bool:
        """Whether a cell of the protocol has no latency yet."""
        return any(
            request.id not in self.done for request in self.requests if request.protocol == protocol
        )

    def open(self, build: int) -> None:
        """Opens the session of a build, unless the session is open.

        A session that has run over a split is opened anew: what it allocated there makes it about
        two percent slower than a session of the same file that was just opened.
        """
        if build == 0 and self._evaluated:
            self._evaluated = False
            del self.sessions[0]
        if build not in self.sessions:
            self.sessions[build] = self._open(build)

    def calls(self, protocol: Protocol, builds: Iterable[int]) -> list[Call]:
        """One call for each of these builds, which are open; bound and ready."""
        split = self.row.splits[0] if self.row.splits else None
        first = self.sessions[0]
        if type(first) is OrtSession and self.suppression_ms is None:
            self.suppression_ms = suppression_ms(
                self.row.artifact, example_input(first, split), protocol.threads
            )
        if type(first) is OrtSession and self.peak_memory_bytes is None:
            self.peak_memory_bytes = peak_memory_bytes(self.row.artifact, protocol.threads)
        return [call_of(self.sessions[build], protocol, split) for build in builds]

    def find_parts(self, name: str, report: Report) -> None:
        """Measures the wanted parts of the latency that a Record of one image per run lacks, and
        stores the Record again, with the latency that it has.
        """
        wanted = self.context.parts
        if wanted is None:
            return
        manifest = self.row.artifact.manifest
        if not manifest.takes(1):
            log.info(
                f"{name}: the parts of its latency are not measured, because the file takes "
                f"{manifest.images_per_run} images per run, and parts are those of one frame"
            )
        missing = {
            record.id: sizes_hw
            for record in self.records()
            if (sizes_hw := wanted.missing_from(record))
        }
        if not missing:
            return
        needed = tuple({size: None for sizes_hw in missing.values() for size in sizes_hw})
        protocols = [self.done[key].protocol for key in missing]
        rules = min((one for one in protocols if one), key=lambda one: one.min_samples)
        found = measure_parts(
            self.sessions[0],
            wanted._replace(sizes_hw=needed),
            rules,
            self.save,
            lambda rounds: report.rounds(name, rounds),
            self.row.splits[0].load_image(0) if self.row.splits else None,
        )
        for key, sizes_hw in missing.items():
            new = [one for one in found if one.size_hw in sizes_hw]
            self.done[key] = self.store.append(with_parts(self.done[key], new))

    def save(self, series: Series) -> str:
        """Stores raw samples; returns their SHA-256."""
        return save_samples(self.store.path.parent, series)

    def finish(self, protocol: Protocol, found: Measurement) -> None:
        """Stores the measurement in all cells of the protocol that lack one."""
        latency = replace(
            found.latency,
            samples_sha256=self.save(found.series),
            suppression_ms=self.suppression_ms,
            peak_memory_bytes=self.peak_memory_bytes,
        )
        self._append(protocol, latency)

    def keep_accuracies(self) -> None:
        """What an interrupted run has found is stored without latency; the finished cell replaces
        it later.
        """
        kept = {
            record.data
            for record in [*self.stored, *self.done.values()]
            if record.accuracy is not None
        }
        for data in self.accuracies:
            if data not in kept:
                request = next(request for request in self.requests if request.data == data)
                self.stored.append(self.store.append(self._with_results(request, None)))

    def records(self) -> list[Record]:
        """The Records, by split, then protocol; all must be finished."""
        return [self.done[request.id] for request in self.requests]

    def _append(self, protocol: Protocol, latency: Latency) -> None:
        for request in self.requests:
            if request.protocol == protocol and request.id not in self.done:
                self.done[request.id] = self.store.append(self._with_results(request, latency))

    def _with_results(self, request: Record, latency: Latency | None) -> Record:
        boxes, masks = self.accuracies[request.data] if request.data else (None, None)
        now = utc_now()
        return replace(
            request,
            accuracy=boxes,
            mask_accuracy=masks,
            latency=latency,
            started_at=now,
            env=self.env,
        )

    def _request(self, data: DataId | None, protocol: Protocol) -> Record:
        """The Record without its results; its id tells whether it is stored."""
        manifest = self.sessions[0].manifest
        context = self.context
        return Record(
            source="protocol",
            model=manifest.model,
            data=data,
            artifact=self.sessions[0].artifact_id,
            cost=manifest.cost,
            protocol=protocol,
            machine=context.machine or this_machine(),
            campaign=context.campaign,
            command=context.command,
            seed=context.seed if self.row.seed is None else self.row.seed,
            budget=context.budget,
            adoption=manifest.adoption or None,
            quantised=manifest.quantised,
        )


def _data(split: CocoSplit) -> DataId:
    return DataId(split.name, split.split, split.sha256, len(split))


def call_of(session: Session, protocol: Protocol, split: CocoSplit | None) -> Call:
    """What the protocol times of a session that has run once: its scope's work, and the GPU's own
    time where events tell it.
    """
    gpu_ms: Callable[[], float | None] | None = (
        None if session.gpu_ms is None else lambda: session.gpu_ms
    )
    timed = timed_call(session, protocol.scope, split, protocol.batch)
    sha256 = session.artifact_id.sha256
    before = work_before(protocol, lambda: this_gpu(session.device_index))
    return Call(timed, sha256, gpu_ms, session.cuda_graph, before)
