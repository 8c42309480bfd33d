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

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.session import OrtSession, Session
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol

from .accuracy import Progress
from .cells import Cells, Context, Row
from .interleaved import Measurement, Watch, measure_interleaved
from .machine import environment
from .twin import itself
from .watching import Report, Silent


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

    Accuracy and latency come from one file; a given ``session`` serves for both. Raises
    :class:`StatedFailure` if the session opened another file, and the error of a measurement that
    failed.
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
            cells[name] = Cells(row, protocols, store, context or Context(), env)
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
    cells: Mapping[str, Cells],
    protocol: Protocol,
    outcome: Outcome,
    watch: Watch | None,
    *,
    twin: bool,
) -> None:
    """Measures the latency of every row that lacks a latency, interleaved; each row is stored when
    it is finished.
    """
    wanted = [
        name
        for name, cell in cells.items()
        if name not in outcome.failures and cell.lacks(protocol)
    ]
    if not wanted:
        return
    session = _Session(cells, protocol, outcome)
    builds = {name: (name, range(protocol.builds)) for name in wanted}
    if twin:
        again = range(protocol.builds, 2 * protocol.builds)
        builds[session.add_twin(wanted[0])] = (wanted[0], again)
    _open_in_turns(cells, builds, outcome)
    calls = {}
    for name, (row, numbers) in builds.items():
        if name not in outcome.failures and row not in outcome.failures:
            with _failing(name, outcome):
                calls[name] = cells[row].calls(protocol, numbers)
    if not calls:
        return
    try:
        measure_interleaved(calls, protocol, watch=watch, done=session.done, report=outcome.report)
    finally:
        session.end()


def _open_in_turns(
    cells: Mapping[str, Cells], builds: Mapping[str, tuple[str, range]], outcome: Outcome
) -> None:
    """Opens the sessions of ``builds``: name -> (row, numbers of its builds).

    Where the memory of a session lies changes its latency, and sessions that are opened one after
    the other lie side by side and are alike. So the first builds of all rows are opened, then the
    second builds, in the opposite order, and so on: no row has the sessions of one place only.
    """
    names = list(builds)
    for turn in range(max(len(numbers) for _, numbers in builds.values())):
        for name in names if turn % 2 == 0 else reversed(names):
            row, numbers = builds[name]
            if name in outcome.failures or row in outcome.failures:
                continue
            if turn == 0 and name == row:
                outcome.report.opening(name)
            with _failing(name, outcome):
                cells[row].open(numbers[turn])


class _Session:
    """Rows that are measured in turns, and the handling of their results.

    A row that is measured twice waits for its second measurement.
    """

    def __init__(self, cells: Mapping[str, Cells], protocol: Protocol, outcome: Outcome) -> None:
        self.cells = cells
        self.protocol = protocol
        self.outcome = outcome
        self.name = f"{utc_now()} {secrets.token_hex(4)}"
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
