"""The model files of a run: the last moving average, the best weights so far, and the run's model,
which is one of the two.
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


def card(state: TrainingState, recipe: Recipe, split: CocoSplit, notes: str = "") -> ModelCard:
    """What a file of the run's weights says about them."""
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
    )


def write_best(folder: Path, detector: Detector, about: ModelCard) -> None:
    """The best weights so far, beside the state of the run."""
    save_detector(folder / BEST, detector.state_dict(), about)


def write_model(folder: Path, state: TrainingState, about: ModelCard) -> Path:
    """The run's model: its best weights where evaluations chose some, with the last moving average
    beside them; else that average.
    """
    path = folder / MODEL
    chosen = folder / BEST if state.best.step else None
    save_detector(folder / LAST if chosen else path, state.ema.state, about)
    if chosen:
        with atomic_path(path) as temporary:
            shutil.copyfile(chosen, temporary)
    return path
