"""Regret of search methods on the benchmark over the image evaluations that they paid.

A method's regret after some evaluations is the part of the exhaustive search's hypervolume (AP from
0, latency up to 5 % beyond the slowest architecture) that the architectures it recommends then do
not cover, by their true AP on the whole split.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rfdetr_repro.nasbench.bench import NasBench
from rfdetr_repro.records.seeds import seeded_mean
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.errors import InputError

from .hypervolume import hypervolume
from .nasbench_methods import METHODS, Step, Trial

Array = np.ndarray[Any, Any]
# parts of the exhaustive search's image evaluations at which regret is stated
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
LOST = 0.005  # regret that counts as found


@dataclass(frozen=True)
class Curve:
    """What repeated runs of one method did.

    ``regret``: float64 (runs, shares), NaN before the first recommendation. ``evaluations``: paid
    by each run in all, as a part of the exhaustive search's, (runs,). ``passes``: the same of
    backbone passes, of which one serves all architectures of the backbone, (runs,). ``found``: part
    after which regret stays at or below LOST, NaN where it never does, (runs,). ``decisions_s``:
    CPU time of each run without the benchmark's answers, (runs,).
    """

    method: str
    regret: Array
    evaluations: Array
    passes: Array
    found: Array
    decisions_s: Array


def run_method(
    method: str, bench: NasBench, space: SearchSpace, on: str, seed: int, repeat: int
) -> tuple[list[Step], int, float]:
    """The recommendations of one run, the backbone passes that its evaluations need, and the CPU
    time in s of its decisions.
    """
    own = replace(bench, evaluations=0, queries=0, _paid={})
    latency_ms = {arch: bench.latency(arch, on).ms for arch in space}
    trial = Trial(own, space, latency_ms, seed, random.Random(repeat))
    began = time.process_time()
    METHODS[method](trial)
    return trial.steps, own.passes, time.process_time() - began - trial.answers_s


def curve(
    method: str,
    bench: NasBench,
    space: SearchSpace,
    on: str = "onnxruntime-1",
    seed: int = 0,
    repeats: int = 10,
) -> Curve:
    """Regret of ``repeats`` runs of a method that searches ``space`` with the latencies of ``on``.

    Raises :class:`InputError` for an unknown method, and where the benchmark does not hold what is
    asked.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}", hint=f"choose one of {', '.join(METHODS)}")
    latency_ms = {arch: bench.latency(arch, on).ms for arch in space}
    part = bench.part(seed)
    exact = {arch: float(part.ap[bench.place(arch), 0]) for arch in space}
    whole = hypervolume(exact, latency_ms)
    images = len(exact) * part.images
    backbones = len({arch.backbone for arch in exact})
    rows, spent, passes, found, decisions = [], [], [], [], []
    for repeat in range(repeats):
        steps, passed, seconds = run_method(method, bench, space, on, seed, repeat)
        paid = np.array([step.evaluations for step in steps]) / images
        lost = np.array(
            [
                1
                - hypervolume({arch: exact[arch] for arch in step.recommended}, latency_ms) / whole
                for step in steps
            ]
        )
        rows.append(at_shares(paid, lost))
        spent.append(paid[-1])
        passes.append(passed / (backbones * part.images))
        found.append(found_after(paid, lost))
        decisions.append(seconds)
    columns = (rows, spent, passes, found, decisions)
    return Curve(method, *(np.array(column) for column in columns))


def at_shares(paid: Array, lost: Array, shares: Sequence[float] = SHARES) -> Array:
    """Regret of the last recommendation at each share; NaN before the first."""
    places = np.searchsorted(paid, np.asarray(shares) + 1e-12, side="right") - 1
    return np.where(places >= 0, lost[np.maximum(places, 0)], np.nan)


def found_after(paid: Array, lost: Array) -> float:
    """Part of the evaluations after which regret stays at or below LOST; NaN if it never does."""
    bad = np.flatnonzero(lost > LOST)
    first = bad[-1] + 1 if len(bad) else 0
    return float(paid[first]) if first < len(paid) else float("nan")


def mean_and_reach(values: Array) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval by Student's t; NaN with fewer than two values, or
    where one is NaN.
    """
    if len(values) < 2 or np.isnan(values).any():
        return float("nan"), float("nan")
    found = seeded_mean(values.tolist())
    return found.value, 0.0 if found.low is None else found.value - found.low
