"""Measures artifacts by the protocol: accuracy on each split, then latency of all artifacts,
interleaved, with a Record for every cell.

A cell is (artifact, split, protocol). A cell that the store already holds for this file, data,
protocol and machine is not measured again; a cell is stored as soon as it is finished. Raw latency
samples are stored next to the store, as ``samples/SHA256.npz``.

A row may be measured twice (A/A): by separate sessions, interleaved as if the second measurement
were another model. The difference of the two is the error of the measurement itself and is stored
in the row's Record.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import numpy as np

from rfdetr_repro.bench.gpu.load import this_gpu, work_before
from rfdetr_repro.data.census import mask_lines
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.record import AP_RULE, Accuracy, DataId, Latency, Machine, Record
from rfdetr_repro.records.samples import Series, save_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.session import OrtSession, Session
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol

from .accuracy import Progress, accuracy_of
from .interleaved import Call, Measurement, Watch, measure_interleaved
from .machine import environment, this_machine
from .memory import peak_memory_bytes
from .parts import Wanted, measure_parts, with_parts
from .scopes import example_input, timed_call
from .suppression import suppression_ms
from .twin import itself
from .watching import Report, Silent

log = logging.getLogger(__name__)

__all__ = ["Context", "Outcome", "Row", "call_of", "confirm", "confirm_all", "example_input"]


@dataclass(frozen=True)
class Context:
    """The fields that all Records of a campaign share."""

    campaign: str | None = None
    command: str | None = None
    seed: int | None = None
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


@dataclass
class Outcome:
    """Records by row, ordered by split, then protocol; and the errors of the rows that failed."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    report: Report = field(default_factory=Silent)

    def fail(self, name: str, error: Exception) -> None:
        """Keeps the first error of a row and reports it."""
        if name not in self.failures:
            self.failures[name] = stated(error)
            self.report.failed(name, str(self.failures[name]))


def confirm(
    artifact: Artifact,
    splits: Sequence[CocoSplit],
    protocols: Sequence[Protocol],
    store: Store,
    *,
    context: Context | None = None,
    session: Session | None = None,
    progress: Progress = iter,
) -> list[Record]:
    """Records of one artifact for every (split, protocol), ordered by split; without splits,
    latency only.

    Accuracy and latency come from one session. Raises :class:`StatedFailure` if the session opened
    another file, and the error of a measurement that failed.
    """

    def open_build(build: int) -> Session:
        return (
            session
            if session is not None and build == 0
            else OrtSession(artifact, protocols[0].threads)
        )

    rows = {artifact.manifest.model.name: Row(artifact, open_build, tuple(splits))}
    outcome = confirm_all(rows, protocols, store, context=context, progress=progress)
    for failure in outcome.failures.values():
        raise failure
    return outcome.records[artifact.manifest.model.name]


def confirm_all(
    rows: Mapping[str, Row],
    protocols: Sequence[Protocol],
    store: Store,
    *,
    context: Context | None = None,
    watch: Watch | None = None,
    twin: str = "never",
    progress: Progress = iter,
    report: Report | None = None,
) -> Outcome:
    """Measures all rows by all protocols; a row that fails does not stop the others.

    ``twin``: whether the first row of a protocol is measured a second time (A/A): "never",
    "always", or "once" per store and campaign. The paced mode is never measured twice. A row is
    measured by the protocols whose batch its file takes. ``report`` is told what happens; with a
    report, accuracies are also stored as soon as they are known. Raises
    :class:`InputError` for protocols with different numbers of threads, and OSError for a store
    that cannot be written.
    """
    if not protocols or len({protocol.threads for protocol in protocols}) > 1:
        raise InputError(
            "all protocols of one measurement must use the same number of threads", ", ".join(rows)
        )
    told = report is not None
    report = report or Silent()
    outcome = Outcome(report=report)
    cells = {}
    env = environment()
    for name, row in rows.items():
        report.opening(name)
        with _failing(name, outcome):
            cells[name] = _Cells(row, protocols, store, context or Context(), env)
    try:
        for name, cell in cells.items():
            with _failing(name, outcome):
                cell.find_accuracies(name, progress, report)
                if told:  # the latencies of all rows come next, and may take long
                    cell.keep_accuracies()
        for protocol in protocols:
            again = twin == "always" or (twin == "once" and not _has_twin(store, protocol, context))
            _measure(cells, protocol, outcome, watch, twin=again and protocol.mode != "paced")
        for name, cell in cells.items():
            if name not in outcome.failures:
                with _failing(name, outcome):
                    cell.find_parts(name, report)
    except BaseException:
        for cell in cells.values():
            cell.keep_accuracies()
        raise
    outcome.records = {
        name: cell.records() for name, cell in cells.items() if name not in outcome.failures
    }
    return outcome


class _failing:
    """Records the error of a row and lets the other rows go on.

    An OSError, from a store that cannot be written, ends the measurement.
    """

    def __init__(self, name: str, outcome: Outcome) -> None:
        self.name = name
        self.outcome = outcome

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception) or isinstance(error, OSError):
            return False
        self.outcome.fail(self.name, error)
        return True


def stated(error: Exception) -> Exception:
    """The error as one line for the user; the line names the type of an error that a runtime
    raised.
    """
    if isinstance(error, (InputError, StatedFailure)):
        return error
    failure = StatedFailure(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _has_twin(store: Store, protocol: Protocol, context: Context | None) -> bool:
    campaign = context and context.campaign
    same = (
        record
        for record in store.read()
        if record.protocol == protocol and record.campaign == campaign
    )
    return any(record.latency is not None and record.latency.itself is not None for record in same)


def _measure(
    cells: Mapping[str, _Cells],
    protocol: Protocol,
    outcome: Outcome,
    watch: Watch | None,
    *,
    twin: bool,
) -> None:
    """Measures the latency of every row that lacks a latency, interleaved; each row is stored when
    it is finished.
    """
    calls = {}
    for name, cell in cells.items():
        if name not in outcome.failures and cell.lacks(protocol):
            outcome.report.opening(name)
            with _failing(name, outcome):
                calls[name] = cell.calls(protocol)
    if not calls:
        return
    session = _Session(cells, protocol, outcome)
    if twin:
        first = next(iter(calls))
        with _failing(f"{first}, second time", outcome):
            calls[session.add_twin(first)] = cells[first].calls(protocol, again=True)
    try:
        measure_interleaved(calls, protocol, watch=watch, done=session.done, report=outcome.report)
    finally:
        session.end()


class _Session:
    """Rows that are measured in turns, and the handling of their results.

    A row that is measured twice waits for its second measurement.
    """

    def __init__(self, cells: Mapping[str, _Cells], protocol: Protocol, outcome: Outcome) -> None:
        self.cells = cells
        self.protocol = protocol
        self.outcome = outcome
        self.name = (
            f"{datetime.now(timezone.utc).isoformat(timespec='seconds')} {secrets.token_hex(4)}"
        )
        self.row = self.twin = ""
        self.found: dict[str, Measurement] = {}

    def add_twin(self, row: str) -> str:
        self.row = row
        self.twin = f"{row}, second time"
        return self.twin

    def done(self, name: str, found: Measurement | Exception) -> None:
        if isinstance(found, Exception):
            self.outcome.fail(name, found)
            if name == self.twin:
                self.end()
        elif name in (self.row, self.twin):
            self.found[name] = found
            if {self.row, self.twin} == self.found.keys() or self.twin in self.outcome.failures:
                self.end()
        else:
            self._finish(name, found)

    def end(self) -> None:
        """Stores the row that was waiting, with its second time if that is there."""
        again = self.found.pop(self.twin, None)
        row = self.found.pop(self.row, None)
        if row is not None:
            self._finish(self.row, row, again)

    def _finish(self, name: str, found: Measurement, again: Measurement | None = None) -> None:
        cell = self.cells[name]
        latency = replace(found.latency, session=self.name)
        if again is not None:
            latency = replace(
                latency, itself=itself(found.series, again.series, cell.save(again.series))
            )
        cell.finish(self.protocol, replace(found, latency=latency))
        self.outcome.report.finished(name, self.protocol, latency)


class _Cells:
    """All cells of one row."""

    def __init__(
        self,
        row: Row,
        protocols: Sequence[Protocol],
        store: Store,
        context: Context,
        env: dict[str, str],
    ) -> None:
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
        self.sessions = [self._open(0)]
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
                self.accuracies[data] = found

    def lacks(self, protocol: Protocol) -> bool:
        return any(
            request.id not in self.done for request in self.requests if request.protocol == protocol
        )

    def calls(self, protocol: Protocol, *, again: bool = False) -> list[Call]:
        """One call per build, bound and ready; ``again``: of builds beyond those of the first
        time.
        """
        wanted = range(protocol.builds, 2 * protocol.builds) if again else range(protocol.builds)
        while len(self.sessions) < wanted.stop:
            self.sessions.append(self._open(len(self.sessions)))
        split = self.row.splits[0] if self.row.splits else None
        first = self.sessions[0]
        if type(first) is OrtSession and self.suppression_ms is None:
            self.suppression_ms = suppression_ms(
                self.row.artifact, example_input(first, split), protocol.threads
            )
        if type(first) is OrtSession and self.peak_memory_bytes is None:
            self.peak_memory_bytes = peak_memory_bytes(self.row.artifact, protocol.threads)
        return [call_of(self.sessions[build], protocol, split) for build in wanted]

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
        return save_samples(self.store.path.parent, series)

    def finish(self, protocol: Protocol, found: Measurement) -> None:
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
        return [self.done[request.id] for request in self.requests]

    def _append(self, protocol: Protocol, latency: Latency) -> None:
        for request in self.requests:
            if request.protocol == protocol and request.id not in self.done:
                self.done[request.id] = self.store.append(self._with_results(request, latency))

    def _with_results(self, request: Record, latency: Latency | None) -> Record:
        boxes, masks = self.accuracies[request.data] if request.data else (None, None)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
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
