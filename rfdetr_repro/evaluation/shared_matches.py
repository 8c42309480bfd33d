"""COCO's matching for many models on the same images at once.

A search matches hundreds of configurations on one split. One call per image computes the overlaps
of all their detections with the image's objects, and only detections that overlap an object of
their class by at least the lowest threshold are matched one by one; all others are misses. The
result equals that of :func:`.matches.matches` for each model (tests), at a fraction of the time:
the evaluator's own entries would be a Python object per image, class and model.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import hotcoco.mask
import numpy as np

from rfdetr_repro.data.segmentation import rle_of
from rfdetr_repro.spec.errors import InputError

from .coco import IOU_THRESHOLDS, CocoEvaluator, ImageDetections
from .matches import Matches

Array = np.ndarray[Any, Any]
Key = TypeVar("Key", bound=Hashable)
# what pycocotools compares an overlap with
_FROM = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
# number of thresholds that an overlap reaches -> their bits
_REACHED = [(1 << count) - 1 for count in range(len(IOU_THRESHOLDS) + 1)]


class _Truth(NamedTuple):
    """The objects of one image, those that count before crowd regions."""

    labels: Array  # int64 (n,)
    crowd: list[bool]
    boxes: Array  # float64 (n, 4) xywh px
    masks: list[Any]  # n RLEs, or none


class SharedMatcher:
    """Matches the detections of many models on the images of one split."""

    def __init__(self, evaluator: CocoEvaluator) -> None:
        """``evaluator``: states the split, the order of its images and the limit per class."""
        self.evaluator = evaluator
        self._truths: dict[str, dict[int, _Truth]] = {}

    def matches(
        self, found: Mapping[Key, Sequence[ImageDetections]], kind: str = "bbox"
    ) -> dict[Key, Matches]:
        """The matches of each model; ``kind``: "bbox" or "segm".

        All models must have detections of the same images in the same order; raises
        :class:`InputError` otherwise, and for detections that the evaluator refuses.
        """
        if kind not in ("bbox", "segm"):
            raise InputError(f"unknown kind of evaluation {kind!r}", hint="choose bbox or segm")
        for detections in found.values():
            self.evaluator.checked(detections, kind == "segm")
        truths = self._truth(kind)
        parts: dict[Key, list[Matches]] = {key: [] for key in found}
        for images in zip(*found.values(), strict=True):
            if len({image.image_id for image in images}) > 1:
                raise InputError(f"detections of different images, e.g. {images[0].image_id}")
            place = self.evaluator.places[images[0].image_id]
            owner, *columns = self._matched(images, truths.get(place), kind)
            ends = np.searchsorted(owner, np.arange(len(images) + 1))
            for number, key in enumerate(found):
                rows = slice(ends[number], ends[number + 1])
                count = ends[number + 1] - ends[number]
                where = np.full(count, place, np.int32)
                parts[key].append(Matches(where, *(column[rows] for column in columns)))
        return {key: _joined(part) for key, part in parts.items()}

    def _matched(
        self, images: Sequence[ImageDetections], truth: _Truth | None, kind: str
    ) -> tuple[Array, ...]:
        """Owner, label, score, accepted and ignored of the detections of one image, by owner, label
        and falling score.
        """
        owner = np.repeat(np.arange(len(images)), [len(image.scores) for image in images])
        label = np.concatenate([image.labels for image in images]).astype(np.int64)
        score = np.concatenate([image.scores for image in images])
        order = np.lexsort((-score.astype(np.float64), label, owner))
        order = order[_rank(owner[order], label[order]) < self.evaluator.max_dets]
        owner, label, score = owner[order], label[order], score[order]
        accepted = np.zeros(len(order), np.uint16)
        ignored = np.zeros(len(order), np.uint16)
        if truth is not None and len(order):
            rows = np.flatnonzero(np.isin(label, truth.labels))
            overlaps = _overlaps(images, order[rows], truth, kind)
            overlaps[label[rows, None] != truth.labels] = -1.0
            near = overlaps.max(axis=1, initial=-1.0) >= _FROM[0]
            rows, overlaps = rows[near], overlaps[near]
            groups = owner[rows] * (int(truth.labels.max()) + 1) + label[rows]
            for begin, end in _runs(groups):
                columns = np.flatnonzero(truth.labels == label[rows[begin]])
                accepted[rows[begin:end]], ignored[rows[begin:end]] = _greedy(
                    overlaps[begin:end, columns], [truth.crowd[column] for column in columns]
                )
        return (
            owner,
            label.astype(np.int16),
            score.astype(np.float32),
            accepted,
            ignored,
        )

    def _truth(self, kind: str) -> dict[int, _Truth]:
        """The objects by place of their image."""
        if kind not in self._truths:
            split = self.evaluator.split
            label_of = {number: label for label, number in enumerate(split.classes.category_ids)}
            size_of = {info.id: (info.height, info.width) for info in split.images}
            masks = kind == "segm"
            of_image: dict[int, list[dict[str, Any]]] = {}
            for one in split.ground_truth(segmentations=masks)["annotations"]:
                of_image.setdefault(self.evaluator.places[one["image_id"]], []).append(one)
            truths = {}
            for place, objects in of_image.items():
                objects.sort(key=lambda one: bool(one["iscrowd"]))
                truths[place] = _Truth(
                    np.array([label_of[one["category_id"]] for one in objects]),
                    [bool(one["iscrowd"]) for one in objects],
                    np.array([one["bbox"] for one in objects], dtype=np.float64).reshape(-1, 4),
                    [rle_of(one["segmentation"], *size_of[one["image_id"]]) for one in objects]
                    if masks
                    else [],
                )
            self._truths[kind] = truths
        return self._truths[kind]


def _overlaps(images: Sequence[ImageDetections], rows: Array, truth: _Truth, kind: str) -> Array:
    """IoU of the detections at ``rows`` of all models' detections with every object, float64."""
    if not len(rows):
        return np.zeros((0, len(truth.labels)))
    if kind == "segm":
        rles = [rle for image in images for rle in image.masks_rle or ()]
        return np.asarray(hotcoco.mask.iou([rles[row] for row in rows], truth.masks, truth.crowd))
    boxes = np.concatenate([np.reshape(image.boxes_xyxy, (-1, 4)) for image in images])
    boxes = boxes[rows].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return np.asarray(hotcoco.mask.iou(boxes, truth.boxes, truth.crowd))


def _greedy(overlaps: Array, crowd: list[bool]) -> tuple[list[int], list[int]]:
    """Bits of the thresholds at which each detection is accepted, and ignored; detections of one
    model and class by falling score, float64 (k, n).
    """
    if len(crowd) == 1 and not crowd[0]:
        taken = 0
        bits = []
        for reached in np.searchsorted(_FROM, overlaps[:, 0], side="right").tolist():
            bits.append(_REACHED[reached] & ~taken)
            taken |= _REACHED[reached]
        return bits, [0] * len(bits)
    accepted = [0] * len(overlaps)
    ignored = [0] * len(overlaps)
    for bit, lowest in enumerate(_FROM.tolist()):
        taken_by: set[int] = set()
        for row, values in enumerate(overlaps.tolist()):
            chosen = _chosen(values, crowd, taken_by, lowest)
            if chosen is not None:
                taken_by.add(chosen)
                accepted[row] |= 1 << bit
                ignored[row] |= crowd[chosen] << bit
    return accepted, ignored


def _chosen(values: list[float], crowd: list[bool], taken: set[int], lowest: float) -> int | None:
    """The object that a detection is matched with: the one of largest overlap that is free, the
    later of equals; a crowd region only where no object is left, and any number of times.
    """
    chosen = None
    for column, value in enumerate(values):
        if column in taken and not crowd[column]:
            continue
        if chosen is not None and crowd[column] and not crowd[chosen]:
            break
        if value >= lowest:
            lowest, chosen = value, column
    return chosen


def _rank(owner: Array, label: Array) -> Array:
    """Number of detections before each detection in its group; groups are contiguous."""
    new = np.append(True, (owner[1:] != owner[:-1]) | (label[1:] != label[:-1]))[: len(owner)]
    begins = np.flatnonzero(new)
    lengths = np.diff(np.append(begins, len(owner)))
    return np.arange(len(owner)) - np.repeat(begins, lengths)


def _runs(groups: Array) -> list[tuple[int, int]]:
    """Begin and end of each run of equal numbers."""
    begins = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])[: len(groups)])
    ends = np.append(begins, len(groups))[1:]
    return list(zip(begins.tolist(), ends.tolist(), strict=True))


def _joined(parts: Sequence[Matches]) -> Matches:
    if not parts:
        kinds = (np.int32, np.int16, np.float32, np.uint16, np.uint16)
        return Matches(*(np.zeros(0, kind) for kind in kinds))
    return Matches.join(parts)
