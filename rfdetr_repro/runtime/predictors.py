"""One interface for every model that finds objects in a picture: weights in PyTorch, and deployed
files by their own runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rfdetr_repro.data.decoding import Decoded
from rfdetr_repro.data.network_input import Letterbox, network_input
from rfdetr_repro.data.segmentation import MaskMaps
from rfdetr_repro.evaluation.coco import boxes_in_pixels
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import LETTERBOX, PLAIN_LETTERBOX

from .session import Detections, Session

Array = np.ndarray[Any, Any]


class Seen(NamedTuple):
    """Detections of one picture, best first."""

    boxes_xyxy: Array  # float32 (k, 4) px, inside the picture
    scores: Array  # float32 (k,) in 0..1
    labels: Array  # int64 (k,)
    masks: MaskMaps | None

    def at_least(self, threshold: float) -> Seen:
        """Those with a score of at least ``threshold``."""
        kept = np.flatnonzero(self.scores >= threshold)
        masks = None if self.masks is None else self.masks[kept]
        return Seen(self.boxes_xyxy[kept], self.scores[kept], self.labels[kept], masks)


class Predictor(Protocol):
    """A model with its classes.

    ``class_names`` and ``category_ids`` belong to the labels in order; ``input_hw`` is the
    model's input in px, ``resize`` its rule, ``what`` names file and runtime.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    input_hw: tuple[int, int]
    resize: str
    what: str

    def __call__(self, image: Array | Decoded, threshold: float) -> Seen:
        """Detections of at least ``threshold`` in uint8 (H, W, 3) RGB. Raises :class:`InputError`
        for outputs that are not finite.
        """
        ...


class FilePredictor:
    """A deployed file, opened by its runtime."""

    def __init__(self, session: Session, name: str) -> None:
        """``name``: the file's name in messages."""
        manifest = session.manifest
        self.session = session
        self.class_names = manifest.class_names
        self.category_ids = manifest.category_ids
        self.input_hw = manifest.input_hw
        self.resize = manifest.resize
        self.what = f"{name} on {session.artifact_id.runtime}"

    def __call__(self, image: Array | Decoded, threshold: float) -> Seen:
        """See :class:`Predictor`."""
        pixels, size_hw = _pixels_of(image)
        found = run_on(self.session, pixels)
        scores, labels = found.scores[0], found.labels[0]
        if not (np.isfinite(scores).all() and np.isfinite(found.boxes_xyxy).all()):
            raise InputError(
                "the model gives numbers that are not finite",
                hint="check for an overflow in half precision, and export the model again",
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise InputError(
                f"the model returns labels {labels.min()} to {labels.max()} for "
                f"{len(self.class_names)} classes",
                self.session.manifest.model.name,
                "name all classes that the model was trained on",
            )
        boxes = boxes_in_pixels(found.boxes_xyxy[0], size_hw)
        masks = None if found.masks is None else MaskMaps(found.masks[0], size_hw)
        order = np.argsort(-scores, kind="stable")
        seen = Seen(boxes, scores, labels, masks)
        return _rows(seen, order).at_least(threshold)


class WeightsPredictor:
    """A detector in PyTorch."""

    def __init__(self, detector: Any, card: Any, resize: str, name: str) -> None:
        """``detector``: a :class:`~rfdetr_repro.model.detector.Detector` of one architecture;
        ``card``: its :class:`~rfdetr_repro.model.checkpoints.native.ModelCard`; ``resize``: a rule
        of :mod:`rfdetr_repro.spec.resize_rules`; ``name``: the file's name in messages.
        """
        self.detector = detector
        self.class_names = card.class_names
        self.category_ids = card.category_ids
        self.input_hw = detector.arch.input_hw
        self.resize = resize
        self.what = f"{name} as {detector.arch.key} in PyTorch"

    def __call__(self, image: Array | Decoded, threshold: float) -> Seen:
        """See :class:`Predictor`."""
        from rfdetr_repro.evaluation.predict_images import detect

        decoded = image if isinstance(image, Decoded) else Decoded(image, image.shape[:2])
        (found,) = detect(self.detector, [decoded], threshold, resize=self.resize, small_masks=True)
        return Seen(found.boxes_xyxy, found.scores, found.labels, found.masks)


def _rows(seen: Seen, order: Array) -> Seen:
    masks = None if seen.masks is None else seen.masks[order]
    return Seen(seen.boxes_xyxy[order], seen.scores[order], seen.labels[order], masks)


def _pixels_of(image: Array | Decoded) -> tuple[Array, tuple[int, int]]:
    if isinstance(image, Decoded):
        return image.pixels, image.size_hw
    return image, (image.shape[0], image.shape[1])


def run_on(session: Session, image: Array) -> Detections:
    """Detections in a uint8 (H, W, 3) RGB image, resized by the manifest's rule; boxes and mask
    maps are relative to the original image.
    """
    return run_on_all(session, [image])[0]


def run_on_all(session: Session, images: Sequence[Array]) -> list[Detections]:
    """:func:`run_on` for several images in one run, at most as many as the file takes; a file with
    a larger fixed batch gets the last image repeatedly.
    """
    manifest = session.manifest
    missing = 0 if manifest.open_batch else manifest.images_per_run - len(images)
    inputs = network_input([*images, *[images[-1]] * missing], manifest.input_hw, manifest.resize)
    found = session.run(inputs)
    return [
        of_picture(session, found.of_image(row), (image.shape[0], image.shape[1]))
        for row, image in enumerate(images)
    ]


def of_picture(session: Session, found: Detections, size_hw: tuple[int, int]) -> Detections:
    """What the model found in its input, relative to the original image of ``size_hw`` px; the
    detections of one image, with a batch axis of 1.
    """
    rule = session.manifest.resize
    input_hw = session.manifest.input_hw
    if rule not in (LETTERBOX, PLAIN_LETTERBOX):
        return found
    letterbox = Letterbox(size_hw, input_hw)
    masks = None if found.masks is None else letterbox.masks_of_picture(found.masks[0])[None]
    return found._replace(
        boxes_xyxy=letterbox.boxes_of_picture(found.boxes_xyxy[0])[None], masks=masks
    )
