"""Latency of a whole space from few engines: export, measure interleaved, fit, look at the error, measure more if need be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..bench.confirm import example_input
from ..bench.machine import this_machine
from ..bench.protocol import measure_interleaved
from ..config import Arch, Protocol, SearchSpace
from ..errors import InputError
from ..export.session import OrtSession
from ..pareto import metric
from ..record import ArtifactId, Latency, Machine
from ..store import Store
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
    out of the fit exceeds ``median`` or ``p95``. ``most`` None: no more than ``engines``."""

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
        sizes, most = [min(self.engines, space)], min(self.most or self.engines, space)
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

    def __call__(self) -> Callable[[Engines], dict[Arch, Measured]]:
        detector, card, split = self.source.load()
        store, space = Store(self.folder / "nowhere.jsonl"), card.space or SearchSpace((), (), (), (), ())
        search = Search(detector, card, self.source.checkpoint_sha256, space, split, store, self.folder)
        return lambda item: measure_here(search, item)


def measure_engines(
    search: Search, archs: Sequence[Arch], protocol: Protocol = SHORT, progress: Progress = iter
) -> dict[Arch, float]:
    """Median latency in ms of each exported ``arch``, measured interleaved; stored as Records of source "engine".

    Where the search has workers, one that owns its machine alone measures, and the Records name that machine.
    """
    known = {
        record.model.arch: record
        for record in search.store.read()
        if record.source == "engine"
        and record.protocol == protocol
        and record.model.checkpoint_sha256 == search.checkpoint_sha256
    }
    item = Engines(tuple(arch for arch in archs if arch not in known), protocol)
    if item.archs:
        found = search.measure(item) if search.measure is not None else measure_here(search, item, progress)
        for arch in item.archs:
            one = found[arch]
            row = replace(search.record("engine", arch), artifact=one.artifact, protocol=protocol, machine=one.machine)
            known[arch] = search.store.append(replace(row, latency=one.latency))
    return {arch: metric("latency").cost(known[arch]) for arch in archs}


def measure_here(search: Search, item: Engines, progress: Progress = iter) -> dict[Arch, Measured]:
    """Exports and measures in this process."""
    sessions = {arch.key: OrtSession(search.export(arch), item.protocol.threads) for arch in progress(item.archs)}
    inputs = {key: example_input(session, search.split) for key, session in sessions.items()}
    runs = {key: (lambda s=session, x=inputs[key]: s.run(x)) for key, session in sessions.items()}
    hashes = {key: session.artifact_id.sha256 for key, session in sessions.items()}
    measured, machine = measure_interleaved(runs, item.protocol, hashes=hashes), this_machine()
    return {arch: Measured(sessions[arch.key].artifact_id, measured[arch.key].latency, machine) for arch in item.archs}
