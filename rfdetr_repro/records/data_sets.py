"""Several data sets, each with a search of its own (``rfdetr-repro rf100``): results per data set,
means of paired differences over data sets, and the regressions of what the data hold on the found
knobs.

The unit of observation is a data set: an interval says what other data sets of the same kinds would
give. Each data set has one training, so that the chance of training is part of the spread. The
regressions are those of version 2's Table 17, by the same least squares. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import scipy  # its subpackages are loaded when they are used

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

from .record import FIXED, RF100, TUNED, Record, TrainFacts
from .seeds import CONFIDENCE, Seeded, seeded_mean

FOUND = "nas"
VARIANTS = (FIXED, FOUND, TUNED)
DECIDING = "test"
FEWEST = 3  # data sets of a regression, and of a verdict
# AP as a fraction that one of two models must reach for a comparison on a data set: below it both
# find next to nothing. Chosen here after the first results
LEARNED_AP = 0.05


@dataclass(frozen=True)
class SetResult:
    """What one data set gave. ``of``: variant of VARIANTS -> Record on the deciding split."""

    name: str
    facts: TrainFacts
    of: dict[str, Record]

    @property
    def composed(self) -> bool:
        """Whether the images were composed."""
        return any(one.data is not None and one.data.synthetic for one in self.of.values())

    def ap(self, variant: str) -> float | None:
        """AP of the variant, as a fraction; None where there is none."""
        record = self.of.get(variant)
        return None if record is None or record.accuracy is None else record.accuracy.ap

    def ms(self, variant: str) -> float | None:
        """Median latency of the variant's file."""
        record = self.of.get(variant)
        return None if record is None or record.latency is None else record.latency.median_ms

    def arch(self, variant: str) -> Arch | None:
        """The variant's architecture."""
        record = self.of.get(variant)
        return None if record is None else record.model.arch

    def gain(self, first: str, second: str) -> float | None:
        """AP of the second variant minus that of the first, in points."""
        one = self.ap(first)
        other = self.ap(second)
        return None if one is None or other is None else 100 * (other - one)

    def learned(self, *variants: str) -> bool:
        """Whether one of the variants reaches :data:`LEARNED_AP`."""
        return any((self.ap(variant) or 0.0) >= LEARNED_AP for variant in variants)


def results_of(records: Iterable[Record], split: str = DECIDING) -> list[SetResult]:
    """The data sets of the Records that ``rf100`` wrote, by name."""
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        data = record.data
        if (
            record.campaign == RF100
            and record.source == "protocol"
            and record.model.variant in VARIANTS
            and data is not None
            and data.split == split
            and data.train is not None
        ):
            found.setdefault(data.name, {})[str(record.model.variant)] = record
    return [
        SetResult(name, facts, of)
        for name, of in sorted(found.items())
        if (facts := _facts(next(iter(of.values())))) is not None
    ]


def _facts(record: Record) -> TrainFacts | None:
    return None if record.data is None else record.data.train


def mean_over_sets(values: Sequence[float]) -> Seeded:
    """The mean over data sets with Student's interval."""
    if not values:
        raise InputError("there is no data set to average over")
    found = seeded_mean(values)
    if found.low is not None:
        return found
    return found._replace(
        told="one data set" if len(values) < 2 else "all data sets give the same number"
    )


def gains_of(results: Sequence[SetResult], first: str, second: str) -> list[float]:
    """What the second variant gains over the first, in points of AP, on each data set that has
    both.
    """
    return [gain for one in results if (gain := one.gain(first, second)) is not None]


class Regression(NamedTuple):
    """A line by least squares through the data sets: ``statistic`` = ``intercept`` + ``slope`` x
    ``knob``, as in version 2's Table 17; ``low`` and ``high``: 95 % interval of the slope. The
    numbers are None where ``told`` says why there is no line.
    """

    statistic: str
    knob: str
    sets: int
    slope: float | None = None
    intercept: float | None = None
    r_squared: float | None = None
    p_value: float | None = None
    std_error: float | None = None
    low: float | None = None
    high: float | None = None
    told: str = ""


_Number = Callable[[SetResult], float]


def _knob(read: Callable[[Arch], float]) -> _Number:
    def number(result: SetResult) -> float:
        arch = result.arch(FOUND)
        if arch is None:
            raise InputError(f"the Record of {result.name} states no architecture")
        return read(arch)

    return number


OBJECT_SIZE = "Average Object Size"
CLASSES = "Number of Classes"
OBJECTS = "Number of Annotations"
PER_IMAGE = "Average Objects per Image"
LOCATIONS = "Number of Spatial Locations"
LAYERS = "Number of Decoder Layers"
WINDOWS = "Number of Windows"
QUERIES = "Number of Queries"
_NUMBERS: dict[str, _Number] = {
    OBJECT_SIZE: lambda result: result.facts.mean_object_area,
    CLASSES: lambda result: float(result.facts.classes),
    OBJECTS: lambda result: float(result.facts.objects),
    PER_IMAGE: lambda result: result.facts.objects_per_image,
    # along one side: the published intercepts fit no other reading
    LOCATIONS: _knob(lambda arch: math.sqrt(arch.tokens)),
    LAYERS: _knob(lambda arch: float(arch.decoder_layers)),
    WINDOWS: _knob(lambda arch: float(arch.windows)),
    QUERIES: _knob(lambda arch: float(arch.queries)),
}
# (statistic, knob) in the order of version 2's Table 17
RELATIONS = (
    (OBJECT_SIZE, LOCATIONS),
    (OBJECT_SIZE, LAYERS),
    (OBJECT_SIZE, WINDOWS),
    (CLASSES, LAYERS),
    (OBJECTS, LAYERS),
    (PER_IMAGE, LAYERS),
    (PER_IMAGE, QUERIES),
    (LOCATIONS, WINDOWS),
)


def regressions(results: Sequence[SetResult]) -> list[Regression]:
    """The lines of RELATIONS through the architectures that were found."""
    found = [one for one in results if one.arch(FOUND) is not None]
    return [
        regression(
            statistic,
            knob,
            [_NUMBERS[knob](one) for one in found],
            [_NUMBERS[statistic](one) for one in found],
        )
        for statistic, knob in RELATIONS
    ]


def regression(
    statistic: str, knob: str, knobs: Sequence[float], statistics: Sequence[float]
) -> Regression:
    """The line through (knob, statistic), one point per data set."""
    sets = len(knobs)
    if sets < FEWEST:
        return Regression(statistic, knob, sets, told=f"fewer than {FEWEST} data sets")
    for name, values in ((knob, knobs), (statistic, statistics)):
        if len(set(values)) < 2:  # neither a constant has a line, nor what never changes with it
            told = f"the same {name.lower()} for all data sets"
            return Regression(statistic, knob, sets, told=told)
    line = scipy.stats.linregress(knobs, statistics)
    half = float(scipy.special.stdtrit(sets - 2, (1 + CONFIDENCE) / 2)) * float(line.stderr)
    slope = float(line.slope)
    return Regression(
        statistic,
        knob,
        sets,
        slope,
        float(line.intercept),
        float(line.rvalue) ** 2,
        float(line.pvalue),
        float(line.stderr),
        slope - half,
        slope + half,
    )
