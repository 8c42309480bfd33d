"""What a training leaves in ``RUN/training`` to look at: curves, sampled architectures, statistics
of the labels, and the first augmented batches with their labels.

    curves.png  architectures.json  architectures.png  labels.json  labels.png
    batch-1.png  batch-2.png

Everything is made from what the run is (recipe, data, hooks and log), so a repeated command makes
the same files. The pictures cost seconds, and a failure to draw is reported without ending the
training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec.errors import FULL, InputError
from rfdetr_repro.spec.files import writable_folder, write_atomic

from .callbacks import TrainingCallback, TrainingEnd, TrainingEvaluation, TrainingStart
from .summaries import label_statistics, sampled_archs

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import FigureBase

    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.data.hooks import Hooks
    from rfdetr_repro.data.transforms import Batch
    from rfdetr_repro.plots.detections import Annotations

    from .recipe import Recipe
    from .trainer import Trainer

log = logging.getLogger(__name__)

FOLDER = "training"
BATCHES = 2
PICTURES = 16  # of a batch, at most
SHOWN_SIDE = 320  # px to which the pictures of a batch are reduced
CURVES_IN = 2.6
LABELS_IN = 4.8
SAMPLED_IN = 2.3


class RunPictures(TrainingCallback):
    """Draws at the start, after each evaluation and at the end of a session."""

    def __init__(self, trainer: Trainer) -> None:
        """``trainer``: of the run; only its recipe, data, log and state of memory are read."""
        self._trainer = trainer
        self.folder = trainer.folder / FOLDER

    def on_start(self, start: TrainingStart) -> None:
        """Writes what is known before the first step."""
        writable_folder(self.folder)
        self._try("statistics of the labels", self._labels)
        self._try("pictures of the first batches", self._batches)
        log.info(f"labels and first augmented batches: {self.folder}/*.png")

    def on_evaluation(self, evaluation: TrainingEvaluation) -> None:
        """Draws the curves so far."""
        self._try("curves", self._curves)

    def on_end(self, end: TrainingEnd) -> None:
        """Draws the curves, and counts the architectures."""
        self._try("curves", self._curves)
        self._try("sampled architectures", self._sampled)

    def _try(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            log.warning(f"{what}: not drawn ({type(error).__name__}: {error})")

    def _labels(self) -> None:
        from rfdetr_repro.plots.training_data import draw_labels

        numbers = label_statistics(self._trainer.split)
        self._write("labels", numbers, partial(draw_labels, numbers=numbers), LABELS_IN)

    def _sampled(self) -> None:
        state = self._trainer.state
        recipe = self._trainer.recipe
        if recipe.space is None and not recipe.train.multi_scale:
            return  # one architecture: nothing is drawn
        from rfdetr_repro.plots.training_data import draw_sampled

        counts = sampled_archs(recipe, state.step, state.left_out)
        self._write("architectures", counts, partial(draw_sampled, counts=counts), SAMPLED_IN)

    def _curves(self) -> None:
        from rfdetr_repro.plots.style import save
        from rfdetr_repro.plots.training_data import draw_curves

        rows = self._trainer.state.log.rows()
        if any("loss" in row or "ap" in row for row in rows):
            save(partial(draw_curves, rows=rows), self.folder / "curves.png", CURVES_IN)

    def _batches(self) -> None:
        from rfdetr_repro.plots.style import save
        from rfdetr_repro.plots.training_data import batch_height_in, draw_batch

        split = self._trainer.split
        names = {info.id: info.path.name for info in split.images}
        batches = first_batches(self._trainer.recipe, split, self._trainer.hooks)
        for number, (key, batch) in enumerate(batches, 1):
            pictures = _pictures(batch)
            height, width = batch.images.shape[-2:]
            draw = partial(
                draw_batch,
                images=[image for image, _ in pictures],
                objects=[found for _, found in pictures],
                class_names=split.classes.names,
                title=f"Batch of step {number} as it is trained: {height} x {width} px, {key}",
                names=[names[one.image_id] for one in batch.targets[: len(pictures)]],
            )
            save(draw, self.folder / f"batch-{number}.png", batch_height_in(len(pictures)))

    def _write(
        self,
        name: str,
        numbers: Mapping[str, Any],
        draw: Callable[[FigureBase], None],
        inches: float,
    ) -> None:
        from rfdetr_repro.plots.style import save

        write_atomic(self.folder / f"{name}.json", json.dumps(numbers, indent=1) + "\n")
        save(draw, self.folder / f"{name}.png", inches)


def first_batches(recipe: Recipe, split: CocoSplit, hooks: Hooks) -> Iterator[tuple[str, Batch]]:
    """(architecture, micro-batch) of the first steps of a run: of each step the first micro-batch
    at the first architecture, made again, because batches are a function of seed and step.
    """
    from rfdetr_repro.data.loader import Making, training_batches

    count = min(BATCHES, recipe.train.steps)
    few = min(recipe.train.batch_size, PICTURES)
    batches = training_batches(
        split,
        replace(recipe.train, resize_on="loader"),
        lambda step: [recipe.archs_of_step(step)[0].input_hw],
        start_step=0,
        stop_step=count,
        masks=recipe.preset.model.masks,
        hooks=hooks,
        making=Making(part=lambda size: slice(0, few)),
    )
    for step, micro in enumerate(batches):
        yield recipe.archs_of_step(step)[0].key, micro[0]


def _pictures(batch: Batch) -> list[tuple[np.ndarray, Annotations]]:
    """uint8 (H, W, 3) and objects in px of each picture of a batch."""
    import numpy as np

    from rfdetr_repro.data.network_input import IMAGENET_MEAN, IMAGENET_STD
    from rfdetr_repro.plots.detections import Annotations

    found = []
    for tensor, target in zip(batch.images, batch.targets, strict=True):
        pixels = tensor.permute(1, 2, 0).numpy() * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
        image = np.clip(255 * pixels + 0.5, 0, 255).astype(np.uint8)
        step = max(1, max(image.shape[:2]) // SHOWN_SIDE)
        image = np.ascontiguousarray(image[::step, ::step])
        height, width = image.shape[:2]
        centre, size = np.split(target.boxes_cxcywh.numpy(), 2, axis=1)
        corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
        masks = None if target.masks is None else target.masks.numpy()[:, ::step, ::step]
        boxes = corners * np.array([width, height, width, height])
        found.append((image, Annotations(boxes, target.labels.numpy(), None, masks)))
    return found
