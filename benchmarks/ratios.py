"""The ratio of two calls' times on a busy machine: they take turns, and whole rounds are drawn
again for the interval.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2000
Samples = np.ndarray[Any, Any]  # float64 (rounds, calls of a round) ms


class Ratio(NamedTuple):
    """Median of the first over median of the second, with its 95 % interval, and the ratio of their
    best times.
    """

    median: float
    low: float
    high: float
    best: float

    def __str__(self) -> str:
        return f"{self.median:.4f} ({self.low:.4f} to {self.high:.4f}), best {self.best:.4f}"


def turns_ms(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    each: int = 1,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Samples]:
    """Times in ms (rounds, each): each call runs ``each`` times in a row per round, in a new order;
    one round more warms up.

    ``clock``: in seconds; ``time.process_time`` leaves out what other programs do meanwhile.
    """
    rng = random.Random(seed)
    found = {name: np.zeros((rounds + 1, each)) for name in calls}
    for number in range(rounds + 1):
        for name in rng.sample(list(calls), len(calls)):
            for sample in range(each):
                started = clock()
                calls[name]()
                found[name][number, sample] = 1e3 * (clock() - started)
    return {name: samples[1:] for name, samples in found.items()}


def ratio(first: Samples, second: Samples, seed: int = 0) -> Ratio:
    """Rounds are drawn as a whole, so what slowed both in one stays paired."""
    rounds = len(first)
    drawn = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
    medians = [
        np.median(samples[drawn].reshape(RESAMPLES, -1), axis=1) for samples in (first, second)
    ]
    low, high = np.quantile(medians[0] / medians[1], (0.025, 0.975))
    return Ratio(
        float(np.median(first) / np.median(second)),
        float(low),
        float(high),
        float(first.min() / second.min()),
    )
