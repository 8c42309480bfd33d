"""The content of one timed call: the three scopes of a row (benchmark protocol section 3).

- ``engine``: ``launch`` on an input that is already bound, up to boxes, scores, labels and masks
  where the backend leaves them;
- ``device``: ``bind``, ``launch`` and ``outputs``, which includes the copies to the device and
  back;
- ``host``: from the bytes of an encoded image in memory to Python objects in pixels: decode,
  resize, run, scale. The MOST best detections are kept whatever their score, and their masks become
  bits at the image's size, so that the work hardly depends on the weights. Run-length masks are a
  format for evaluation and are not computed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.decoding import decode
from rfdetr_repro.data.mask_logits import packed_bits
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.evaluation.coco import boxes_in_pixels
from rfdetr_repro.runtime.predictors import run_on, run_on_all
from rfdetr_repro.runtime.session import Detections, Session
from rfdetr_repro.spec.files import open_input

from .accuracy import Array

MOST = 100
PICTURE_HW = (480, 640)  # size of the synthetic image, about COCO's mean size


class Detection(NamedTuple):
    """One detection, as the host scope returns it."""

    score: float  # in 0..1
    label: int
    box_xyxy: tuple[float, float, float, float]  # pixels
    mask: Array | None  # uint8, packed bits of one (H, W) mask


def timed_call(
    session: Session, scope: str, split: CocoSplit | None, batch: int = 1
) -> Callable[[], object]:
    """A call that does the work of ``scope`` and nothing else, on the first ``batch`` images of
    ``split``, or on synthetic images without a split.

    All models get the same images, because the duration of a static graph does not depend on the
    images.
    """
    if scope == "host":
        if batch == 1:
            encoded = picture_bytes(split)
            return lambda: detect_bytes(session, encoded)
        several = [picture_bytes(split, index) for index in range(batch)]
        return lambda: detect_all_bytes(session, several)
    image = example_input(session, split, batch)
    if scope == "device":
        return lambda: session.run(image)
    session.bind(image)
    return session.launch


def example_input(session: Session, split: CocoSplit | None, batch: int | None = None) -> Array:
    """The model input, float32 (batch, 3, H, W) in 0..1: the first images of ``split``, from the
    start again where there are fewer, or seeded noise.

    ``batch``: default the batch of the file, 1 where the file takes any.
    """
    manifest = session.manifest
    batch = batch or manifest.images_per_run
    if split is not None and len(split):
        images = [split.load_image(index % len(split)) for index in range(batch)]
        return network_input(images, manifest.input_hw, manifest.resize)
    shape = (batch, *manifest.inputs[0].shape[1:])
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def picture_bytes(split: CocoSplit | None, index: int = 0) -> bytes:
    """The file of an image, by default of the first, as bytes; ``index`` starts again after the
    last. Without data, a JPEG of smooth seeded colours.
    """
    if split is not None and len(split):
        with open_input(split.images[index % len(split)].path) as stream:
            return bytes(stream.read())
    coarse = np.random.default_rng(index).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    height, width = PICTURE_HW
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
        encoded, "JPEG", quality=90
    )
    return encoded.getvalue()


def detect_bytes(session: Session, encoded: bytes) -> list[Detection]:
    """Detections in an encoded image, in pixels, in order of falling score."""
    image = decode(encoded)
    return objects(run_on(session, image), *image.shape[:2])


def detect_all_bytes(session: Session, encoded: Sequence[bytes]) -> list[list[Detection]]:
    """:func:`detect_bytes` for several images in one run."""
    images = [decode(one) for one in encoded]
    found = run_on_all(session, images)
    return [objects(one, *image.shape[:2]) for one, image in zip(found, images, strict=True)]


def objects(found: Detections, height: int, width: int) -> list[Detection]:
    """The MOST best detections as Python objects, in pixels of an image of the size (height,
    width).
    """
    boxes = boxes_in_pixels(found.boxes_xyxy[0, :MOST], (height, width)).tolist()
    masks = (
        [None] * len(boxes)
        if found.masks is None
        else list(packed_bits(found.masks[0, :MOST], height, width))
    )
    scores = found.scores[0, :MOST].tolist()
    labels = found.labels[0, :MOST].tolist()
    rows = zip(scores, labels, boxes, masks, strict=True)
    return [Detection(score, label, tuple(box), mask) for score, label, box, mask in rows]
