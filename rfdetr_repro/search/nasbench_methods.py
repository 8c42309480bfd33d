"""Search methods on the benchmark, each paying image evaluations, and the frontier that each would
hand over after every payment.

All methods know the latencies, which cost nothing here, and look for the frontier of latency and
AP. A method is judged by the true frontier of what it recommends
(:func:`.nasbench_regret.regret`). Methods from the literature are written in their plain form:
random search; regularised evolution (Real et al. 2019), whose tournaments are decided by
non-domination; successive halving (Jamieson and Talwalkar 2016), which keeps the best by
non-dominated rank; Optuna's tree-structured Parzen estimator for two goals; and :mod:`.race`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from rfdetr_repro.evaluation.matches import THRESHOLDS, Matches, Objects
from rfdetr_repro.nasbench.bench import NasBench
from rfdetr_repro.nasbench.space import form
from rfdetr_repro.spec.arch import KNOBS, Arch, SearchSpace
from rfdetr_repro.spec.optional import optional_module

from .race import Rules, race

EARLY = (8, 16)  # images after which a race says what it would recommend, before it drops anything


class Step(NamedTuple):
    """What a method recommends after ``evaluations`` image evaluations."""

    evaluations: int
    recommended: tuple[Arch, ...]


@dataclass
class Trial:
    """One run of a method: a benchmark of its own, the space that is searched, the latencies in ms,
    and what has been seen: AP of each architecture asked for.
    """

    bench: NasBench
    space: SearchSpace
    latency_ms: dict[Arch, float]
    seed: int
    rng: random.Random
    seen: dict[Arch, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    answers_s: float = 0.0  # CPU time in s of the benchmark's answers

    def ask(self, arch: Arch, images: int | Sequence[int] | None = None) -> float:
        """AP of an architecture on the first ``images``; seen from now on."""
        began = time.process_time()
        answer = self.bench.query(arch, self.seed, images)
        self.seen[arch] = answer.ap or 0.0
        self.answers_s += time.process_time() - began
        return self.seen[arch]

    def recommend(self, archs: Sequence[Arch] | None = None) -> None:
        """Notes the frontier of all architectures seen, or of those among ``archs``."""
        found = list(self.seen) if archs is None else archs
        self.steps.append(Step(self.bench.evaluations, tuple(frontier(found, self))))


def frontier(archs: Sequence[Arch], trial: Trial) -> list[Arch]:
    """The architectures whose AP no faster one reaches, fastest first."""
    best = -1.0
    kept = []
    for arch in sorted(archs, key=lambda one: (trial.latency_ms[one], -trial.seen[one])):
        if trial.seen[arch] > best:
            best = trial.seen[arch]
            kept.append(arch)
    return kept


def random_search(trial: Trial) -> None:
    """Every architecture once, on all images, in random order."""
    for arch in trial.rng.sample(list(trial.space), len(trial.space)):
        trial.ask(arch)
        trial.recommend()


def evolution(trial: Trial, population: int = 20, sample: int = 5) -> None:
    """Regularised evolution: the oldest dies, the parent is the best of a random sample, a child
    differs in one knob. Ends when the whole space is seen, or after ten times as many children.
    """
    archs = list(trial.space)
    near = _neighbours(archs)
    alive = trial.rng.sample(archs, min(population, len(archs)))
    for arch in alive:
        trial.ask(arch)
        trial.recommend()
    for _ in range(10 * len(archs)):
        if len(trial.seen) == len(archs):
            break
        drawn = trial.rng.sample(alive, min(sample, len(alive)))
        parent = trial.rng.choice(frontier(drawn, trial))
        child = trial.rng.choice(near[parent] or archs)
        if child not in trial.seen:
            trial.ask(child)
            trial.recommend()
        alive = [*alive[1:], child]


def _neighbours(archs: Sequence[Arch]) -> dict[Arch, list[Arch]]:
    """The architectures of a space that differ from each in one knob."""
    knobs = np.array([list(arch.knobs().values()) for arch in archs])
    return {
        arch: [archs[place] for place in np.flatnonzero((knobs != own).sum(axis=1) == 1).tolist()]
        for arch, own in zip(archs, knobs, strict=True)
    }


def successive_halving(trial: Trial, first: float = 0.2, keep: float = 0.5) -> None:
    """All architectures on a fifth of the images, in random order, the better half on twice as
    many, and so on; the better half by non-dominated rank, and never less than the frontier.
    """
    alive = list(trial.space)
    images = trial.bench.part(trial.seed).images
    order = trial.rng.sample(range(images), images)
    seen = max(1, round(first * images))
    while True:
        for arch in alive:
            trial.ask(arch, order[:seen])
        trial.recommend(alive)
        if seen == images:
            return
        kept = max(round(keep * len(alive)), len(frontier(alive, trial)))
        alive = by_rank(alive, trial)[:kept]
        seen = min(images, round(seen / keep))


def by_rank(archs: Sequence[Arch], trial: Trial) -> list[Arch]:
    """The frontier, then the frontier of the others, and so on."""
    left = list(archs)
    ordered: list[Arch] = []
    while left:
        front = frontier(left, trial)
        ordered += front
        left = [arch for arch in left if arch not in front]
    return ordered


def parzen(trial: Trial) -> None:
    """Optuna's multi-objective TPE over the five knobs, which asks for some architectures again and
    pays nothing for that. Ends when the whole space is seen, or after ten times as many trials as
    the space has architectures. Raises :class:`InputError` without Optuna.
    """
    optuna = optional_module("optuna", "Optuna is not installed", "pip install optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=trial.rng.randrange(2**31))
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    known = {form(arch): arch for arch in trial.space}
    for _ in range(10 * len(trial.space)):
        if len(trial.seen) == len(trial.space):
            break
        one = study.ask()
        knobs = {
            name: one.suggest_categorical(name, list(axis))
            for name, axis in zip(KNOBS, vars(trial.space).values(), strict=True)
        }
        arch = known[form(Arch(**knobs))]
        study.tell(one, [trial.latency_ms[arch], trial.ask(arch)])
        trial.recommend()


def halving_early(trial: Trial) -> None:
    """Successive halving that starts on a twentieth of the images."""
    successive_halving(trial, first=0.05)


def racing(trial: Trial, **changes: float) -> None:
    """The race of this project; ``changes`` to its default rules. Its image order is its own.

    It drops nothing before 30 images, but says what it would recommend after eight and sixteen.
    """
    part = trial.bench.part(trial.seed)
    rules = replace(Rules(seed=trial.rng.randrange(2**31)), **changes)  # type: ignore[arg-type]
    shown: list[int] = []

    def evaluate(archs: Sequence[Arch], places: Sequence[int]) -> dict[Arch, Matches]:
        waits = [count for count in EARLY if count < len(places)] if not shown else []
        shuffled = trial.rng.sample(list(places), len(places))
        for begin, end in pairwise([0, *waits, len(places)]):
            shown.extend(shuffled[begin:end])
            for arch in archs:
                trial.ask(arch, shown)
            trial.recommend(archs)
        began = time.process_time()
        found = {arch: matches_on(trial.bench, arch, trial.seed, places) for arch in archs}
        trial.answers_s += time.process_time() - began
        return found

    outcome = race(trial.latency_ms, Objects(part.objects), evaluate, range(THRESHOLDS), rules)
    trial.seen |= outcome.accuracy
    trial.recommend(list(outcome.accuracy))


def careful_race(trial: Trial) -> None:
    """A race that drops less: a smaller margin, and backbones that may cost less."""
    racing(trial, margin=0.001, loss=0.003)


def matches_on(bench: NasBench, arch: Arch, seed: int, places: Sequence[int]) -> Matches:
    """The matches of boxes on the images at ``places`` as the race reads them; the rank in the
    class stands for the score.
    """
    one = bench.matches(arch, seed)
    label = np.repeat(np.arange(len(one.counts)), one.counts)
    score = -np.arange(len(label), dtype=np.float32)
    accepted = (one.pattern & ((1 << THRESHOLDS) - 1)).astype(np.uint16)
    rows = np.flatnonzero(np.isin(one.place, places))
    rows = rows[np.lexsort((label[rows], one.place[rows]))]
    return Matches(
        one.place[rows].astype(np.int32),
        label[rows].astype(np.int16),
        score[rows],
        accepted[rows],
        np.zeros(len(rows), np.uint16),
    )


METHODS: dict[str, Callable[[Trial], None]] = {
    "random search": random_search,
    "regularised evolution": evolution,
    "successive halving": successive_halving,
    "successive halving from 5 %": halving_early,
    "Optuna's TPE": parzen,
    "race": racing,
    "race that drops less": careful_race,
}
