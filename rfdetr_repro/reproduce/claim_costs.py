"""What a study behind ``claims --run`` costs, before it starts: processor time per step and per
evaluation, measured on this machine, times what is not stored yet.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rfdetr_repro.claims.studies import RANDOM, Trained
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import measured
from rfdetr_repro.ops.device import choose_device
from rfdetr_repro.spec.metrics import plural
from rfdetr_repro.train.trainer import Trainer

from .claim_studies import PRETRAINING, SPLIT, StudyRequest, left_of_given, stored_records
from .claim_trainings import Prepared, detections, prepared

log = logging.getLogger(__name__)

PROBED_STEPS = 6  # the first warms up
PROBED_OF_SUPERNET = 16
# one configuration of given weights on the 150 images of the embedded val split, 1,000 resamples
# included: 160 s of one core for 162 configurations
GIVEN_S = 1.0


@dataclass(frozen=True)
class Cost:
    """What is left of a study, in seconds of processor time of one core. ``trainings``: the digests
    of the trainings that are left.
    """

    words: str
    seconds: float
    trainings: frozenset[str] = frozenset()

    @property
    def told(self) -> str:
        """The line to print."""
        return f"{self.words}: {self.seconds / 60:.0f} min of processor time"


def cost_of(
    request: StudyRequest, splits: Mapping[str, CocoSplit], planned: Collection[str] = ()
) -> Cost:
    """The cost of what is not stored. ``splits``: what :func:`.claim_studies.read_data` returned;
    ``planned``: digests of trainings that studies make before this one, which cost nothing here.
    """
    study = request.study
    if not study.trained:
        count = len(left_of_given(request, splits[SPLIT]))
        words = f"{study.id}: {plural(count, 'configuration')} of the packaged weights"
        words += f", {GIVEN_S:g} s each"
        return Cost(words, GIVEN_S * count)
    seconds = 0.0
    parts = []
    stored = before = 0
    trainings: set[str] = set()
    for side in study.trained:
        every = [
            prepared(request.scale, side, seed, splits["train"], splits.get(PRETRAINING))
            for seed in range(request.seeds)
        ]
        new = [one for one in every if stored_records(request, one, splits[SPLIT]) is None]
        left = [one for one in new if one.sha256 not in planned]
        stored += len(every) - len(new)
        before += len(new) - len(left)
        if not left:
            continue
        step, evaluation = probed(request, side, splits)
        seconds += sum(step * one.recipe.train.steps + evaluation for one in left)
        parts.append(f"{len(left)} x {side.words} at {step:.2f} s a step")
        earlier = _pretrainings_left(request, left, {*trainings, *planned})
        for kind in {one.side for one in earlier}:
            step, _ = probed(request, kind, splits)
            seconds += sum(step * one.recipe.train.steps for one in earlier if one.side == kind)
        trainings |= {one.sha256 for one in (*earlier, *left)}
    words = f"{study.id}: {request.scale.words}; {', '.join(parts) or 'nothing to train'}"
    if stored:
        words += f"; {plural(stored, 'training')} stored"
    if before:
        words += f"; {plural(before, 'training')} of a study before"
    return Cost(words, seconds, frozenset(trainings))


def _pretrainings_left(
    request: StudyRequest, trainings: Sequence[Prepared], planned: Collection[str]
) -> list[Prepared]:
    """What has to be trained before ``trainings``, each once, and is neither complete nor planned
    already.
    """
    found = {one.sha256: one for training in trainings for one in training.earlier()}
    return [
        one
        for sha256, one in found.items()
        if sha256 not in planned and not one.complete(request.folder)
    ]


def probed(
    request: StudyRequest, side: Trained, splits: Mapping[str, CocoSplit]
) -> tuple[float, float]:
    """Seconds of processor time of one step and of the evaluation of a side, measured by a few
    steps.
    """
    steps = PROBED_OF_SUPERNET if side.shared else PROBED_STEPS
    scale = replace(request.scale, steps=steps, start=RANDOM)
    ready = prepared(scale, side, 0, splits["train"])
    device = choose_device(request.device)
    times = [time.process_time()]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            ready.recipe, ready.split, Path(folder), ready.initial, device, ready.hooks
        )
        trainer.run(progress=lambda step, losses: times.append(time.process_time()))
        detector = trainer.state.averaged_detector()
    step = (times[-1] - times[1]) / (len(times) - 2)
    archs = scale.evaluated(side, ready.recipe.preset.arch) + scale.never_drawn(side)
    started = time.process_time()
    found = detections(detector, splits[SPLIT], archs[:1], side.padded)
    measured(CocoEvaluator(splits[SPLIT]), found[archs[0]])
    return step, (time.process_time() - started) * len(archs)
