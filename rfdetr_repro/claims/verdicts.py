"""The verdict of each claim: the effect of every comparison with its 95 % interval, and whether the
interval lies where the claim says.

The unit of observation for a claim about training is a training: an interval needs at least
:data:`~.data_sets.FEWEST_SEEDS` seeds (Student's, over the mean effect of each seed). A claim about
what happens to given weights may also be judged by an interval over images (paired, from the
resampled APs that Records keep), and one about latency by an interval over files. Every finding
states what its interval is over. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from rfdetr_repro.records.ap_intervals import mean_difference
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.seeds import seeded_mean
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.metrics import plural

from .catalog import CLAIMS
from .comparison import AP, TAIL, Claim, Comparison, Expected
from .data_sets import FEWEST_SEEDS, Across, Aggregate
from .pairs import Pair, Scale, has_resamples

HOLDS = "holds at this scale"
FAILS = "fails at this scale"
UNDECIDED = "undecided"
NOT_RUN = "not run"
WORDS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
OVER_IMAGES = "images, one training"
NO_GPU = "the claim is about a GPU, and this is another processor"
ALL_UNSTEADY = "no file was measured on a machine steady enough for an interval"
NO_RESAMPLES = "one training seed, and the Records keep no resampled APs: no interval"
LEAST_AP = 20.0  # points; a margin in points means little for a model that finds next to nothing


@dataclass(frozen=True)
class Effect:
    """An effect in the unit of its comparison, with the ends of its 95 % interval; None where there
    is no interval, and ``told`` says why.
    """

    value: float
    low: float | None
    high: float | None
    over: str = ""  # what the interval is over: "3 training seeds", "10 files", ...
    told: str = ""  # why there is no interval, or what else belongs to the effect
    seeds: bool = False  # whether the interval is over trainings
    pairs: int = 0  # from which the effect was computed


@dataclass(frozen=True)
class Finding:
    """A comparison on one data set and split; without Records ``scale`` and ``effect`` are None and
    the word is NOT_RUN.

    ``votes``: whether the finding could decide, so that it counts in the verdict of the claim.
    ``reason``: why it could not, or what belongs to the effect.
    """

    comparison: Comparison
    word: str
    scale: Scale | None = None
    effect: Effect | None = None
    pairs: int = 0
    reason: str = ""
    votes: bool = False


@dataclass(frozen=True)
class Judged:
    """A claim with its findings."""

    claim: Claim
    findings: tuple[Finding, ...]

    @property
    def word(self) -> str:
        """FAILS if a part fails, HOLDS if all parts hold, NOT_RUN if none was run, else UNDECIDED.

        A part is a comparison, or a comparison with one rival. A part holds or fails if all of its
        findings that could decide agree.
        """
        parts: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            against = finding.scale.against if finding.scale else ""
            parts.setdefault((finding.comparison.id, against), []).append(finding)
        words = {_agreed(part) for part in parts.values()}
        if FAILS in words:
            return FAILS
        return words.pop() if len(words) == 1 else UNDECIDED


def _agreed(findings: Sequence[Finding]) -> str:
    """The word of all findings of a part."""
    if all(finding.word == NOT_RUN for finding in findings):
        return NOT_RUN
    words = {finding.word for finding in findings if finding.votes}
    return words.pop() if len(words) == 1 else UNDECIDED


def judged(records: Sequence[Record], claims: Sequence[Claim] | None = None) -> list[Judged]:
    """Each of ``claims`` (None: all) with what the Records say about it."""
    own = [record for record in records if record.published is None]
    return [
        Judged(claim, tuple(one for part in claim.comparisons for one in findings(part, own)))
        for claim in (CLAIMS if claims is None else claims)
    ]


def findings(comparison: Comparison, records: Sequence[Record]) -> list[Finding]:
    """The findings of a comparison, one per data set and split; a single NOT_RUN without pairs."""
    if isinstance(comparison.pairing, Aggregate):
        return _aggregated(comparison, comparison.pairing.across(records))
    by_scale: dict[Scale, list[Pair]] = {}
    if comparison.pairing is not None:
        for pair in comparison.pairing.pairs(records):
            if comparison.measure == TAIL and not all(map(_has_tail, pair[:2])):
                continue
            by_scale.setdefault(_scale(comparison, pair), []).append(pair)
    found = [_finding(comparison, scale, pairs) for scale, pairs in by_scale.items()]
    return found or [Finding(comparison, NOT_RUN, reason=comparison.missing)]


def _aggregated(comparison: Comparison, effects: Sequence[Across]) -> list[Finding]:
    """The findings of a comparison that is computed as a whole."""
    found = []
    for one in effects:
        if one.value is None:
            told = Finding(comparison, UNDECIDED, one.scale, None, one.number, one.reason)
            found.append(told)
            continue
        ends = one.low, one.high
        effect = Effect(one.value, *ends, one.over, one.reason, pairs=one.number)
        found.append(_told(comparison, one.scale, effect, one.barred))
    return found or [Finding(comparison, NOT_RUN, reason=comparison.missing)]


def _told(
    comparison: Comparison, scale: Scale, effect: Effect, barred: str = "", notes: str = ""
) -> Finding:
    """The finding for an effect. ``barred``: why the effect may decide nothing; ``notes``: what
    belongs to the effect.
    """
    if effect.low is None or effect.high is None:
        return Finding(comparison, UNDECIDED, scale, effect, effect.pairs, effect.told)
    reason = "; ".join(filter(None, (barred, effect.told, notes)))
    if barred:
        return Finding(comparison, UNDECIDED, scale, effect, effect.pairs, reason)
    word = word_of(comparison.expected, effect.low, effect.high)
    return Finding(comparison, word, scale, effect, effect.pairs, reason, votes=True)


def word_of(expected: Expected, low: float, high: float) -> str:
    """HOLDS where the whole interval lies in the expected region, FAILS where it lies wholly
    outside, else UNDECIDED.
    """
    above = expected.least is None or low > expected.least
    below = expected.most is None or high < expected.most
    if above and below:
        return HOLDS
    under = expected.least is not None and high < expected.least
    over = expected.most is not None and low > expected.most
    return FAILS if under or over else UNDECIDED


def _scale(comparison: Comparison, pair: Pair) -> Scale:
    """The scale of a pair. Latencies of one file are the same on every split."""
    if comparison.measure == AP:
        scale = pair.scale
        steps = scale.training.partition(" from ")[0]
        return scale._replace(training=steps) if comparison.own_start else scale
    machine = pair.second.machine
    place = "unknown machine" if machine is None else (machine.gpu or machine.cpu)
    return Scale(place, "", None, False)


def _finding(comparison: Comparison, scale: Scale, pairs: Sequence[Pair]) -> Finding:
    if comparison.measure == AP:
        return _set_aside(_ap_finding(comparison, scale, pairs), comparison.aside)
    change = _tail_change if comparison.measure == TAIL else _change
    steady = [pair for pair in pairs if _is_steady(pair)]
    if not steady:
        mean_change = sum(map(change, pairs)) / len(pairs)
        effect = Effect(mean_change, None, None, told=ALL_UNSTEADY, pairs=len(pairs))
        return _told(comparison, scale, effect)
    effect = _latency_effect(steady, change, len(pairs) - len(steady))
    found = _told(comparison, scale, effect)
    on_gpu = all(pair.second.machine is not None and pair.second.machine.gpu for pair in pairs)
    return _set_aside(found, NO_GPU if comparison.of_gpu and not on_gpu else "")


def _set_aside(found: Finding, reason: str) -> Finding:
    """The finding without a part in the verdict of the claim, if there is a reason for that."""
    if not found.votes or not reason:
        return found
    told = "; ".join(filter(None, (reason, found.reason)))
    return replace(found, votes=False, reason=told)


def _ap_finding(comparison: Comparison, scale: Scale, every: Sequence[Pair]) -> Finding:
    pairs = _accurate_enough(every) if comparison.expected.margin else every
    effect = _ap_effect(pairs or every)
    if not pairs:
        barred = f"no pair has the AP of {LEAST_AP:g} that a margin in points needs"
        return _told(comparison, scale, effect, barred)
    if comparison.of_training and not effect.seeds:
        barred = f"a claim about training needs {FEWEST_SEEDS} seeds"
        return _told(comparison, scale, effect, barred)
    notes = ""
    if len(pairs) < len(every):
        notes = f"only pairs with an AP of {LEAST_AP:g} or more"
    return _told(comparison, scale, effect, notes=notes)


def _accurate_enough(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of architectures whose first side has, in the mean over seeds, :data:`LEAST_AP`."""
    aps: dict[tuple[Arch | None, Arch | None], list[float]] = {}
    for pair in pairs:
        aps.setdefault(_archs(pair), []).append(100 * pair.first.as_accuracy().ap)
    return [pair for pair in pairs if mean(aps[_archs(pair)]) >= LEAST_AP]


def _archs(pair: Pair) -> tuple[Arch | None, Arch | None]:
    return pair.first.model.arch, pair.second.model.arch


def _ap_effect(pairs: Sequence[Pair]) -> Effect:
    """Difference of AP in points."""
    by_seed: dict[int, list[float]] = {}
    for pair in pairs:
        if pair.seed is not None:
            by_seed.setdefault(pair.seed, []).append(pair.gain)
    if len(by_seed) >= FEWEST_SEEDS:
        value, low, high, told = seeded_mean([sum(one) / len(one) for one in by_seed.values()])
        over = plural(len(by_seed), "training seed")
        return Effect(value, low, high, over, told, low is not None, len(pairs))
    return _over_images(pairs)


def _over_images(pairs: Sequence[Pair]) -> Effect:
    """The mean over the pairs of one training whose APs were resampled on the same draws; of
    several trainings, the one with the most such pairs.
    """
    groups: dict[object, list[Pair]] = {}
    for pair in pairs:
        if pair.base is None and has_resamples(pair.first) and has_resamples(pair.second):
            groups.setdefault(_weights(pair), []).append(pair)
    best = max(groups.values(), key=len, default=[])
    found = mean_difference([(pair.first.accuracy, pair.second.accuracy) for pair in best])
    if found is None:
        value = sum(pair.gain for pair in pairs) / len(pairs)
        return Effect(value, None, None, told=NO_RESAMPLES, pairs=len(pairs))
    told = ""
    others = {_weights(pair) for pair in pairs} - {_weights(pair) for pair in best}
    if others:
        told = f"left out: {plural(len(others), 'other training')}"
    ends = 100 * found.low, 100 * found.high
    return Effect(100 * found.mean, *ends, OVER_IMAGES, told, pairs=len(best))


def _change(pair: Pair) -> float:
    """Relative difference of the median latency in percent."""
    return 100 * (pair.second.as_latency().ms / pair.first.as_latency().ms - 1)


def _has_tail(record: Record) -> bool:
    return record.as_latency().latency.p90_ms is not None


def _tail_change(pair: Pair) -> float:
    """Difference of how far the 90th percentile lies above the median, in percent of the
    median.
    """
    first, second = (
        (timed.latency.p90_ms or timed.ms) / timed.ms
        for timed in (pair.first.as_latency(), pair.second.as_latency())
    )
    return 100 * (second - first)


def _is_steady(pair: Pair) -> bool:
    """Whether both medians have an interval, which an unsteady machine does not allow."""
    return all(record.as_latency().latency.ci_low_ms is not None for record in pair[:2])


def _latency_effect(
    pairs: Sequence[Pair], change: Callable[[Pair], float], unsteady: int
) -> Effect:
    """The mean change of a latency in percent, over files. ``unsteady``: number of files that were
    left out.
    """
    changes = [change(pair) for pair in pairs]
    sessions = {
        record.latency.session
        for pair in pairs
        for record in pair[:2]
        if record.latency is not None
    }
    stated = "unknown sessions" if None in sessions else plural(len(sessions), "session")
    found = seeded_mean(changes)
    if len(changes) < FEWEST_SEEDS or found.low is None:
        told = f"{plural(len(changes), 'file')}: no interval"
        return Effect(found.value, None, None, told=told, pairs=len(changes))
    told = ""
    if unsteady:
        told = f"left out: {plural(unsteady, 'file')}, measured on an unsteady machine"
    over = f"{len(changes)} files, {stated}"
    return Effect(found.value, found.low, found.high, over, told, pairs=len(changes))


def _weights(pair: Pair) -> object:
    return pair.first.model.checkpoint_sha256, pair.second.model.checkpoint_sha256
