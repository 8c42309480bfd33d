"""Latency of a whole space from few engines: export, measure interleaved, fit, look at the error, measure more if need be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..bench.confirm import call_of, example_input
from ..bench.protocol import measure_interleaved
from ..config import Arch, SearchSpace
from ..errors import InputError, StatedFailure
from ..export.session import Session
from ..latency_protocol import Protocol
from ..pareto import metric
from ..record import ArtifactId, Latency, Machine, Record
from ..store import Store
from .deployment import Deployment
from .evaluation import EvaluationSource
from .latency_model import LatencyModel, RelativeError, engine_order, heldout_error
from .search import Search

Progress = Callable[[Iterable], Iterable]
SHORT = Protocol(
    "sustained", buffer_ms=0.0, warmup=5, min_samples=64, max_samples=200, relative_ci=0.01, timeout_s=10.0, threads=1
)
FEWEST = 6


@dataclass(frozen=True)
class Fit:
    """How many engines are measured: ``engines`` at first, half as many again, up to ``most``, while the error on engines left
    out of the fit exceeds ``median`` or ``p95``. ``most`` None: twice ``engines``."""

    engines: int = 30
    most: int | None = None
    median: float = 0.03
    p95: float = 0.10
    protocol: Protocol = SHORT
    seed: int = 0

    def sizes(self, space: int) -> list[int]:
        """Numbers of engines after each round."""
        if self.engines < FEWEST:
            raise InputError(f"{self.engines} engines are too few", mend=f"measure at least {FEWEST}")
        most = min(2 * self.engines if self.most is None else self.most, space)
        sizes = [min(self.engines, space)]
        while sizes[-1] < most:
            sizes.append(min(most, sizes[-1] + max(2, sizes[-1] // 2)))
        return sizes

    def accepts(self, error: RelativeError) -> bool:
        return error.median <= self.median and error.p95 <= self.p95


def fit_latency(
    search: Search, fit: Fit | None = None, progress: Progress = iter, tell: Callable[[str], None] = lambda line: None
) -> tuple[LatencyModel, RelativeError, int]:
    """The additive model fitted on all measured engines, its error on engines left out in turn, and how many were measured."""
    fit = fit or Fit()
    order = engine_order(search.space, fit.seed)
    for count in fit.sizes(len(order)):
        archs = order[:count]
        ms = measure_engines(search, archs, fit.protocol, progress)
        latencies = [ms[arch] for arch in archs]
        error = heldout_error(archs, latencies, search.card.config, seed=fit.seed)
        tell(f"{count} engines ({count / len(order):.1%} of {len(order)}): {error.describe()}")
        if fit.accepts(error):
            break
    else:
        tell(f"the error exceeds its bound (median {fit.median:.0%}, 95 % {fit.p95:.0%}); no more engines were asked for")
    return LatencyModel.fit(archs, latencies, search.card.config), error, count


@dataclass(frozen=True)
class Engines:
    """A work item: configurations whose engines are measured interleaved, on one machine."""

    archs: tuple[Arch, ...]
    protocol: Protocol


@dataclass(frozen=True)
class Measured:
    artifact: ArtifactId
    latency: Latency
    machine: Machine


@dataclass(frozen=True)
class EngineSource:
    """How a worker elsewhere comes to measure: it exports into the shared ``folder`` and opens what lies there."""

    source: EvaluationSource
    folder: Path
    deployment: Deployment

    def __call__(self) -> Callable[[Engines], dict[Arch, Measured]]:
        detector, card, split = self.source.load()
        store, space = Store(self.folder / "nowhere.jsonl"), card.space or SearchSpace((), (), (), (), ())
        search = Search(detector, card, self.source.checkpoint_sha256, space, split, store, self.folder)
        search.deployment = self.deployment

        def measure(item: Engines) -> dict[Arch, Measured]:
            with self.deployment.watched() as search.watched:
                return measure_here(search, item)

        return measure


def measure_engines(
    search: Search, archs: Sequence[Arch], protocol: Protocol = SHORT, progress: Progress = iter
) -> dict[Arch, float]:
    """Median latency in ms of each exported ``arch``, measured interleaved; stored as Records of source "engine".

    Where the search has workers, one that owns its machine alone measures, and the Records name that machine. All latencies are
    of the search's deployment and of one machine: what another one measured before is measured again.
    """
    known = _known(search, protocol)
    item = Engines(tuple(arch for arch in archs if arch not in known), protocol)
    if item.archs:
        found = _measure(search, item, progress)
        if elsewhere := [arch for arch in archs if arch in known and not _same(known[arch].machine, _machine(found))]:
            found |= _measure(search, Engines(tuple(elsewhere), protocol), progress)
        for arch, one in found.items():
            row = replace(search.record("engine", arch), artifact=one.artifact, protocol=protocol, machine=one.machine)
            known[arch] = search.store.append(replace(row, latency=one.latency))
    machines = [known[arch].machine for arch in archs]
    if not all(_same(machine, machines[0]) for machine in machines):
        raise StatedFailure("the engines were measured on different machines: no latency model holds for them")
    search.measured_on = machines[0]
    return {arch: metric("latency").cost(known[arch]) for arch in archs}


def _known(search: Search, protocol: Protocol) -> dict[Arch, Record]:
    """Stored engines of this checkpoint, protocol and deployment; in this process only those of this machine."""
    known: dict[Arch, Record] = {}
    for record in search.store.read():
        engine = record.source == "engine" and record.protocol is not None and record.model.arch is not None
        if not engine or record.model.checkpoint_sha256 != search.checkpoint_sha256:
            continue
        asked = record.deployment == str(search.deployment) and record.protocol == protocol
        if asked and (search.measure is not None or _same(record.machine, search.machine)):
            known[record.model.arch] = record  # type: ignore[index]
    return known


def _measure(search: Search, item: Engines, progress: Progress) -> dict[Arch, Measured]:
    return search.measure(item) if search.measure is not None else measure_here(search, item, progress)


def _machine(found: dict[Arch, Measured]) -> Machine:
    return next(iter(found.values())).machine


def _same(one: Machine | None, other: Machine | None) -> bool:
    """Whether two machines are one to a Record's id: by processor and GPU."""
    return one is not None and other is not None and (one.cpu, one.gpu) == (other.cpu, other.gpu)


def measure_here(search: Search, item: Engines, progress: Progress = iter) -> dict[Arch, Measured]:
    """Exports and measures in this process."""
    sessions: dict[Arch, Session] = {}
    for arch in progress(item.archs):
        sessions[arch] = search.deployment.open(search.artifact(arch), item.protocol.threads)
        sessions[arch].run(example_input(sessions[arch], search.split))
    calls = {arch.key: [call_of(session, item.protocol, search.split)] for arch, session in sessions.items()}
    measured = measure_interleaved(calls, item.protocol, watch=search.watched and search.watched.watch)
    return {arch: Measured(one.artifact_id, measured[arch.key].latency, search.machine) for arch, one in sessions.items()}
