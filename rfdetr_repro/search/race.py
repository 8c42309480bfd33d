"""The race: configurations are dropped as soon as they can no longer be on the frontier
(docs/search.md).

All configurations start on a few images, and the number of images grows from stage to stage. A
configuration is dropped when its chance to be on the frontier of the whole split, given the images
seen, has fallen to 1 - confidence. The chance is counted over paired resamples: every configuration
sees the same draws. A draw keeps the images seen and fills the split up to its size with repeats of
them by Polya's urn (finite-population Bayesian bootstrap, Lo 1988), so that it predicts the result
on the whole split: wide after a few images, exact after all. Survivors are evaluated on every
image, and their AP equals that of the exhaustive search.

A backbone is paid for as long as one of its configurations is left. So a stage also drops whole
backbones, the one that loses least for its latency first. What a backbone loses is the
hypervolume that it costs in nearly all resamples, and the sum of these losses stays below a part
of the whole. Quantiles do not add up, so this sum bounds no quantile of all that is lost together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.evaluation.matches import Matches, Objects, Resamples, average_precision
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

from .hypervolume import areas, beyond

Array = np.ndarray[Any, Any]
# configurations, places of images -> their matches
Evaluate = Callable[[Sequence[Arch], Sequence[int]], Mapping[Arch, Matches]]


@dataclass(frozen=True)
class Rules:
    """Rules for dropping a configuration.

    ``margin``: AP, as a fraction, by which a configuration must be able to beat all faster
    configurations to stay. 0 keeps every possible member of the frontier; a small margin drops
    configurations of equal AP and bounds the loss of the frontier. Raises :class:`InputError` for
    impossible rules.
    """

    first: float = 0.05  # fraction of the images in the first stage
    # least number of images in the first stage, because resamples of fewer are overconfident
    fewest: int = 30
    growth: float = 1.6  # ratio of the images of a stage to those of the stage before
    confidence: float = 0.95
    margin: float = 0.003
    resamples: int = 200
    seed: int = 0
    # part of the hypervolume that the losses of all dropped backbones may add up to, each the
    # quantile ``confidence`` over the resamples; stages come to it in equal steps
    loss: float = 0.01

    def __post_init__(self) -> None:
        shares = 0 < self.first <= 1 and 0 < self.confidence < 1
        shares = shares and self.fewest >= 1 and 0 <= self.loss < 1
        if not (shares and self.growth > 1 and 0 <= self.margin <= 1 and self.resamples >= 20):
            raise InputError(
                f"the race rules {self} are impossible",
                hint="first in (0, 1], confidence in (0, 1), margin in [0, 1], loss in [0, 1), "
                "fewest >= 1, growth > 1, resamples >= 20",
            )

    def first_images(self, images: int) -> int:
        """Number of images in the first stage, for a split of ``images`` images."""
        return min(images, max(self.fewest, round(self.first * images)))


class Stage(NamedTuple):
    """The result of a stage after ``images`` images: the number of configurations, the dropped
    configurations with their chances to be on the frontier, and those that were dropped with their
    backbone, with the part of the hypervolume that the backbone may cost.
    """

    images: int
    entered: int
    evaluations: int  # configurations x images of this stage
    backbone_passes: int  # backbones x images of this stage
    left: dict[str, float]
    spared: dict[str, float]


@dataclass
class Outcome:
    """The result of a race.

    ``accuracy``: exact AP of the survivors on all images, as fractions, equal to that of the
    exhaustive search.
    """

    accuracy: dict[Arch, float]
    matches: dict[Arch, Matches]
    stages: list[Stage] = field(default_factory=list)
    evaluation_s: float = 0.0  # wall time of the evaluations in s
    decision_s: float = 0.0  # wall time of the decisions in s, including resampling

    def evaluations(self) -> int:
        """Number of (configuration, image) evaluations."""
        return sum(stage.evaluations for stage in self.stages)

    def backbone_passes(self) -> int:
        """Number of (backbone, image) passes."""
        return sum(stage.backbone_passes for stage in self.stages)

    def took(self) -> str:
        """Wall time in words."""
        whole = self.evaluation_s + self.decision_s
        share = f" ({self.decision_s / whole:.0%} of the race)" if whole else ""
        return (
            f"evaluations took {self.evaluation_s:.1f} s, decisions {self.decision_s:.1f} s{share}"
        )


def race(
    latency_ms: Mapping[Arch, float],
    objects: Objects,
    evaluate: Evaluate,
    thresholds: Sequence[int],
    rules: Rules = Rules(),
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Outcome:
    """Races the configurations of ``latency_ms`` (modelled, in ms) for the frontier of latency and
    AP.

    ``evaluate(archs, places)`` returns the matches on these images only; ``places`` number the
    images in order of image id (:mod:`rfdetr_repro.evaluation.matches`). ``thresholds``: indices of
    the IoU thresholds over which AP is averaged.
    """
    order = image_order(objects, rules.seed)
    alive = sorted(latency_ms, key=lambda arch: (latency_ms[arch], arch))
    outcome = Outcome({}, {})
    seen = 0
    spent = 0.0  # part of the hypervolume that dropped backbones may cost
    ends = list(stage_ends(len(order), rules))
    end = beyond(np.array(list(latency_ms.values())))
    for number, stop in enumerate(ends, 1):
        new = sorted(order[seen:stop])
        started = time.perf_counter()
        found = evaluate(alive, new)
        evaluated = time.perf_counter()
        outcome.matches = {
            arch: Matches.join([outcome.matches[arch], found[arch]]) if seen else found[arch]
            for arch in alive
        }
        matches = [outcome.matches[arch] for arch in alive]
        ap = resampled(matches, objects, order[:stop], thresholds, rules)
        left = {
            arch: chance
            for arch, chance in zip(alive, chances_of(ap, rules), strict=True)
            if chance <= 1 - rules.confidence
        }
        spared: dict[Arch, float] = {}
        if stop < len(order):
            stay = [row for row, arch in enumerate(alive) if arch not in left]
            allowed = rules.loss * number / (len(ends) - 1) - spent
            few = {alive[row]: latency_ms[alive[row]] for row in stay}
            spared = spared_backbones(few, ap[stay], end, allowed, rules)
            spent += sum({arch.backbone: lost for arch, lost in spared.items()}.values())
        passes = len({arch.backbone for arch in alive}) * len(new)
        outcome.stages.append(
            Stage(stop, len(alive), len(alive) * len(new), passes, _told(left), _told(spared))
        )
        outcome.evaluation_s += evaluated - started
        outcome.decision_s += time.perf_counter() - evaluated
        progress(outcome.stages[-1])
        if stop < len(order):
            alive = [arch for arch in alive if arch not in left and arch not in spared]
            seen = stop
    places = np.arange(len(order))
    exact = {
        arch: average_precision(outcome.matches[arch], objects, places, thresholds)
        for arch in alive
    }
    outcome.accuracy = {arch: ap for arch, ap in exact.items() if ap is not None}
    outcome.matches = {arch: outcome.matches[arch] for arch in outcome.accuracy}
    return outcome


def _told(values: Mapping[Arch, float]) -> dict[str, float]:
    return {arch.key: round(value, 4) for arch, value in values.items()}


def resampled(
    matches: Sequence[Matches],
    objects: Objects,
    seen: Sequence[int],
    thresholds: Sequence[int],
    rules: Rules,
) -> Array:
    """AP of each of ``matches`` on each predicted split, float64 (configurations, B)."""
    resamples = Resamples.of(objects, predictive_weights(seen, len(objects.count), rules))
    return np.array([resamples.average_precision(found, thresholds) for found in matches])


def chances_of(ap: Array, rules: Rules) -> list[float]:
    """Chance in 0..1 that each row of ``ap``, fastest first, beats all before it by more than the
    margin.
    """
    before = np.full_like(ap, -np.inf)
    before[1:] = np.maximum.accumulate(ap, axis=0)[:-1]
    return [float(chance) for chance in (ap > before + rules.margin).mean(axis=1)]


def spared_backbones(
    latency_ms: Mapping[Arch, float], ap: Array, end: float, allowed: float, rules: Rules
) -> dict[Arch, float]:
    """The configurations whose backbone may be dropped, with the part of the hypervolume that the
    backbone may cost; these parts add up to at most ``allowed``.

    ``latency_ms``: fastest first; ``ap``: float64 (configurations, B); ``end``: the latency in ms
    where the area ends. Backbones go one after the other, the one that costs least for its latency
    first. What a backbone may cost is the quantile ``rules.confidence`` over the resamples; the sum
    of quantiles is no quantile of all that is lost.
    """
    archs = list(latency_ms)
    ms = np.array(list(latency_ms.values()))
    whole = areas(ap, ms, end).mean()
    backbones = {arch.backbone for arch in archs}
    own = {one: np.array([arch.backbone == one for arch in archs]) for one in backbones}
    stay = np.full(len(archs), True)
    spared: dict[Arch, float] = {}
    while whole > 0 and len(backbones) > 1:
        now = areas(ap[stay], ms[stay], end)
        lost = {}
        for one in sorted(backbones):
            rest = stay & ~own[one]
            gone = (now - areas(ap[rest], ms[rest], end)) / whole
            lost[one] = float(np.quantile(gone, rules.confidence))
        least = min(sorted(lost), key=lambda one: lost[one] / ms[own[one]].max())
        allowed -= lost[least]
        if allowed < 0:
            break
        backbones.remove(least)
        stay &= ~own[least]
        spared |= {arch: lost[least] for arch in archs if arch.backbone == least}
    return spared


def predictive_weights(seen: Sequence[int], total: int, rules: Rules) -> Array:
    """Number of occurrences of each of ``total`` images in each resample, int (B, total): each seen
    image once, plus repeats in place of the unseen images.

    Polya's urn over the images seen: shares ~ Dirichlet(1, ..., 1), the rest of the split ~
    multinomial with these shares.
    """
    rng = np.random.default_rng((rules.seed, len(seen)))
    weights = np.zeros((rules.resamples, total), dtype=np.int64)
    weights[:, list(seen)] = 1
    if rest := total - len(seen):
        shares = rng.dirichlet(np.ones(len(seen)), size=rules.resamples)
        weights[:, list(seen)] += rng.multinomial(rest, shares)
    return weights


def image_order(objects: Objects, seed: int) -> list[int]:
    """Every image once, in an order in which each prefix shows the classes in about their shares.

    The next image is a random image of the class that is furthest behind. Images without objects
    are spread evenly.
    """
    rng = np.random.default_rng(seed)
    of_class = [rng.permutation(np.flatnonzero(column)).tolist() for column in objects.count.T]
    size = objects.count.sum(0)
    drawn = np.zeros(objects.count.shape[1])
    busy = rng.permutation(np.flatnonzero(objects.count.any(1))).tolist()
    empty = rng.permutation(np.flatnonzero(~objects.count.any(1))).tolist()
    order: list[int] = []
    taken: set[int] = set()
    while len(order) < len(busy):
        share = np.where(drawn < size, (drawn + 0.5) / np.maximum(size, 1), np.inf)
        label = int(np.argmin(share))
        while (image := of_class[label].pop()) in taken:
            pass
        taken.add(image)
        order.append(image)
        drawn += objects.count[image]
    for number, image in enumerate(empty):
        order.insert((number + 1) * (len(busy) + len(empty)) // (len(empty) + 1), image)
    return order


def stage_ends(images: int, rules: Rules) -> Iterator[int]:
    """Number of images seen after each stage; the last is the whole split."""
    stop = float(rules.first_images(images))
    while stop < images / rules.growth**0.5:  # avoids a last stage of only a few images
        yield round(stop)
        stop *= rules.growth
    yield images
