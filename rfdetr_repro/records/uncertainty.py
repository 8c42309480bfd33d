"""How far a median may be off, from blocks of neighbouring samples, of one build or several.

Neighbours in time share the state of the machine, so the unit of observation is a block of samples,
never a single sample. The spread of the blocks' medians is widened, where the data show it, by:

* *Dependence between blocks*: correlation of neighbouring blocks, corrected for the bias that few
  blocks give; where the series runs on smoothly across the blocks' edges, also the correlation that
  a first-order autoregression of the samples implies.
* *Builds*: another session or engine of the same file. Their variance is added unless an F test
  clearly denies it.
* *Rounds*: effects of the machine on all interleaved builds at once, in the same way.

The interval is Student's: an estimate of spread from few observations is itself uncertain, and the
degrees of freedom (after Satterthwaite) measure how much. Everything is in logarithms, so
differences are ratios. ``benchmarks/studies/interval_coverage.py`` shows how often intervals hold
the truth and verdicts are false.

Sources: Kendall 1954 (bias of an estimated autocorrelation), Satterthwaite 1946, Bancroft 1944
(pooling after a test).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # its subpackages are loaded when they are used

from .samples import BLOCK, Series

Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
LEAST_BLOCKS = 4  # of every build; fewer blocks do not determine a spread
# pieces that a series of fewer than LEAST_BLOCKS blocks is cut into, where it has enough samples
PIECES = 32
POOL = 0.2  # level of the test above which builds, or rounds, count as equal
EDGE = 0.05  # level of the test that a series jumps at the edges of its blocks
# standard deviations (by the median deviation) at which samples are clipped before correlations are
# computed
CLIP = 3.0
_NORMAL_QUARTILE = 0.6745
_MOST_CORRELATION = 0.98
_LEAST_MS = 1e-6  # so that a clock that did not move has a logarithm


class Run(NamedTuple):
    """One build, or the difference of two builds that were measured in turns, in order of time.

    All values are logarithms.
    """

    medians: Array  # float64 (blocks,)
    # int64 (blocks,): blocks of several builds with equal numbers were taken next to each other
    rounds: Array
    samples: Array  # float64 (n,)
    starts: Array  # bool (n,): first sample of a block


class Spread(NamedTuple):
    """Standard ``error`` of a mean of block medians (a logarithm) with its degrees of freedom."""

    error: float
    degrees: float
    blocks: int
    builds: int
    effective_blocks: float  # number of independent blocks that determine the spread as well

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval, a logarithm."""
        return float(scipy.special.stdtrit(self.degrees, (1 + CONFIDENCE) / 2)) * self.error


def runs_of(series: Series, *, of_mean: bool = False) -> list[Run]:
    """One run per build of the series; ``of_mean``: by the means of the blocks instead of their
    medians, for a rate, to which every sample contributes.
    """
    logs = np.log(np.maximum(series.ms, _LEAST_MS))
    runs = []
    for build in dict.fromkeys(series.build.tolist()):
        in_build = series.build == build
        samples = logs[in_build]
        rounds = series.block[in_build]
        starts = np.concatenate([[True], rounds[1:] != rounds[:-1]])
        if starts.sum() < LEAST_BLOCKS:
            starts, rounds = _cut(len(samples))
        centres = _log_means(samples, starts) if of_mean else _medians(samples, starts)
        runs.append(Run(centres, rounds[starts], samples, starts))
    return runs


def paired(first: Series, second: Series) -> list[Run]:
    """Differences (first - second) by the (build, block) pairs that both series have; empty if a
    build has too few of them.
    """
    if np.array_equal(first.build, second.build) and np.array_equal(first.block, second.block):
        if (
            min(
                len(set(first.block[first.build == build].tolist()))
                for build in set(first.build.tolist())
            )
            < LEAST_BLOCKS
        ):
            return []
        return [
            Run(one.medians - other.medians, one.rounds, one.samples - other.samples, one.starts)
            for one, other in zip(runs_of(first), runs_of(second), strict=True)
        ]
    runs = []
    for build in dict.fromkeys(first.build.tolist()):
        ours = _rounds(first, build)
        theirs = _rounds(second, build)
        common = [number for number in ours if number in theirs]
        if len(common) < LEAST_BLOCKS:
            return []
        parts = []
        medians = []
        for number in common:
            one = ours[number]
            other = theirs[number]
            medians.append(np.median(one) - np.median(other))
            shorter = min(len(one), len(other))
            parts.append(one[:shorter] - other[:shorter])
        starts = np.zeros(sum(map(len, parts)), bool)
        starts[np.cumsum([0, *map(len, parts[:-1])])] = True
        runs.append(Run(np.asarray(medians), np.asarray(common), np.concatenate(parts), starts))
    return runs


def too_few(runs: Sequence[Run]) -> str:
    """Why the spread cannot be determined; empty if it can."""
    least = min((len(run.medians) for run in runs), default=0)
    if least < LEAST_BLOCKS:
        return f"{least} blocks of {BLOCK} samples in a build, at least {LEAST_BLOCKS} are needed"
    return ""


def spread_of(runs: Sequence[Run], *, of_median: bool) -> Spread:
    """Spread of the mean of the blocks' medians.

    ``of_median``: spread of the median of all samples instead, which is a little less certain.
    ``runs`` have at least LEAST_BLOCKS blocks each (:func:`too_few`).
    """
    number = len(runs)
    counts = np.asarray([len(run.medians) for run in runs])
    blocks = float(counts.mean())
    squares = sum(float(((run.medians - run.medians.mean()) ** 2).sum()) for run in runs)
    variance = squares / (counts.sum() - number)
    factor = _inflation(runs, blocks)
    extra = _extra_of_median(runs) if of_median else 0.0
    effective = max(blocks / factor, 1.0)

    within = (variance * factor + extra) / blocks / number
    total = within
    degrees = max(number * (effective - 1), 1.0)
    if number > 1:
        total, degrees = _with_builds_and_rounds(runs, within, degrees, factor, extra, effective)
    degrees, count = max(degrees, 1.0), int(counts.sum())
    return Spread(math.sqrt(total), degrees, count, number, min(degrees + 1, float(count)))


def together(one: Spread, other: Spread) -> Spread:
    """Spread of the difference of two means that were measured separately (Welch)."""
    error = math.hypot(one.error, other.error)
    if not error:
        return Spread(
            0.0,
            one.degrees + other.degrees,
            one.blocks + other.blocks,
            min(one.builds, other.builds),
            0.0,
        )
    degrees = error**4 / (one.error**4 / one.degrees + other.error**4 / other.degrees)
    effective = min(one.effective_blocks, other.effective_blocks)
    return Spread(
        error, degrees, min(one.blocks, other.blocks), min(one.builds, other.builds), effective
    )


def _with_builds_and_rounds(
    runs: Sequence[Run],
    within: float,
    degrees: float,
    factor: float,
    extra: float,
    effective: float,
) -> tuple[float, float]:
    """(variance of the mean over builds and rounds, degrees of freedom)."""
    number = len(runs)
    of_builds = float(np.var([run.medians.mean() for run in runs], ddof=1)) / number
    found = [(of_builds, number - 1.0)]
    base = within
    base_degrees = degrees
    common = sorted(set.intersection(*(set(run.rounds.tolist()) for run in runs)))
    table = (
        np.stack([run.medians[np.isin(run.rounds, common)] for run in runs])
        if len(common) >= LEAST_BLOCKS
        else None
    )
    if table is not None and table.shape[1] == len(common):
        rounds = len(common)
        mean = table.mean(axis=0)
        of_rounds = (float(mean.var(ddof=1)) * factor + extra / number) / rounds
        rest = table - table.mean(axis=1, keepdims=True) - mean + table.mean()
        residual = float((rest**2).sum()) / ((number - 1) * (rounds - 1))
        alone = (residual * factor + extra) / rounds / number
        alone_degrees = max((number - 1) * (effective - 1), 1.0)
        found.append((of_rounds, max(effective - 1, 1.0)))
        if _exceeds(of_rounds, alone, max(effective - 1, 1.0), alone_degrees):
            # the rounds' part is taken out, and comes back below
            base = alone
            base_degrees = alone_degrees
    total = base
    denominator = base**2 / base_degrees
    for part, part_degrees in found:
        if _exceeds(part, base, part_degrees, base_degrees):
            total += part - base
            denominator += part**2 / part_degrees
    return total, (total**2 / denominator if denominator > 0 else degrees)


def _exceeds(part: float, base: float, part_degrees: float, base_degrees: float) -> bool:
    """Whether a variance is larger than another beyond what a test at the level POOL lets pass."""
    if part <= base:
        return False
    return base == 0 or float(scipy.special.fdtrc(part_degrees, base_degrees, part / base)) < POOL


def _inflation(runs: Sequence[Run], blocks: float) -> float:
    """Variance of the mean of ``blocks`` dependent block medians, as a multiple of the variance for
    independent blocks.
    """
    average = _average_correlation(_neighbour_correlation(runs, blocks), blocks)
    if _smooth(runs):
        average = max(average, _implied_correlation(runs, blocks))
    return (1 + (blocks - 1) * average) / (1 - average)


def _neighbour_correlation(runs: Sequence[Run], blocks: float) -> float:
    """Between blocks that follow each other, 0 .. _MOST_CORRELATION."""
    centred = [run.medians - run.medians.mean() for run in runs]
    squares = sum(float(part @ part) for part in centred)
    if not squares:
        return 0.0
    raw = sum(float(part[1:] @ part[:-1]) for part in centred) / squares
    unbiased = raw + 1 / blocks
    if blocks > LEAST_BLOCKS:
        unbiased /= 1 - 3 / blocks
    return min(max(unbiased, 0.0), _MOST_CORRELATION)


def _average_correlation(neighbours: float, blocks: float) -> float:
    """Over all pairs of ``blocks`` blocks, where the correlation falls geometrically with their
    distance.
    """
    lags = np.arange(1, round(blocks))
    if not neighbours or not len(lags):
        return 0.0
    return float(2 * ((blocks - lags) * neighbours**lags).sum() / (blocks * (blocks - 1)))


def _smooth(runs: Sequence[Run]) -> bool:
    """Whether the steps from the end of a block to the start of the next are no larger than those
    inside a block.
    """
    inside = []
    across = []
    for run in runs:
        steps = np.diff(_clipped(run.samples)) ** 2
        across.append(steps[run.starts[1:]])
        inside.append(steps[~run.starts[1:]])
    edges = np.concatenate(across)
    inner = np.concatenate(inside)
    if not len(edges) or not len(inner) or not inner.mean():
        return not len(edges) or not edges.mean()
    # neighbouring squared differences share a sample: two thirds of them are worth a degree of
    # freedom
    return (
        float(
            scipy.special.fdtrc(
                len(edges), max(len(inner) * 2 / 3, 1.0), edges.mean() / inner.mean()
            )
        )
        > EDGE
    )


def _implied_correlation(runs: Sequence[Run], blocks: float) -> float:
    """Average correlation between blocks of a first-order autoregression with the samples' own
    correlation.
    """
    length = float(np.mean([len(run.samples) for run in runs]))
    centred = [part - part.mean() for part in (_clipped(run.samples) for run in runs)]
    squares = sum(float(part @ part) for part in centred)
    if not squares or length <= 4:
        return 0.0
    raw = sum(float(part[1:] @ part[:-1]) for part in centred) / squares
    phi = min(max((raw * length + 1) / (length - 3), 0.0), 0.995)
    ratio = _variance_of_mean(phi, length) / _variance_of_mean(phi, length / blocks) * blocks
    return min(max((ratio - 1) / (blocks - 1), 0.0), 0.99)


def _variance_of_mean(phi: float, length: float) -> float:
    """Of ``length`` neighbours of a first-order autoregression with variance 1."""
    return (
        (1 + phi) / (1 - phi) - 2 * phi * (1 - phi**length) / (length * (1 - phi) ** 2)
    ) / length


def _extra_of_median(runs: Sequence[Run]) -> float:
    """Variance of a block that the median of all samples has beyond the mean of block medians, for
    normal noise.
    """
    steps = np.concatenate([np.abs(np.diff(run.samples))[~run.starts[1:]] for run in runs])
    if not len(steps):
        return 0.0
    noise = (float(np.median(steps)) / _NORMAL_QUARTILE) ** 2 / 2
    size = sum(len(run.samples) for run in runs) / sum(len(run.medians) for run in runs)
    return math.pi / 2 * 1.3 / (size + 1.3) / size * noise


def _clipped(samples: Array) -> Array:
    centred = samples - np.median(samples)
    limit = CLIP * float(np.median(np.abs(centred))) / _NORMAL_QUARTILE
    return np.clip(centred, -limit, limit) if limit else centred


def _cut(count: int) -> tuple[Array, Array]:
    """(starts, rounds) of a series without blocks of its own, as of arrivals at a fixed rate."""
    pieces = max(1, min(PIECES, count // BLOCK))
    rounds = np.arange(count) * pieces // count
    return np.concatenate([[True], rounds[1:] != rounds[:-1]]), rounds


def _medians(samples: Array, starts: Array) -> Array:
    size, rest = divmod(len(samples), int(starts.sum()))
    if not rest and starts[::size].all():
        return np.median(samples.reshape(-1, size), axis=1)
    return np.asarray([np.median(part) for part in np.split(samples, np.flatnonzero(starts)[1:])])


def _log_means(samples: Array, starts: Array) -> Array:
    """Logarithms of the blocks' mean times; ``samples`` are logarithms of times."""
    first = np.flatnonzero(starts)
    sums = np.add.reduceat(np.exp(samples), first)
    return np.log(sums / np.diff([*first, len(samples)]))


def _rounds(series: Series, build: int) -> dict[int, Array]:
    """Round -> logarithms of its samples."""
    in_build = series.build == build
    logs = np.log(np.maximum(series.ms[in_build], _LEAST_MS))
    rounds = series.block[in_build]
    edges = np.flatnonzero(rounds[1:] != rounds[:-1]) + 1
    firsts = rounds[np.concatenate([[0], edges])] if len(rounds) else []
    return (
        dict(zip(np.asarray(firsts).tolist(), np.split(logs, edges), strict=True))
        if len(rounds)
        else {}
    )
