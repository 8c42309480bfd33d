"""How often the product's intervals hold the truth, and its verdicts are false or find what is
there, on simulated latencies.

    python -m benchmarks.studies.interval_coverage                # the table; takes minutes
    python -m benchmarks.studies.interval_coverage --trials 100   # a quick look

The table has 1,000 trials of each cell. Every trial simulates the samples that a protocol of this
project takes, of noise whose true median is known, and asks the functions that make Records and
verdicts: ``pooled_interval``,
``compare_series``, ``compare_sessions``, ``StopRule``. Columns: *stated*, trials with an interval;
*coverage*, those of them whose 95 % interval holds the true median; *false*, FASTER or SLOWER
between two equal models; *2 % found*, SLOWER for a model that is 2 % slower. Wanted: coverage of 90
to 97 %, at most 5 % false, at least 90 % found by the default comparison at its full length.

Noise is 1 % per sample (standard deviation of the logarithm). Kinds: independent samples; a level
of its own for every block; first-order autoregression; a machine that drifts by 2 %; a level of its
own for every build; rounds that hit all builds alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import lfilter

from rfdetr_repro.bench.command.protocols import BUILDS
from rfdetr_repro.bench.loop import StopRule
from rfdetr_repro.records.samples import BLOCK, Series
from rfdetr_repro.records.statistics import compare_series, compare_sessions, pooled_interval
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.protocol import Protocol

Array = np.ndarray[Any, Any]
TRUE_MS = 10.0
NOISE = 0.01
DIFFERENCE = 0.02
DECIDED = ("FASTER", "SLOWER")


class Layout(NamedTuple):
    """How many samples a protocol takes of a build.

    With ``least`` the stop rule may end it after so many.
    """

    name: str
    builds: int
    samples: int
    least: int | None = None


LAYOUTS = (
    Layout("campaign, buffered", EMBEDDED.buffered.builds, EMBEDDED.buffered.max_samples),
    Layout("campaign, sustained", EMBEDDED.sustained.builds, EMBEDDED.sustained.max_samples),
    Layout("bench, shortest", BUILDS, Protocol.min_samples),
    Layout("bench, longest", BUILDS, Protocol.max_samples),
)
STOPPING = Layout("bench, by its stop rule", BUILDS, Protocol.max_samples, Protocol.min_samples)


def independent(rng: np.random.Generator, builds: int, samples: int) -> Array:
    """Logarithms, float64 (builds, samples), of one model; as all kinds of noise."""
    return rng.normal(0, NOISE, (builds, samples))


def levels_of_blocks(effect: float) -> Callable[..., Array]:
    """Noise in which each block of samples has a level of its own."""

    def noise(rng: np.random.Generator, builds: int, samples: int) -> Array:
        levels = rng.normal(0, effect, (builds, -(-samples // BLOCK)))
        return independent(rng, builds, samples) + np.repeat(levels, BLOCK, axis=1)[:, :samples]

    return noise


def autoregression(phi: float) -> Callable[..., Array]:
    """Noise in which neighbouring samples correlate with the coefficient ``phi``."""

    def noise(rng: np.random.Generator, builds: int, samples: int) -> Array:
        steps = rng.normal(0, NOISE * np.sqrt(1 - phi**2), (builds, samples))
        steps[:, 0] /= np.sqrt(1 - phi**2)  # as if it had run for ever
        return np.asarray(lfilter([1.0], [1.0, -phi], steps, axis=1))

    return noise


def levels_of_builds(effect: float) -> Callable[..., Array]:
    """Noise in which each build has a level of its own."""

    def noise(rng: np.random.Generator, builds: int, samples: int) -> Array:
        return levels_of_blocks(NOISE)(rng, builds, samples) + rng.normal(0, effect, (builds, 1))

    return noise


def drift(change: float) -> Callable[..., Array]:
    """Noise with a linear drift by ``change`` in all."""

    def noise(rng: np.random.Generator, builds: int, samples: int) -> Array:
        return independent(rng, builds, samples) + np.linspace(-change / 2, change / 2, samples)

    return noise


def rounds_in_common(effect: float) -> Callable[..., Array]:
    """Noise in which all builds share the level of a round."""

    def noise(rng: np.random.Generator, builds: int, samples: int) -> Array:
        levels = np.repeat(rng.normal(0, effect, -(-samples // BLOCK)), BLOCK)[:samples]
        return independent(rng, builds, samples) + levels

    return noise


KINDS: dict[str, Callable[..., Array]] = {
    "independent": independent,
    "blocks 1 %": levels_of_blocks(0.01),
    "blocks 2 %": levels_of_blocks(0.02),
    "blocks 3 %": levels_of_blocks(0.03),
    "AR(1) 0.5": autoregression(0.5),
    "AR(1) 0.8": autoregression(0.8),
    "AR(1) 0.95": autoregression(0.95),
    "drift 2 %": drift(0.02),
    "builds 0.5 %": levels_of_builds(0.005),
    "builds 1 %": levels_of_builds(0.01),
    "rounds 1 %": rounds_in_common(0.01),
}


class Rates(NamedTuple):
    """Parts of the trials; ``coverage`` of those with an interval."""

    stated: float
    coverage: float
    false: float
    found: float
    half_width: float  # median over the trials, as a part of the true median
    samples: float  # mean per build


def series_of(logs: Array) -> Series:
    """Logarithms (builds, samples) around the true median -> a series."""
    return Series.pooled([Series.of(TRUE_MS * np.exp(build)) for build in logs])


def rates(layout: Layout, noise: Callable[..., Array], trials: int, seed: int) -> Rates:
    """Two models in each trial, with noise of their own."""
    rng = np.random.default_rng(seed)
    intervals = []
    false = 0
    found = 0
    taken = 0
    for _ in range(trials):
        first, second = (noise(rng, layout.builds, layout.samples) for _ in range(2))
        if layout.least is not None:
            first, second = (_stopped(logs, layout) for logs in (first, second))
        taken += first.shape[1]
        one = series_of(first)
        other = series_of(second)
        intervals.append(pooled_interval(one))
        false += compare_series(one, other).word in DECIDED
        found += compare_series(series_of(first + np.log1p(DIFFERENCE)), other).word == "SLOWER"
    stated = [interval for interval in intervals if interval is not None]
    held = sum(interval.low <= TRUE_MS <= interval.high for interval in stated)
    width = (
        float(np.median([interval.high - interval.low for interval in stated])) / 2 / TRUE_MS
        if stated
        else float("nan")
    )
    coverage = held / len(stated) if stated else float("nan")
    return Rates(
        len(stated) / trials, coverage, false / trials, found / trials, width, taken / trials
    )


def _stopped(logs: Array, layout: Layout) -> Array:
    """What the stop rule leaves: it looks after every block."""
    assert layout.least is not None
    rule = StopRule(layout.least, layout.samples, Protocol.relative_ci, Protocol.timeout_s)
    for count in range(layout.least, layout.samples, BLOCK):
        builds = [Series.of(TRUE_MS * np.exp(build[:count])) for build in logs]
        if rule.settled(builds):
            return logs[:, :count]
    return logs


def session_rates(
    sessions: int, effect: float, trials: int, seed: int, difference: float = 0.0
) -> float:
    """Part of the trials that decide between two sides of so many sessions, each with a level of
    its own.
    """
    rng = np.random.default_rng(seed)
    decided = 0
    for _ in range(trials):
        sides = []
        for shift in (np.log1p(difference), 0.0):
            levels = rng.normal(0, effect, sessions) + shift
            sides.append(
                [series_of(independent(rng, 1, Protocol.min_samples) + level) for level in levels]
            )
        decided += compare_sessions(*sides).word in DECIDED
    return decided / trials


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of coverages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=1000,
        help="of each cell (default 1000: 0.7 %% standard error)",
    )
    parser.add_argument(
        "--stopping-trials",
        type=int,
        default=200,
        help="of the cells with the stop rule, which take longer",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.trials, args.stopping_trials) < 1:
        parser.error("at least one trial of each cell is needed")
    print(
        "| samples | noise | stated | coverage | false | 2 % found | half-width | samples of a "
        "build |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for layout in (*LAYOUTS, STOPPING):
        trials = args.trials if layout.least is None else args.stopping_trials
        for kind, noise in KINDS.items():
            if layout.least is not None and kind.startswith("drift"):
                continue  # the true median would be another one for every length
            found = rates(layout, noise, trials, args.seed)
            cells = [f"{layout.name}: {layout.builds} x {layout.samples}", kind]
            cells += [
                f"{part:.1%}" for part in (found.stated, found.coverage, found.false, found.found)
            ]
            print(
                "| "
                + " | ".join([*cells, f"{found.half_width:.2%}", f"{found.samples:.0f}"])
                + " |",
                flush=True,
            )
    for sessions in (1, 2, 3, 5):
        false = session_rates(sessions, 0.03, args.stopping_trials, args.seed)
        power = session_rates(sessions, 0.03, args.stopping_trials, args.seed, 0.2)
        print(
            f"sessions 3 % apart, {sessions} of each side: {false:.1%} false, a difference of 20 % "
            f"decided in {power:.1%}"
        )


if __name__ == "__main__":
    main()
