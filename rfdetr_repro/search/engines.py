"""Latency of a whole space from a few engines: export, measure in rounds, fit, check the error,
measure more if necessary.

One protocol, the search's ``decision``, is used throughout: engines are measured in its mode, the
model predicts latencies of that mode, candidates are chosen by them, and the predictions are judged
by, and fitted again to, the confirmed files' latencies of that mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from rfdetr_repro.bench.cells import call_of
from rfdetr_repro.bench.scopes import example_input
from rfdetr_repro.records.model_check import MEDIAN_BOUND, P95_BOUND
from rfdetr_repro.records.pareto import metric
from rfdetr_repro.records.record import ArtifactId, Latency, Machine, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.ranges import check_ranges

from .deployment import Deployment
from .evaluation import EvaluationSource
from .latency_model import LatencyModel, RelativeError, engine_order, heldout_error
from .rounds import measure_rounds, short_form
from .search import Search

Progress = Callable[[Iterable[Any]], Iterable[Any]]
FEWEST = 6
# stored engines that are measured again with new engines, so that all belong to one state of the
# machine
REFERENCES = 3


@dataclass(frozen=True)
class Fit:
    """The number of engines to measure.

    ``engines`` at first, then half as many again, up to ``most`` (None: twice ``engines``), while
    the relative error on engines left out of the fit exceeds ``median`` or ``p95``.
    """

    engines: int = 30
    most: int | None = None
    median: float = MEDIAN_BOUND
    p95: float = P95_BOUND
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {"engines": (1, 10**6)},
            {"median": (0, 100), "p95": (0, 100)},
            "the fit of the latency model",
        )
        if self.most is not None:
            check_ranges(self, {"most": (0, 10**6)}, {}, "the fit of the latency model")

    def within(self, tolerance: float) -> Fit:
        """These limits for targets: the error may be as large as ``tolerance`` and no larger."""
        return replace(self, median=tolerance * MEDIAN_BOUND / P95_BOUND, p95=tolerance)

    def sizes(self, space: int) -> list[int]:
        """The number of engines after each round."""
        if self.engines < FEWEST:
            raise InputError(
                f"{self.engines} engines are too few", hint=f"measure at least {FEWEST}"
            )
        most = min(2 * self.engines if self.most is None else self.most, space)
        sizes = [min(self.engines, space)]
        while sizes[-1] < most:
            sizes.append(min(most, sizes[-1] + max(2, sizes[-1] // 2)))
        return sizes

    def accepts(self, error: RelativeError) -> bool:
        """Whether the error is within the bounds."""
        return error.median <= self.median and error.p95 <= self.p95

    @property
    def bound(self) -> str:
        """The bounds in words."""
        return f"median {self.median:.0%}, 95 % {self.p95:.0%}"

    def check(self, error: RelativeError) -> None:
        """Raises :class:`StatedFailure` if the model is too inaccurate to choose configurations
        by.
        """
        if not self.accepts(error):
            message = (
                f"the latency model is too inaccurate for these targets: {error.describe()}, "
                f"allowed are {self.bound}"
            )
            raise StatedFailure(
                f"{message}; stop other programs, raise --engines and --most-engines, or allow a "
                f"larger tolerance"
            )


def fit_latency(
    search: Search,
    fit: Fit | None = None,
    progress: Progress = iter,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[LatencyModel, RelativeError, int]:
    """The additive model fitted to all measured engines, its cross-validation error, and the number
    of engines measured.
    """
    fit, protocol = fit or Fit(), short_form(search.decision)
    order = engine_order(search.space, fit.seed)
    for count in fit.sizes(len(order)):
        archs = order[:count]
        ms = measure_engines(search, archs, protocol, progress)
        latencies = [ms[arch] for arch in archs]
        error = heldout_error(archs, latencies, search.card.config, seed=fit.seed)
        tell(f"{count} engines ({count / len(order):.1%} of {len(order)}): {error.describe()}")
        if fit.accepts(error):
            break
    else:
        tell(f"the error exceeds its bound ({fit.bound}), and the request allows no more engines")
    return LatencyModel.fit(archs, latencies, search.card.config), error, count


def forecasts(
    search: Search, model: LatencyModel, heldout: RelativeError, archs: Sequence[Arch]
) -> dict[Arch, Latency]:
    """Predictions for ``archs`` before they are confirmed; for an architecture whose engine was
    measured, by a model that was not fitted to that engine.
    """
    known = _known(search, short_form(search.decision))
    engines = {arch: metric("latency").cost(record) for arch, record in known.items()}
    predicted = {}
    for arch in archs:
        others = {one: ms for one, ms in engines.items() if one != arch}
        own = model
        if arch in engines and len(others) >= FEWEST:
            own = LatencyModel.fit(list(others), list(others.values()), search.card.config)
        predicted[arch] = own.latency(arch, heldout)
    return predicted


def refit_latency(
    search: Search,
    fit: Fit,
    confirmed: Sequence[Record],
    model: LatencyModel,
    heldout: RelativeError,
) -> tuple[LatencyModel, RelativeError, RelativeError]:
    """(model that is fitted to the confirmed files too, its cross-validation error, error of
    ``model`` on these files).

    ``confirmed``: Records of the search's decision protocol with their predictions
    (:meth:`Search.confirm`). Engines come from the store, where :func:`fit_latency` has put them;
    the median ratio of confirmed latency to prediction scales them to the state of the machine in
    which the files were measured. With fewer than FEWEST latencies the model is not fitted again.
    """
    judged = {
        record.model.arch: record.latency
        for record in confirmed
        if record.model.arch and record.latency and record.latency.predicted_ms
    }
    if not judged:
        raise InputError(
            "no confirmed file has a predicted latency",
            hint="confirm candidates of this search first",
        )
    pairs = [(one.predicted_ms, one.median_ms) for one in judged.values() if one.predicted_ms]
    seen = RelativeError.of([predicted for predicted, _ in pairs], [found for _, found in pairs])
    known = _known(search, short_form(search.decision))
    ratios = [found / predicted for predicted, found in pairs]
    state = median(ratios) if len(ratios) >= REFERENCES else 1.0
    latencies = {arch: state * metric("latency").cost(record) for arch, record in known.items()}
    latencies |= {arch: latency.median_ms for arch, latency in judged.items()}
    if len(latencies) < FEWEST:
        return model, heldout, seen
    archs = list(latencies)
    ms = list(latencies.values())
    after = LatencyModel.fit(archs, ms, search.card.config)
    return after, heldout_error(archs, ms, search.card.config, seed=fit.seed), seen


@dataclass(frozen=True)
class Engines:
    """A work item: configurations whose engines are measured interleaved on one machine."""

    archs: tuple[Arch, ...]
    protocol: Protocol


@dataclass(frozen=True)
class Measured:
    """A measured engine: artifact, latency and machine."""

    artifact: ArtifactId
    latency: Latency
    machine: Machine


Measurements = Mapping[Arch, Measured]


@dataclass(frozen=True)
class EngineSource:
    """How a remote worker measures: it exports into the shared ``folder`` and opens the files
    there.
    """

    source: EvaluationSource
    folder: Path
    deployment: Deployment
    force: bool = False  # measure even if other processes use the GPU

    def __call__(self) -> Callable[[Engines], dict[Arch, Measured]]:
        """Loads the search in a worker; returns the function that measures an item."""
        detector, card, split = self.source.load()
        store = Store(self.folder / "nowhere.jsonl")
        space = card.space or SearchSpace((), (), (), (), ())
        search = Search(
            detector, card, self.source.checkpoint_sha256, space, split, store, self.folder
        )
        search.deployment = self.deployment

        def measure(item: Engines) -> dict[Arch, Measured]:
            with self.deployment.watched(force=self.force) as search.watched:
                return measure_here(search, item)

        return measure


def measure_engines(
    search: Search, archs: Sequence[Arch], protocol: Protocol, progress: Progress = iter
) -> dict[Arch, float]:
    """Measures the latency in ms of each ``arch`` in rounds (:mod:`.rounds`), and stores it as
    Records of the source "engine".

    If the search has workers, a worker with exclusive use of its machine measures, and the Records
    name that machine. All latencies belong to the search's deployment, to one machine and to one
    state of it: REFERENCES stored engines are measured again with new engines, whose latencies are
    scaled by them. Latencies from another machine are measured again.
    """
    known = _known(search, protocol)
    if new := [arch for arch in archs if arch not in known]:
        again = [arch for arch in archs if arch in known][:REFERENCES]
        found = _measure(search, Engines((*new, *again), protocol), progress)
        if again and not all(
            _same(known[arch].machine, _machine(found)) for arch in archs if arch in known
        ):
            left = [arch for arch in archs if arch not in found]
            if left:
                references = list(found)[:REFERENCES]
                later = _measure(search, Engines((*left, *references), protocol), progress)
                found |= {arch: _scaled(later[arch], found, later, references) for arch in left}
        elif again:
            stored = {arch: _measured(known[arch]) for arch in again}
            found = {arch: _scaled(found[arch], stored, found, again) for arch in new}
        for arch, one in found.items():
            row = replace(
                search.record("engine", arch),
                artifact=one.artifact,
                protocol=protocol,
                machine=one.machine,
            )
            known[arch] = search.store.append(replace(row, latency=one.latency))
    machines = [known[arch].machine for arch in archs]
    if not all(_same(machine, machines[0]) for machine in machines):
        raise StatedFailure(
            "the engines were measured on different machines, for which there is no common latency "
            "model"
        )
    search.measured_on = machines[0]
    return {arch: metric("latency").cost(known[arch]) for arch in archs}


def _measured(record: Record) -> Measured:
    measured = record.as_measured()
    if record.machine is None:
        raise InputError(f"Record {record.id} of {record.model.name} names no machine")
    return Measured(measured.artifact, measured.latency, record.machine)


def _scaled(
    one: Measured, before: Measurements, after: Measurements, references: Sequence[Arch]
) -> Measured:
    """Latency ``one`` of ``after``, scaled to the state of the machine in ``before`` by the engines
    that both measured.
    """
    factor = geometric_mean(
        before[arch].latency.median_ms / after[arch].latency.median_ms for arch in references
    )
    ends = {name: getattr(one.latency, name) for name in ("median_ms", "ci_low_ms", "ci_high_ms")}
    return replace(
        one, latency=replace(one.latency, **{name: ms and factor * ms for name, ms in ends.items()})
    )


def _known(search: Search, protocol: Protocol) -> dict[Arch, Record]:
    """Stored engines of this checkpoint, protocol and deployment; without workers, only engines of
    this machine.
    """
    known: dict[Arch, Record] = {}
    for record in search.store.read():
        engine = (
            record.source == "engine"
            and record.protocol is not None
            and record.model.arch is not None
        )
        if not engine or record.model.checkpoint_sha256 != search.checkpoint_sha256:
            continue
        asked = record.deployment == search.deployment_text and record.protocol == protocol
        if asked and (search.measure is not None or _same(record.machine, search.machine)):
            known[record.model.arch] = record  # type: ignore[index]
    return known


def _measure(search: Search, item: Engines, progress: Progress) -> dict[Arch, Measured]:
    return (
        search.measure(item) if search.measure is not None else measure_here(search, item, progress)
    )


def _machine(found: dict[Arch, Measured]) -> Machine:
    return next(iter(found.values())).machine


def _same(one: Machine | None, other: Machine | None) -> bool:
    """Whether a Record's id treats two machines as the same: by processor and GPU."""
    if one is None or other is None or (one.cpu, one.gpu) != (other.cpu, other.gpu):
        return False
    return one.gpu != "unknown" or one.gpu_uuid == other.gpu_uuid


def measure_here(search: Search, item: Engines, progress: Progress = iter) -> dict[Arch, Measured]:
    """Exports and measures in this process; ``item.protocol`` is a result of
    :func:`~.rounds.short_form`.
    """
    sessions: dict[Arch, Session] = {}
    for arch in progress(item.archs):
        sessions[arch] = search.deployed.open(arch, item.protocol.threads)
        sessions[arch].run(example_input(sessions[arch], search.split))
    calls = {
        arch.key: call_of(session, item.protocol, search.split)
        for arch, session in sessions.items()
    }
    measured = measure_rounds(calls, item.protocol, watch=search.watched and search.watched.watch)
    return {
        arch: Measured(one.artifact_id, measured[arch.key], search.machine)
        for arch, one in sessions.items()
    }
