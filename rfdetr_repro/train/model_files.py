"""The model files of a run: the last moving average, the best weights so far, and the run's model,
which equals the average or the best weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.files import atomic_path

from .recipe import Recipe
from .state import TrainingState

MODEL = "supernet.safetensors"
BEST = "best.safetensors"
LAST = "last.safetensors"


def card(
    state: TrainingState[Detector], recipe: Recipe, split: CocoSplit, notes: str = ""
) -> ModelCard:
    """The card of a file with the run's weights; ``notes`` is part of the card."""
    if state.left_out:
        notes = (
            f"{notes}; " * bool(notes) + f"not trained because memory did not suffice: "
            f"{', '.join(sorted(state.left_out))}"
        )
    return ModelCard(
        state.detector.config,
        recipe.preset.arch,
        tuple(split.classes.names),
        tuple(split.classes.category_ids),
        recipe.space,
        train_data_sha256=split.sha256,
        steps=state.step,
        notes=notes,
        precision=", then ".join(state.precisions) or None,
    )


def write_best(folder: Path, detector: Detector, about: ModelCard) -> None:
    """Writes the best weights so far, into the folder of the run's state."""
    save_detector(folder / BEST, detector.state_dict(), about)


def write_model(folder: Path, state: TrainingState[Detector], about: ModelCard) -> Path:
    """Writes the run's model and returns its path: the best weights if evaluations chose some, with
    the last moving average in a second file; otherwise the average.
    """
    path = folder / MODEL
    chosen = folder / BEST if state.best.step else None
    save_detector(folder / LAST if chosen else path, state.ema.state, about)
    if chosen:
        with atomic_path(path) as temporary:
            shutil.copyfile(chosen, temporary)
    return path
