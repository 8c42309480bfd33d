"""The effect of one knob alone, from pairs of searched configurations that differ in this knob by
one step and in nothing else.

A mean over all configurations with some value mixes in the effects of their other knobs; a mean
over pairs does not. Pairs that share a backbone share its errors, so the bootstrap draws backbones,
not pairs. The interval tells how much a step depends on its place in the space; it includes neither
the uncertainty of the images nor that of the latency model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rfdetr_repro.spec.arch import KNOBS

from .pareto import backend, images
from .record import NEVER_TRAINED, Record

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Change:
    """A mean and its 95 % interval; the interval is ``None`` where fewer than two backbones leave
    nothing to resample.
    """

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Step:
    """A step from one value of a knob to the next larger value, over all pairs that differ in
    nothing else.
    """

    knob: str
    low: int
    high: int
    pairs: int
    backbones: int  # of the smaller value's configurations: what the bootstrap draws
    ap_points: Change  # percentage points of box AP
    latency_percent: Change  # of the smaller value's latency


class _Group:
    """Records as a key: two groups of the very same Records, which never change, are equal."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = tuple(records)  # keeps them alive, so that no identity is used again
        self.identities = tuple(map(id, records))

    def __hash__(self) -> int:
        return hash(self.identities)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Group) and self.identities == other.identities


def searched(records: Iterable[Record]) -> list[Record]:
    """Records of a search over a trained space that have an architecture, a box AP and a
    latency.
    """
    return [
        record
        for record in records
        if record.source == "search"
        and record.model.variant != NEVER_TRAINED
        and record.model.arch is not None
        and record.latency is not None
        and record.accuracy is not None
        and record.accuracy.ap is not None
    ]


def comparable_searches(records: Iterable[Record]) -> list[list[Record]]:
    """Searched Records grouped by model file, images and origin of their latencies, the largest
    group first.
    """
    return [list(group) for group in _searches(_Group(tuple(records)))]


@functools.lru_cache(maxsize=4)  # every figure of a report, and its height, ask for them
def _searches(group: _Group) -> list[list[Record]]:
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in searched(group.records):
        data = record.data and record.data.sha256
        model = record.model
        key = (
            model.checkpoint_sha256,
            model.task,
            model.variant,
            data,
            images(record),
            backend(record),
            record.machine,
        )
        groups.setdefault(key, []).append(record)
    return sorted(groups.values(), key=len, reverse=True)


def sensitivity(group: Sequence[Record]) -> list[Step]:
    """Every step for which the Records of ``group`` (from :func:`comparable_searches`) have a pair,
    in the order of the knobs.
    """
    return list(_steps(_Group(group)))


@functools.lru_cache(maxsize=4)  # a report asks for its figure, the figure's height and a table
def _steps(key: _Group) -> list[Step]:
    points = [_Point.of(record) for record in key.records]
    steps = []
    for place, knob in enumerate(KNOBS):
        at: dict[int, dict[tuple[int, ...], _Point]] = {}  # value -> all the other knobs -> point
        for point in points:
            others = point.knobs[:place] + point.knobs[place + 1 :]
            at.setdefault(point.knobs[place], {})[others] = point
        for low, high in pairwise(sorted(at)):
            pairs = [
                (point, at[high][others]) for others, point in at[low].items() if others in at[high]
            ]
            if pairs:
                steps.append(_step(knob, low, high, pairs))
    return steps


@dataclass(frozen=True)
class _Point:
    """What the comparison needs to know of a searched Record."""

    knobs: tuple[int, ...]  # in the order of KNOBS
    backbone: tuple[int, ...]
    ap: float  # 0..1
    ms: float

    @classmethod
    def of(cls, record: Record) -> _Point:
        arch = record.as_searched().arch
        knobs = tuple(arch.knobs().values())
        return cls(knobs, arch.backbone, record.as_accuracy().ap, record.as_latency().ms)


def _step(knob: str, low: int, high: int, pairs: Sequence[tuple[_Point, _Point]]) -> Step:
    clusters = [before.backbone for before, _ in pairs]
    ap_points = [100 * (after.ap - before.ap) for before, after in pairs]
    latency_percent = [100 * (after.ms / before.ms - 1) for before, after in pairs]
    return Step(
        knob,
        low,
        high,
        len(pairs),
        len(set(clusters)),
        clustered_mean(ap_points, clusters),
        clustered_mean(latency_percent, clusters),
    )


def clustered_mean(values: Sequence[float], clusters: Sequence[Any]) -> Change:
    """Mean of ``values``, with the percentile interval of means over resampled clusters;
    ``clusters[i]`` is the cluster of value i.
    """
    numbers = np.asarray(values, dtype=np.float64)
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    of = np.array([names[name] for name in clusters])
    mean = float(numbers.mean())
    count = len(names)
    if count < 2:
        return Change(mean)
    sums = np.bincount(of, numbers)
    sizes = np.bincount(of)
    draws = _draws(count)
    means = draws @ sums / (draws @ sizes)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Change(mean, float(low), float(high))


@functools.lru_cache(maxsize=8)  # every step of a knob has the same number of clusters
def _draws(count: int) -> np.ndarray:
    """How often each resample holds each cluster, float64 (RESAMPLES, count)."""
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return drawn.astype(np.float64)
