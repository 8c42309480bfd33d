"""One rival trained to the end, or its unfinished run resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.loader import evaluation_batches
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections
from rfdetr_repro.evaluation.predict_split import BATCH, detections_of
from rfdetr_repro.ops.device import torch_threads
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import locked, sha256_file, writable_folder
from rfdetr_repro.spec.stage import current
from rfdetr_repro.train.best import CHOOSING_SPLIT
from rfdetr_repro.train.progress import TrainingDisplay
from rfdetr_repro.train.state import STATE

from .module import RivalModule
from .recipe import RivalRecipe
from .trainer import MODEL, RivalTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RivalRequest:
    """Everything that the training of one rival with one seed depends on.

    ``initial``: the state by the library's names, float32 on the CPU; None: random weights.
    """

    recipe: RivalRecipe
    split: CocoSplit
    folder: Path
    device: torch.device
    held_out: Mapping[str, CocoSplit] = field(default_factory=dict)
    initial: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Trained:
    """A finished training. ``seconds``: training time over all sessions, without evaluations."""

    model: Path
    sha256: str
    steps: int
    seconds: float


def train_rival(request: RivalRequest) -> Trained:
    """Trains to the end with lines of progress; a complete run is returned as it is.

    Signals, errors and the files of an unfinished run are those of
    :func:`rfdetr_repro.train.run.train`.
    """
    patience = request.recipe.train.patience
    if patience and CHOOSING_SPLIT not in request.held_out:
        raise InputError(
            f"patience needs a {CHOOSING_SPLIT} split to evaluate on", request.split.name
        )
    trainer = RivalTrainer(
        recipe=request.recipe,
        split=request.split,
        folder=request.folder,
        device=request.device,
        initial=request.initial,
    )
    model = request.folder / MODEL
    if not (trainer.finished and model.exists()):
        writable_folder(request.folder)
        evaluate = None
        if request.held_out:
            evaluate = partial(rival_accuracies, request.held_out, torch.get_num_threads())
        display = TrainingDisplay(current(), evaluated=bool(request.held_out))
        with locked(request.folder / STATE, "trains in this folder"):
            model = trainer.run(evaluate=evaluate, callbacks=[display])
    state = trainer.state
    return Trained(model, sha256_file(model), state.step, state.seconds)


def rival_accuracies(
    splits: Mapping[str, CocoSplit], threads: int, module: RivalModule
) -> list[dict[str, Any]]:
    """Accuracy on each split as rows of a training log, by the evaluator and the pictures that
    RF-DETR is evaluated with.
    """
    rows = []
    with torch_threads(threads):
        for name, split in splits.items():
            found = rival_detections(module, split)
            boxes = CocoEvaluator(split).accuracy(found, "bbox", all_areas_only=True)
            rows.append({"split": name, "ap": boxes.ap, "ap50": boxes.ap50, "mask_ap": None})
    return rows


@torch.inference_mode()
def rival_detections(module: RivalModule, split: CocoSplit) -> list[ImageDetections]:
    """Detections of a rival in PyTorch on every image of a split, as many per image as it has
    queries.
    """
    device = next(module.parameters()).device
    found: list[ImageDetections] = []
    for batch in evaluation_batches(split, module.input_hw, BATCH):
        infos: Sequence[Any] = split.images[len(found) : len(found) + len(batch.images)]
        outputs = module(batch.to(device).images)
        found += detections_of(outputs, infos, module.queries, masks=False)
    return found
