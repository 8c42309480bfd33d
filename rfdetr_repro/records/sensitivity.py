"""The effect of one knob alone, from pairs of searched configurations that differ in this knob by
one step and in nothing else.

A mean over all configurations with some value mixes in the effects of their other knobs; a mean
over pairs does not. Pairs that share a backbone share its errors, so the bootstrap draws backbones,
not pairs. The interval tells how much a step depends on its place in the space; it includes neither
the uncertainty of the images nor that of the latency model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
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
    space = _Space.of(key.records)
    return [
        _step(space, knob, pairs) for knob in KNOBS for pairs in _pairs(space, KNOBS.index(knob))
    ]


@dataclass(frozen=True)
class _Space:
    """What the comparison needs to know of N searched Records."""

    knobs: np.ndarray  # int64 (N, 6): the values of KNOBS in their order, and the width
    backbone: np.ndarray  # int64 (N,): equal numbers are equal backbones
    ap: np.ndarray  # float64 (N,), 0..1
    ms: np.ndarray  # float64 (N,)

    @classmethod
    def of(cls, records: Sequence[Record]) -> _Space:
        archs = [record.as_searched().arch for record in records]
        return cls(
            np.array([[*(getattr(arch, knob) for knob in KNOBS), arch.width] for arch in archs]),
            _numbered(np.array([arch.backbone for arch in archs])),
            np.array([record.as_accuracy().ap for record in records]),
            np.array([record.as_latency().ms for record in records]),
        )


@dataclass(frozen=True)
class _Pairs:
    """Pairs of Records that differ in one knob alone, by one step."""

    low: int  # values of the knob
    high: int
    before: np.ndarray  # int64 (pairs,): places of the Records with the lower value
    after: np.ndarray  # int64 (pairs,)


def _numbered(rows: np.ndarray) -> np.ndarray:
    """A number for each row of an integer matrix (N, columns), int64 (N,): equal rows have equal
    numbers, and numbers are below N.
    """
    numbers = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        _, places = np.unique(column, return_inverse=True)
        _, numbers = np.unique(numbers * (places.max() + 1) + places, return_inverse=True)
    return numbers


def _pairs(space: _Space, place: int) -> Iterator[_Pairs]:
    """The pairs of every step of the knob at ``place``, smallest values first. Of several Records
    of one architecture the last counts, at the place of the first.
    """
    values, of = np.unique(space.knobs[:, place], return_inverse=True)
    others = _numbered(np.delete(space.knobs, place, axis=1))
    count = len(others)
    spots = of * count + others  # one number for each architecture; the next value is at + count
    found, first = np.unique(spots, return_index=True)
    _, from_end = np.unique(spots[::-1], return_index=True)
    last = count - 1 - from_end
    above = np.minimum(np.searchsorted(found, found + count), len(found) - 1)
    paired = found[above] == found + count
    step = found // count
    for number, (low, high) in enumerate(pairwise(values.tolist())):
        here = np.flatnonzero(paired & (step == number))
        if len(here):
            here = here[np.argsort(first[here])]
            yield _Pairs(low, high, last[here], last[above[here]])


def _step(space: _Space, knob: str, pairs: _Pairs) -> Step:
    clusters = space.backbone[pairs.before].tolist()
    ap_points = 100 * (space.ap[pairs.after] - space.ap[pairs.before])
    latency_percent = 100 * (space.ms[pairs.after] / space.ms[pairs.before] - 1)
    return Step(
        knob,
        pairs.low,
        pairs.high,
        len(clusters),
        len(set(clusters)),
        clustered_mean(ap_points, clusters),
        clustered_mean(latency_percent, clusters),
    )


def clustered_mean(values: Sequence[float] | np.ndarray, clusters: Sequence[Any]) -> Change:
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
