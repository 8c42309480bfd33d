"""Comparisons that are computed as a whole, from the Records of ``rf100`` and ``train-rival``: over
data sets, and of rivals at equal latency. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from rfdetr_repro.records.data_sets import (
    DECIDING,
    FEWEST,
    LEARNED_AP,
    LOCATIONS,
    OBJECT_SIZE,
    SetResult,
    gains_of,
    mean_over_sets,
    regressions,
    results_of,
)
from rfdetr_repro.records.record import Budget, Record
from rfdetr_repro.records.seeds import Seeded
from rfdetr_repro.spec.metrics import decimals, plural
from rfdetr_repro.tables.rivals import (
    TOO_COARSE,
    UNLEARNED,
    Entry,
    Verdict,
    comparisons,
    deciding_split,
    entries,
    verdicts,
)

from .pairs import Scale

PER_LOCATION = "slope"  # a measure: % of the image per patch along a side
LEARNED = f"{100 * LEARNED_AP:g}"
FEWEST_SEEDS = 3  # of a training, for a verdict about trainings


class Across(NamedTuple):
    """An effect over ``number`` data sets or seeds with the ends of its 95 % interval; ``over``
    says what the interval is over, ``reason`` why there is none, or what belongs to the effect, and
    ``barred`` why the interval decides nothing.
    Without a value there is no effect.
    """

    scale: Scale
    value: float | None
    low: float | None
    high: float | None
    number: int
    over: str = ""
    reason: str = ""
    barred: str = ""


@runtime_checkable
class Aggregate(Protocol):
    """A comparison that is computed from all Records together."""

    def across(self, records: Sequence[Record]) -> list[Across]:
        """The effects, apart for each scale."""
        ...


@dataclass(frozen=True)
class OverDataSets:
    """Two variants on each data set: the second, against the first."""

    first: str
    second: str

    def across(self, records: Sequence[Record]) -> list[Across]:
        """The mean paired difference in points, of composed and of real data sets apart. Data sets
        on which neither variant finds anything are left out.
        """
        found = []
        for results in _kinds(results_of(records)):
            learned = [one for one in results if one.learned(self.first, self.second)]
            if gains := gains_of(learned, self.first, self.second):
                mean = mean_over_sets(gains)
                effect = _across(_scale(learned, len(gains)), *mean[:3], len(gains), mean.told)
                if out := len(results) - len(learned):
                    told = f"left out: {plural(out, 'data set')} with an AP below {LEARNED}"
                    reason = "; ".join(filter(None, (effect.reason, told)))
                    effect = effect._replace(reason=reason)
                found.append(effect)
        return found


@dataclass(frozen=True)
class SizeOnLocations:
    """The line of version 2's Table 17 that is beyond chance there: sizes of objects, on spatial
    locations of the found architecture.
    """

    def across(self, records: Sequence[Record]) -> list[Across]:
        """The slope in percent of the image per patch along a side, of composed and of real data
        sets apart.
        """
        found = []
        for results in _kinds(results_of(records)):
            line = next(
                one
                for one in regressions(results)
                if (one.statistic, one.knob) == (OBJECT_SIZE, LOCATIONS)
            )
            scale = _scale(results, line.sets)
            if line.slope is None or line.low is None or line.high is None:
                found.append(_across(scale, None, None, None, line.sets, line.told))
                continue
            ends = 100 * line.low, 100 * line.high
            found.append(_across(scale, 100 * line.slope, *ends, line.sets, ""))
        return found


@dataclass(frozen=True)
class RivalsAtEqualLatency:
    """RF-DETR, against each rival trained alike, at equal latency (:mod:`.tables.rivals`)."""

    def across(self, records: Sequence[Record]) -> list[Across]:
        """For each data set, budget and rival the difference of AP in points with Welch's interval
        over the seeds.
        """
        found = []
        for one in _rivals(records):
            seeds = min(len(entry.ap[one.split]) for entry in (one.ours, one.rival))
            value, low, high, told = one.difference
            if seeds < FEWEST_SEEDS:
                low = high = None
                told = f"a claim about training needs {FEWEST_SEEDS} seeds"
            over = plural(seeds, "training seed") if low is not None else ""
            ends = [None if end is None else 100 * end for end in (low, high)]
            reason = "; ".join(filter(None, (told, one.told)))
            effect = 100 * value, ends[0], ends[1]
            found.append(Across(one.scale, *effect, seeds, over, reason, one.barred))
        return found


@dataclass(frozen=True)
class RivalsOverDataSets:
    """RF-DETR, against each rival trained alike on the same data sets, at equal latency."""

    def across(self, records: Sequence[Record]) -> list[Across]:
        """For each rival and budget the mean over its data sets, of which there must be two or
        more, of RF-DETR - rival in points; on each data set the mean over the seeds counts. Data
        sets on which neither model finds anything are left out.
        """
        groups: dict[tuple[str, str], dict[str, _Compared]] = {}
        for one in _rivals(records):
            if one.barred == UNLEARNED:
                continue
            groups.setdefault((one.rival.label, one.scale.training), {})[one.scale.data] = one
        return [_over_sets(list(found.values())) for found in groups.values() if len(found) > 1]


class _Compared(NamedTuple):
    """A rival, and the RF-DETR at equal latency, on one data set."""

    scale: Scale
    split: str
    ours: Entry
    rival: Entry
    difference: Seeded  # of APs as fractions
    # the same of the next slower RF-DETR; None: there is none, or ours is as fast as the rival
    slower: Seeded | None
    barred: str  # why the difference decides nothing
    told: str  # how equal the latencies are


def _rivals(records: Sequence[Record]) -> list[_Compared]:
    found = []
    for group in comparisons(records).values():
        models = entries(group)
        split = deciding_split(models)
        data = next((one.data for one in group if one.data and one.data.split == split), None)
        if data is None:
            continue
        for verdict in verdicts(models, split):
            if verdict.ours is None or verdict.difference is None:
                continue
            rival = verdict.rival.label
            budget = group[0].budget.words if group[0].budget else ""
            scale = Scale(data.name, split, data.num_images, data.synthetic, budget, rival)
            found.append(
                _Compared(
                    scale,
                    split,
                    verdict.ours,
                    verdict.rival,
                    verdict.difference,
                    None if verdict.equally_fast else verdict.slower_difference,
                    verdict.undecided,
                    _nearness(verdict.ours, verdict),
                )
            )
    return found


def _nearness(ours: Entry, verdict: Verdict) -> str:
    """How far the latencies of both are apart, and what the next slower RF-DETR has."""
    change = 100 * (ours.latency / verdict.rival.latency - 1)
    told = "RF-DETR's file is as fast"
    if round(change):
        told = f"RF-DETR's file is {abs(change):.0f} % {'slower' if change > 0 else 'faster'}"
    if verdict.slower is not None and verdict.slower_difference is not None:
        slower = 100 * (verdict.slower.latency / verdict.rival.latency - 1)
        points = decimals(100 * verdict.slower_difference.value, 1, signed=True)
        told += f"; the next slower file, {slower:.0f} % slower than the rival, has {points} points"
    return told


def _over_sets(found: Sequence[_Compared]) -> Across:
    sets = len(found)
    splits = "/".join(sorted({one.split for one in found}))
    known = [one.scale.images for one in found if one.scale.images is not None]
    composed = sum(one.scale.synthetic for one in found)
    kinds = "all composed" if composed == sets else f"{composed} of them composed"
    images = sum(known) if len(known) == sets else None
    first = found[0].scale
    data = f"{plural(sets, 'data set')}, {kinds};"
    scale = Scale(data, splits, images, composed == sets, first.training, first.against)
    mean = mean_over_sets([100 * one.difference.value for one in found])
    effect = _across(scale, mean.value, mean.low, mean.high, sets, mean.told)
    slower = mean_over_sets([100 * (one.slower or one.difference).value for one in found])
    if effect.low is None or slower.low is None or slower.high is None:
        return effect
    numbers = slower.value, slower.low, slower.high
    value, low, high = (decimals(one, 1, signed=True) for one in numbers)
    told = f"with the next slower files of RF-DETR {value} ({low} to {high})"
    behind = effect.high is not None and effect.high < 0
    return effect._replace(reason=told, barred=TOO_COARSE if behind and slower.high >= 0 else "")


def _scale(results: Sequence[SetResult], sets: int) -> Scale:
    words = _budgets(results)
    return Scale(f"{sets} data sets", DECIDING, _images(results), results[0].composed, words)


def _budgets(results: Sequence[SetResult]) -> str:
    """How long the supernets of all data sets were trained; "" where a Record does not say so."""
    budgets = [record.budget for one in results for record in one.of.values()]
    known = [budget for budget in budgets if budget is not None]
    if not known or len(known) < len(budgets):
        return ""
    least, most = (choose(known, key=_images_seen) for choose in (min, max))
    return least.words if least == most else f"{least.words} to {most.words}"


def _images_seen(budget: Budget) -> int:
    return budget.steps * budget.images_per_step


def _across(
    scale: Scale,
    value: float | None,
    low: float | None,
    high: float | None,
    sets: int,
    told: str,
) -> Across:
    """Without an interval where the data sets are too few for a verdict."""
    if sets < FEWEST or low is None:
        reason = told or f"{plural(sets, 'data set')}, and a verdict needs {FEWEST}"
        return Across(scale, value, None, None, sets, reason=reason)
    return Across(scale, value, low, high, sets, f"{sets} data sets")


def _kinds(results: Sequence[SetResult]) -> list[list[SetResult]]:
    groups: dict[bool, list[SetResult]] = {}
    for one in results:
        groups.setdefault(one.composed, []).append(one)
    return list(groups.values())


def _images(results: Sequence[SetResult]) -> int | None:
    counts = [next(iter(one.of.values())).data for one in results]
    known = [data.num_images for data in counts if data is not None and data.num_images]
    return sum(known) if len(known) == len(results) else None
