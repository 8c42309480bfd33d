"""Comparisons whose unit of observation is a data set, from the Records of ``rf100`` and
``train-rival``. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rfdetr_repro.records.data_sets import (
    DECIDING,
    FEWEST,
    LOCATIONS,
    OBJECT_SIZE,
    SetResult,
    gains_of,
    mean_over_sets,
    regressions,
    results_of,
)
from rfdetr_repro.records.record import Budget, Record
from rfdetr_repro.tables.rivals import comparisons, deciding_split, entries, verdicts

from .pairs import Scale

PER_LOCATION = "slope"  # a measure: % of the image per patch along a side


class Across(NamedTuple):
    """An effect over ``sets`` data sets with the ends of its 95 % interval; ``over`` says what the
    interval is over, or why there is none. Without a value there is no effect.
    """

    scale: Scale
    value: float | None
    low: float | None
    high: float | None
    sets: int
    over: str


@dataclass(frozen=True)
class OverDataSets:
    """Two variants on each data set: the second, against the first."""

    first: str
    second: str

    def across(self, records: Sequence[Record]) -> list[Across]:
        """The mean paired difference in points, of composed and of real data sets apart."""
        found = []
        for results in _kinds(results_of(records)):
            if gains := gains_of(results, self.first, self.second):
                mean = mean_over_sets(gains)
                scale = _scale(results, len(gains))
                ends = mean.low, mean.high
                found.append(_across(scale, mean.value, *ends, len(gains), mean.told))
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
class RivalsOverDataSets:
    """RF-DETR, against each rival trained alike on the same data sets, at equal latency."""

    def across(self, records: Sequence[Record]) -> list[Across]:
        """For each rival the mean over its data sets of RF-DETR - rival, in points; on each data
        set the mean over the seeds counts, and of several budgets the largest.
        """
        of_rival: dict[str, dict[str, _OnDataSet]] = {}
        for group in sorted(comparisons(records).values(), key=_images_seen):
            data = group[0].data
            if data is None:
                continue
            models = entries(group)
            split = deciding_split(models)
            images = next(
                (one.data.num_images for one in group if one.data and one.data.split == split), None
            )
            for one in verdicts(models, split):
                if one.difference is not None:
                    gain = 100 * one.difference.value
                    of_rival.setdefault(one.rival.label, {})[data.name] = _OnDataSet(
                        gain, split, images, data.synthetic, group[0].budget
                    )
        return [_of_rival(rival, list(found.values())) for rival, found in of_rival.items()]


class _OnDataSet(NamedTuple):
    gain: float  # points
    split: str
    images: int | None
    composed: bool
    budget: Budget | None


def _images_seen(group: Sequence[Record]) -> int:
    budget = group[0].budget
    return 0 if budget is None else budget.steps * budget.images_per_step


def _of_rival(rival: str, found: Sequence[_OnDataSet]) -> Across:
    sets = len(found)
    splits = "/".join(sorted({one.split for one in found}))
    known = [one.images for one in found if one.images is not None]
    composed = sum(one.composed for one in found)
    kinds = "all composed" if composed == sets else f"{composed} of them composed"
    images = sum(known) if len(known) == sets else None
    budgets = " or ".join(sorted({one.budget.words for one in found if one.budget is not None}))
    scale = Scale(f"{rival}; {sets} data sets, {kinds};", splits, images, composed == sets, budgets)
    mean = mean_over_sets([one.gain for one in found])
    return _across(scale, mean.value, mean.low, mean.high, sets, mean.told)


def _scale(results: Sequence[SetResult], sets: int) -> Scale:
    return Scale(f"{sets} data sets", DECIDING, _images(results), results[0].composed)


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
        reason = told or f"{sets} data sets, and a verdict needs {FEWEST}"
        return Across(scale, value, None, None, sets, reason)
    return Across(scale, value, low, high, sets, f"interval over {sets} data sets")


def _kinds(results: Sequence[SetResult]) -> list[list[SetResult]]:
    groups: dict[bool, list[SetResult]] = {}
    for one in results:
        groups.setdefault(one.composed, []).append(one)
    return list(groups.values())


def _images(results: Sequence[SetResult]) -> int | None:
    counts = [next(iter(one.of.values())).data for one in results]
    known = [data.num_images for data in counts if data is not None and data.num_images]
    return sum(known) if len(known) == len(results) else None
