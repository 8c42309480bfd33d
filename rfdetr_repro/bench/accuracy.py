"""Accuracy of a session on a split: resize, run, detections in pixels, COCO metrics.

Images are processed in the batches that the file takes; a file for any number gets one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.coco_document import ImageKey
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections, detections_in_pixels
from rfdetr_repro.evaluation.matches import measured
from rfdetr_repro.evaluation.tiles import Part, Tiling, Window, detect_in_tiles
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.split_inputs import split_inputs
from rfdetr_repro.records.record import Accuracy
from rfdetr_repro.runtime.predictors import FilePredictor, run_on, run_on_all
from rfdetr_repro.runtime.session import Detections, OrtSession, Session
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import UNUSED

Array = np.ndarray[Any, Any]


class HasClasses(Protocol):
    """The classes of a manifest or of a model card."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of every output label."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of every output label."""


Progress = Callable[[Iterable[int]], Iterable[int]]


def audit_feeds(artifact: Artifact, split: CocoSplit, count: int = 8) -> list[dict[str, Array]]:
    """Model inputs for the first ``count`` images of ``split``, on which a float16 range audit runs
    the artifact, as :func:`~rfdetr_repro.export.split_inputs.split_inputs` makes them.
    """
    places = range(min(count, len(split)))
    return list(split_inputs(split, places, artifact.manifest))


def label_map(manifest: HasClasses, split: CocoSplit) -> Array:
    """int64 (classes of the model,): for each output label the split's label, or -1 where the split
    has no such category.

    Categories are matched by id and name. Where ids differ, as in many model files, which number
    their classes from 0, categories are matched by name, provided that each name of the split
    belongs to exactly one category and to exactly one class of the model. Raises
    :class:`InputError` if the model lacks a category of the split.
    """
    known = dict(zip(manifest.category_ids, manifest.class_names, strict=True))
    wanted = dict(zip(split.classes.category_ids, split.classes.names, strict=True))
    wrong = [f"{number} {name!r}" for number, name in wanted.items() if known.get(number) != name]
    if not wrong:
        position = {number: label for label, number in enumerate(split.classes.category_ids)}
        return np.array(
            [position.get(number, -1) for number in manifest.category_ids], dtype=np.int64
        )
    by_name = {name: label for label, name in enumerate(split.classes.names)}
    once = [name for name in manifest.class_names if name in by_name]
    if len(by_name) == len(wanted) == len(once) == len(set(once)):
        return np.array([by_name.get(name, -1) for name in manifest.class_names], dtype=np.int64)
    where = f"split {split.split} of {split.name}"
    listed = ", ".join(wrong[:3])
    count = "1 category" if len(wrong) == 1 else f"{len(wrong)} categories"
    raise InputError(
        f"the model lacks {count} of the data ({listed})",
        where,
        _which_classes(manifest, wanted),
    )


def _which_classes(manifest: HasClasses, wanted: dict[int, str]) -> str:
    """The hint for classes that do not match: a similar name, the model's own names, or the option
    that names its labels.
    """
    named = [name for name in manifest.class_names if name != UNUSED]
    folded = {name.strip().casefold(): name for name in named}
    near = [
        (name, folded[key])
        for name in wanted.values()
        if (key := name.strip().casefold()) in folded
    ]
    if near and near[0][0] != near[0][1]:
        return f"the model's name is {near[0][1]!r}: write the class names alike"
    if all(re.fullmatch(r"class \d+", name) for name in named):
        return "the model's file names no classes: give labels, the names of all labels in order"
    own = ", ".join(named[:3])
    return (
        f"evaluate the model on its own data set (its classes are "
        f"{own}{', ...' if len(named) > 3 else ''}), or state the meaning of its labels"
    )


def detect_image(
    session: Session, image: Array, image_id: ImageKey, labels: Array
) -> ImageDetections:
    """Detections in a uint8 (H, W, 3) RGB image, in pixels: all detections of the split's classes.

    ``labels``: the map that :func:`label_map` gives.

    No detection is dropped here, because COCO's maxDets counts per image and class; see
    :func:`rfdetr_repro.evaluation.coco.detections_in_pixels`. Raises :class:`InputError` for scores
    or boxes that are not finite and for labels beyond the classes.
    """
    return _detections(session, run_on(session, image), image, image_id, labels)


def _detections(
    session: Session, found: Detections, image: Array, image_id: ImageKey, labels: Array
) -> ImageDetections:
    """What a run found in ``image``, in pixels and in the split's classes."""
    if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes_xyxy).all()):
        hint = (
            "check for an overflow in half precision or broken weights, and export the model again"
        )
        raise InputError(
            f"the model returns numbers that are not finite for image {image_id}",
            session.manifest.model.name,
            hint,
        )
    if found.labels.size and not 0 <= found.labels.min() <= found.labels.max() < len(labels):
        wrong = f"labels {found.labels.min()} to {found.labels.max()} for {len(labels)} classes"
        raise InputError(
            f"the model returns {wrong}",
            session.manifest.model.name,
            "name all classes that the model was trained on",
        )
    mapped = labels[found.labels[0]]
    kept = np.flatnonzero(mapped >= 0)
    masks = None if found.masks is None else found.masks[0][kept]
    size_hw = image.shape[0], image.shape[1]
    return detections_in_pixels(
        image_id, size_hw, found.scores[0][kept], mapped[kept], found.boxes_xyxy[0][kept], masks
    )


def detect_in_tiles_of(
    session: Session, image: Array, image_id: ImageKey, labels: Array, tiling: Tiling
) -> ImageDetections:
    """:func:`detect_image` in the tiles of an image, merged."""
    size_hw = image.shape[0], image.shape[1]
    predictor = FilePredictor(session, session.manifest.model.name)

    def detect(window: Window) -> Part:
        seen = predictor(image[window.top : window.bottom, window.left : window.right], 0.0)
        mapped = labels[seen.labels]
        kept = np.flatnonzero((mapped >= 0) & (seen.scores > 0))
        masks = None if seen.masks is None else seen.masks[kept]
        return Part(seen.boxes_xyxy[kept], seen.scores[kept], mapped[kept], masks)

    windows = tiling.windows(size_hw, session.manifest.input_hw)
    found = detect_in_tiles(windows, detect, size_hw)
    rles = None if found.masks is None else found.masks.rles()
    return ImageDetections(image_id, found.boxes_xyxy, found.scores, found.labels, rles)


def detect_split(
    session: Session, split: CocoSplit, *, progress: Progress = iter, tiling: Tiling | None = None
) -> list[ImageDetections]:
    """Detections in every image of ``split``, in the split's order.

    ``progress`` wraps the sequence of indices, as a progress bar does. ``tiling``: look at each
    image in tiles.
    """
    labels = label_map(session.manifest, split)
    ids = [info.id for info in split.images]
    if tiling is not None:
        return [
            detect_in_tiles_of(session, split.load_image(index), ids[index], labels, tiling)
            for index in progress(range(len(split)))
        ]
    found: list[ImageDetections] = []
    waiting: list[Array] = []
    for index in progress(range(len(split))):
        waiting.append(split.load_image(index))
        if len(waiting) < session.manifest.images_per_run and index + 1 < len(split):
            continue
        runs = run_on_all(session, waiting)
        for run, image in zip(runs, waiting, strict=True):
            found.append(_detections(session, run, image, ids[len(found)], labels))
        waiting.clear()
    return found


def accuracy_of(
    session: Session, split: CocoSplit, *, max_dets: int = 100, progress: Progress = iter
) -> tuple[Accuracy, Accuracy | None]:
    """(box accuracy, mask accuracy or None) of the session's file on ``split``, as fractions in
    0..1, with 95 % intervals of AP.

    ``max_dets``: COCO's maxDets, the number of detections per image and class that count.
    """
    with_masks = len(session.manifest.outputs) == 4 and not split.why_no_mask_ap()
    detections = detect_split(session, split, progress=progress)
    evaluator = CocoEvaluator(split, max_dets=max_dets)
    digest = session.artifact_id.sha256
    boxes = measured(evaluator, detections, "bbox", digest)
    return boxes, measured(evaluator, detections, "segm", digest) if with_masks else None


def ap_by_kind(
    artifact: Artifact, split: CocoSplit, threads: int = 2
) -> Callable[[Artifact], dict[str, float]]:
    """A function that gives the AP of files of one model on ``split`` by ONNX Runtime: "boxes", and
    "masks" where they can be measured -> fraction in 0..1.

    Raises :class:`InputError`, at once, where the classes of ``artifact`` do not fit the split; the
    function, where the split gives no AP.
    """
    label_map(artifact.manifest, split)

    def score(file: Artifact) -> dict[str, float]:
        boxes, masks = accuracy_of(OrtSession(file, threads), split)
        kinds = {"boxes": boxes.ap, "masks": None if masks is None else masks.ap}
        found = {kind: ap for kind, ap in kinds.items() if ap is not None}
        if not found:
            raise InputError(
                f"the split {split.split} of {split.name} gives no AP",
                hint="choose a split with objects",
            )
        return found

    return score
