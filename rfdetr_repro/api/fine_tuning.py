"""What :meth:`RFDETR.train` settles before a run: the run's folder, its input shape, and the
detector that it starts from.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rfdetr_repro.data.census import mask_lines, print_census
from rfdetr_repro.data.coco import ClassMap, CocoSplit
from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.checkpoints.pretrained import with_classes
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import Labels
from rfdetr_repro.train.callbacks import TrainingCallback
from rfdetr_repro.train.upstream_words import Asked

log = logging.getLogger(__name__)


def observers(given: Any) -> list[TrainingCallback]:
    """The callbacks of ``RFDETR.train``: one, or several. Raises :class:`InputError` for an object
    of another kind.
    """
    several = given if isinstance(given, (list, tuple)) else [given] if given else []
    for one in several:
        if not isinstance(one, TrainingCallback):
            raise InputError(
                f"callbacks: {type(one).__name__} is no TrainingCallback",
                hint="subclass rfdetr_repro.TrainingCallback",
            )
    return list(several)


def run_folder(output_dir: str | Path, resume: bool | str | Path | None) -> Path:
    """The folder of the run. Raises :class:`InputError` where its content is not what ``resume``
    expects.
    """
    from rfdetr_repro.train.state import STATE

    resume = True if resume in (None, "") else resume  # upstream's value for no file
    if not isinstance(resume, bool):
        folder = Path(resume) if Path(resume).is_dir() else Path(resume).parent
        if not (folder / STATE).exists():
            raise InputError("nothing to resume", folder, "give the folder of an unfinished run")
        return folder
    if not resume and (Path(output_dir) / STATE).exists():
        raise InputError(
            "the folder holds a run", output_dir, "resume the run, or choose another folder"
        )
    return Path(output_dir)


def checked_shape(
    asked: Asked,
    detector: Detector,
    device: torch.device,
    train: CocoSplit,
    shape: tuple[int, int] | None,
) -> tuple[int, int] | None:
    """The requested input shape. Raises :class:`InputError` for settings that contradict the
    detector or the data.
    """
    if asked.device is not None and torch.device(asked.device).type != device.type:
        raise InputError(
            f"this model is on {device}, not on {asked.device}",
            hint="give device to RFDETR(...)",
        )
    if asked.groups not in (None, detector.config.groups):
        raise InputError(
            f"this model has {detector.config.groups} query groups, not {asked.groups}",
            hint="leave group_detr out",
        )
    if asked.class_names is not None and asked.class_names != train.classes.names:
        listed = ", ".join(train.classes.names[:5])
        raise InputError(
            f"class_names are not those of the data ({listed})",
            train.name,
            "leave class_names out",
        )
    if asked.resolution is None:
        return shape
    if shape is not None:
        raise InputError("both shape and resolution", hint="give one of them")
    return asked.resolution, asked.resolution


def starting_detector(
    detector: Detector,
    card: ModelCard,
    splits: Mapping[str, CocoSplit],
    dataset_dir: str | os.PathLike[str],
) -> Detector:
    """The detector to start from, with a head for the classes of the train split. Prints a census
    of the data.

    Raises :class:`InputError` where the detector predicts masks and the data lack them.
    """
    split = splits["train"]
    start = _for_classes(detector, card, split.classes)
    if start.config.masks and not split.has_masks:
        why = split.why_no_masks()
        raise InputError(
            f"this size predicts masks, but not every object of the train split has one: {why}",
            dataset_dir,
            "use a box size",
        )
    _warn_of_crowds(card, split)
    print_census(splits.values())
    if start.config.masks:
        held_out = [one for name, one in splits.items() if name != "train"]
        for line in mask_lines(held_out):
            log.info(line)
    log.info(Labels(split.classes.names, split.classes.category_ids, "from the data").describe())
    return start


def _for_classes(detector: Detector, card: ModelCard, classes: ClassMap) -> Detector:
    """The detector with a head for ``classes``; unchanged if it has these classes already."""
    if (classes.names, classes.category_ids) == (card.class_names, card.category_ids):
        return detector
    return with_classes(detector, Labels(classes.names, classes.category_ids))


def _warn_of_crowds(card: ModelCard, train: CocoSplit) -> None:
    most = train.most_objects()
    if most > card.arch.queries:
        log.info(
            f"an image has {most} objects, but the model finds at most "
            f"{card.arch.queries} per image"
        )
