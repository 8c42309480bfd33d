"""COCO box and mask AP of detections: ground truth prepared once, matching and accumulation by faster-coco-eval's C++.

A search evaluates hundreds of configurations on one split, so the Python around the C++ is what costs. Detections are sorted and
compared as arrays and handed over directly, without result files or an index. pycocotools is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import faster_coco_eval.faster_eval_api_cpp as evaluator
import numpy as np
from faster_coco_eval.core import mask as rle_code

from .data.coco import CocoSplit
from .data.segmentation import masks_to_rle, rle_of
from .errors import InputError
from .record import Accuracy

__all__ = ["CocoEvaluator", "ImageDetections", "masks_to_rle"]

AREAS_PX2 = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small, medium, large
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101).tolist()


@dataclass(frozen=True)
class ImageDetections:
    """Detections of one image, in any order."""

    image_id: int
    boxes_xyxy: np.ndarray  # float32 (k, 4) px of the original image
    scores: np.ndarray  # float32 (k,)
    labels: np.ndarray  # int64 (k,) contiguous
    masks_rle: list[dict[str, Any]] | None = None  # k compressed RLEs of the original image's size


@dataclass(frozen=True)
class _Columns:
    """Detections or ground truth of a whole split, sorted by group; a group is one label in one image."""

    group: np.ndarray  # int64 (n,) rank of the image id x number of labels + label
    boxes_xywh: np.ndarray  # float64 (n, 4) px
    area: np.ndarray  # float64 (n,) px^2
    scores: np.ndarray  # float64 (n,), falling within a group; ties keep their order; 0 for ground truth
    crowd: np.ndarray  # bool (n,), False for detections
    rles: list[Any]  # decoded run lengths (n,), empty when boxes are evaluated


class CocoEvaluator:
    """Evaluates many detection sets on one split. Crowd regions and images without detections count as in pycocotools."""

    def __init__(self, split: CocoSplit, max_dets: int = 100) -> None:
        """``max_dets``: detections per image and class that count (100 in published COCO numbers)."""
        self.split = split
        self.max_dets = max_dets
        self._num_labels = len(split.classes)
        image_ids = sorted(info.id for info in split.images)  # pycocotools' order of images, which decides between equal scores
        self._rank = {image_id: rank for rank, image_id in enumerate(image_ids)}
        self._truth, self._annotations = self._prepare(split.ground_truth()["annotations"])
        self._truth_set = _dataset(self._truth, self._num_labels)
        self._truth_rles: list[Any] | None = None

    def accuracy(
        self,
        detections: Sequence[ImageDetections],
        kind: str = "bbox",
        all_areas_only: bool = False,
        artifact_sha256: str | None = None,
    ) -> Accuracy:
        """COCO metrics as fractions; ``None`` where the split has no ground truth.

        ``kind``: "bbox" or "segm". ``all_areas_only`` leaves the small, medium and large AP out (faster). Raises
        :class:`InputError` for detections that do not fit the split or are not finite.
        """
        if kind not in ("bbox", "segm"):
            raise InputError(f"unknown kind of evaluation {kind!r}", mend="choose bbox or segm")
        found = self._sort(detections, kind == "segm")
        truth = self._truth_with_masks() if kind == "segm" else self._truth
        areas = AREAS_PX2[:1] if all_areas_only else AREAS_PX2
        image_ranks, labels = list(range(len(self._rank))), list(range(self._num_labels))
        params = SimpleNamespace(
            imgIds=image_ranks,
            catIds=labels,
            useCats=1,
            iouThrs=IOU_THRESHOLDS,
            recThrs=RECALL_THRESHOLDS,
            maxDets=[self.max_dets],
            areaRng=[list(area) for area in areas],
        )
        ious = self._ious(found, truth)
        found_set = _dataset(found, self._num_labels)
        result = evaluator.COCOevalEvaluateAccumulate(params, ious, self._truth_set, found_set, image_ranks, labels, True)
        precision = np.array(result["precision"]).reshape(len(IOU_THRESHOLDS), -1, self._num_labels, len(areas))
        whole, small, medium, large = [_mean(precision[..., area]) for area in range(len(areas))] + [None] * (4 - len(areas))
        at_50, at_75 = (_mean(precision[IOU_THRESHOLDS.index(threshold), ..., 0]) for threshold in (0.5, 0.75))
        return Accuracy(whole, at_50, at_75, small, medium, large, self.max_dets, artifact_sha256)

    def _prepare(self, annotations: list[dict[str, Any]]) -> tuple[_Columns, list[dict[str, Any]]]:
        """Ground truth as columns, and its annotations in the same order."""
        label_of = {category_id: label for label, category_id in enumerate(self.split.classes.category_ids)}
        group = [self._rank[a["image_id"]] * self._num_labels + label_of[a["category_id"]] for a in annotations]
        order = np.argsort(np.array(group, dtype=np.int64), kind="stable").tolist()
        annotations = [annotations[row] for row in order]
        columns = _Columns(
            group=np.array([group[row] for row in order], dtype=np.int64),
            boxes_xywh=np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4),
            area=np.array([a["area"] for a in annotations], dtype=np.float64),
            scores=np.zeros(len(annotations)),
            crowd=np.array([bool(a["iscrowd"]) for a in annotations], dtype=bool),
            rles=[],
        )
        return columns, annotations

    def _truth_with_masks(self) -> _Columns:
        if self._truth_rles is None:
            size_of = {info.id: (info.height, info.width) for info in self.split.images}
            rles = []
            for annotation in self._annotations:
                try:
                    rles.append(rle_of(annotation["segmentation"], *size_of[annotation["image_id"]]))
                except (ValueError, TypeError, KeyError, RuntimeError) as error:
                    where = f"annotation id {annotation['id']} of image id {annotation['image_id']}"
                    raise InputError(f"no usable segmentation: {error}", where, "mend it, or evaluate boxes only") from error
            self._truth_rles = rle_code._mask._frString(rles)
        return replace(self._truth, rles=self._truth_rles)

    def _sort(self, detections: Sequence[ImageDetections], masks: bool) -> _Columns:
        """Detections as columns, cut to the best ``max_dets`` of every group."""
        self._check(detections, masks)
        counts = [len(image.scores) for image in detections]
        rank = np.repeat([self._rank[image.image_id] for image in detections], counts).astype(np.int64)
        labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in detections)])
        scores = np.concatenate([np.zeros(0), *(image.scores for image in detections)])  # float64
        boxes = np.concatenate([np.zeros((0, 4)), *(np.reshape(image.boxes_xyxy, (-1, 4)) for image in detections)])
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise InputError("detections are not finite", self.split.split, "the model has diverged")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= self._num_labels:
            raise InputError(f"detections have a label outside 0..{self._num_labels - 1}", self.split.split, "wrong class map")
        group = rank * self._num_labels + labels
        order = np.lexsort((-scores, group))
        first = np.searchsorted(group[order], group[order])  # where the group of each row begins
        order = order[np.arange(len(order)) - first < self.max_dets]
        xywh = np.concatenate([boxes[order, :2], boxes[order, 2:] - boxes[order, :2]], axis=1)
        area, rles = xywh[:, 2] * xywh[:, 3], []
        if masks:
            flat = [rle for image in detections for rle in image.masks_rle or ()]
            chosen = [flat[row] for row in order.tolist()]
            area, rles = np.asarray(rle_code.area(chosen), dtype=np.float64), rle_code._mask._frString(chosen)
        return _Columns(group[order], xywh, area, scores[order], np.zeros(len(order), dtype=bool), rles)

    def _check(self, detections: Sequence[ImageDetections], masks: bool) -> None:
        for image in detections:
            if image.image_id not in self._rank:
                raise InputError(f"detections of image id {image.image_id}, which is not in the split", self.split.split)
            lengths = {len(image.scores), len(image.labels), len(image.boxes_xyxy)}
            if masks:
                lengths.add(-1 if image.masks_rle is None else len(image.masks_rle))
            if len(lengths) > 1:
                raise InputError(f"detections of image id {image.image_id} lack masks or are of unequal length", self.split.split)

    def _ious(self, found: _Columns, truth: _Columns) -> list[list[list[list[float]]]]:
        """IoU by image, label, detection, ground truth; empty where either is missing."""
        nothing: list[list[float]] = []
        ious = [[nothing] * self._num_labels for _ in self._rank]
        groups, starts, counts = np.unique(found.group, return_index=True, return_counts=True)
        truth_starts, truth_ends = (np.searchsorted(truth.group, groups, side) for side in ("left", "right"))
        spans = np.stack([groups, starts, starts + counts, truth_starts, truth_ends], axis=1)[truth_ends > truth_starts]
        rows = _mask_ious(found, truth, spans) if found.rles else _box_ious(found, truth, spans)
        for group, row in zip(spans[:, 0].tolist(), rows, strict=True):
            image, label = divmod(group, self._num_labels)
            ious[image][label] = row
        return ious


def _box_ious(found: _Columns, truth: _Columns, spans: np.ndarray) -> list[list[list[float]]]:
    """For each span (group, detections from, to, ground truth from, to): IoU rows, one per detection."""
    pairs_per_row = np.repeat(spans[:, 4] - spans[:, 3], spans[:, 2] - spans[:, 1])  # ground truths each detection meets
    rows = _ranges(spans[:, 1], spans[:, 2] - spans[:, 1])
    dt = np.repeat(rows, pairs_per_row)
    gt = _ranges(np.repeat(spans[:, 3], spans[:, 2] - spans[:, 1]), pairs_per_row)
    a, b = found.boxes_xywh[dt], truth.boxes_xywh[gt]  # (pairs, 4)
    overlap = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.where((overlap > 0).all(axis=1), overlap[:, 0] * overlap[:, 1], 0.0)
    area = a[:, 2] * a[:, 3]
    union = np.where(truth.crowd[gt], area, area + b[:, 2] * b[:, 3] - common)  # a detection inside a crowd region fits it
    flat = np.divide(common, union, out=np.zeros_like(common), where=common > 0).tolist()
    ends = np.cumsum(pairs_per_row).tolist()
    table = [flat[end - count : end] for end, count in zip(ends, pairs_per_row.tolist(), strict=True)]
    cuts = np.concatenate([[0], np.cumsum(spans[:, 2] - spans[:, 1])]).tolist()
    return [table[low:high] for low, high in zip(cuts, cuts[1:], strict=False)]


def _mask_ious(found: _Columns, truth: _Columns, spans: np.ndarray) -> list[list[list[float]]]:
    rows = []
    for _, low, high, truth_low, truth_high in spans.tolist():
        dt, gt = found.rles[low:high], truth.rles[truth_low:truth_high]
        flat = rle_code._mask.rleIou(dt, gt, len(dt), len(gt), truth.crowd[truth_low:truth_high].astype(int).tolist())
        rows.append(np.reshape(flat, (len(dt), len(gt))).tolist())
    return rows


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenation of ``arange(start, start + count)``."""
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) + np.repeat(starts - (ends - counts), counts)


def _dataset(columns: _Columns, num_labels: int) -> Any:
    """The C++ side's container. Ids start at 1 because it takes a match with id 0 for no match."""
    dataset = evaluator.Dataset()
    images, labels = (part.tolist() for part in np.divmod(columns.group, num_labels))
    values = zip(images, labels, columns.scores.tolist(), columns.area.tolist(), columns.crowd.astype(int).tolist(), strict=True)
    for number, (image, label, score, area, crowd) in enumerate(values, 1):
        row = {"id": number, "score": score, "area": area, "iscrowd": crowd, "ignore": crowd}
        dataset.append_ref(image, label, row)
    return dataset


def _mean(precision: np.ndarray) -> float | None:
    """Mean over what has ground truth; the C++ side writes -1 elsewhere."""
    valid = precision[precision > -1]
    return float(valid.mean()) if len(valid) else None
