"""COCO box and mask AP of detections. Ground truth is loaded once; hotcoco (Rust, all cores)
matches and accumulates.

A search evaluates hundreds of configurations on one split, so detections are passed as columns of
numbers and run lengths, without result files or lists of objects. hotcoco is the fastest evaluator
whose numbers equal pycocotools' to the last bit (``benchmarks/studies/coco_evaluators.py``);
pycocotools is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import hotcoco.mask
import numpy as np

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.coco_document import ImageKey
from rfdetr_repro.data.segmentation import masks_to_rle, rle_of
from rfdetr_repro.records.record import AP_RULE, Accuracy
from rfdetr_repro.spec.errors import InputError

__all__ = [
    "CocoEvaluator",
    "ImageDetections",
    "boxes_in_pixels",
    "detections_in_pixels",
    "masks_to_rle",
]

AREAS_PX2 = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101).tolist()
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ImageDetections:
    """Detections of one image, in any order."""

    image_id: ImageKey
    boxes_xyxy: np.ndarray  # float32 (k, 4) px of the original image
    scores: np.ndarray  # float32 (k,)
    labels: np.ndarray  # int64 (k,) contiguous
    masks_rle: list[dict[str, Any]] | None = None  # k compressed RLEs of the original image's size


def boxes_in_pixels(boxes_xyxy: Array, size_hw: tuple[int, int]) -> Array:
    """Boxes (k, 4) xyxy as fractions of an image -> float32 (k, 4) in its pixels, cut at its
    border; the only place that cuts boxes.

    Validation during training, the search, artifacts, ``RFDETR`` and the predict command all use
    this function, so that all mean the same boxes (upstream cuts since 1.10; COCO's own rule leaves
    boxes as passed).
    """
    height, width = size_hw
    return np.asarray(boxes_xyxy, dtype=np.float32).clip(0, 1) * np.array(
        [width, height, width, height], dtype=np.float32
    )


def detections_in_pixels(
    image_id: ImageKey,
    size_hw: tuple[int, int],
    scores: Array,
    labels: Array,
    boxes_xyxy: Array,
    masks: Any,
) -> ImageDetections:
    """The detections to evaluate, from a model's outputs for one image: every detection, at any
    number.

    ``scores`` (k,) in 0..1; ``labels`` int (k,); ``boxes_xyxy`` (k, 4) as fractions of the image;
    ``masks`` None or logits (k, h, w), array or tensor. A score of exactly 0 is an empty slot of a
    model that suppresses boxes, and not a detection. :class:`CocoEvaluator` applies COCO's limit
    per image and class. Raises :class:`InputError` for scores or boxes that are not finite, and for
    mask logits that are NaN.
    """
    diverged = "the model has diverged, or overflows in half precision"
    if not (np.isfinite(scores).all() and np.isfinite(boxes_xyxy).all()):
        raise InputError("scores or boxes are not finite", f"image id {image_id}", diverged)
    height, width = size_hw
    kept = np.flatnonzero(np.asarray(scores) > 0)
    masks = None if masks is None else masks[kept]
    # infinite logits are certain; NaN would count as background
    if masks is not None and bool((masks != masks).any()):
        raise InputError("logits of masks are NaN", f"image id {image_id}", diverged)
    rle = None if masks is None else masks_to_rle(masks, height, width)
    return ImageDetections(
        image_id, boxes_in_pixels(boxes_xyxy[kept], size_hw), scores[kept], labels[kept], rle
    )


class CocoEvaluator:
    """Evaluates many detection sets on one split.

    Crowd regions and images without detections count as in pycocotools.
    """

    def __init__(self, split: CocoSplit, max_dets: int = 100) -> None:
        """``max_dets``: number of detections per image and class that count (100 in published COCO
        numbers).
        """
        self.split = split
        self.max_dets = max_dets
        self.places = places_by_id(split)
        self._truths: dict[str, Any] = {}

    def accuracy(
        self,
        detections: Sequence[ImageDetections],
        kind: str = "bbox",
        all_areas_only: bool = False,
        artifact_sha256: str | None = None,
    ) -> Accuracy:
        """COCO metrics as fractions; ``None`` where the split has no ground truth.

        ``kind``: "bbox" or "segm". ``all_areas_only`` leaves out small, medium and large AP, which
        is faster. Raises :class:`InputError` for detections that do not fit the split or are not
        finite.
        """
        return self.accuracy_with_matches(detections, kind, all_areas_only, artifact_sha256)[0]

    def accuracy_with_matches(
        self,
        detections: Sequence[ImageDetections],
        kind: str = "bbox",
        all_areas_only: bool = False,
        artifact_sha256: str | None = None,
    ) -> tuple[Accuracy, list[dict[str, Any]]]:
        """:meth:`accuracy` and :meth:`image_matches` of all images, from one matching."""
        areas = ["all"] if all_areas_only else list(AREAS_PX2)
        run = self._run(detections, kind, areas, [self.max_dets])
        precision, _ = self._accumulated(run)
        by_area = {name: _mean(precision[..., area, -1]) for area, name in enumerate(areas)}
        small, medium, large = (by_area.get(name) for name in ("small", "medium", "large"))
        at_50, at_75 = (
            _mean(precision[IOU_THRESHOLDS.index(threshold), ..., 0, -1])
            for threshold in (0.5, 0.75)
        )
        accuracy = Accuracy(
            by_area["all"],
            at_50,
            at_75,
            small,
            medium,
            large,
            self.max_dets,
            artifact_sha256,
            AP_RULE,
        )
        return accuracy, _of_all_areas(run)

    def curves(
        self, detections: Sequence[ImageDetections], kind: str = "bbox"
    ) -> tuple[Array, list[dict[str, Any]]]:
        """Precision by IoU threshold, recall, class and size of object, float64 (10, 101, classes,
        4), with -1 where there is no object (pycocotools' ``eval["precision"]``); and
        :meth:`image_matches` of all images, from one matching.

        The sizes are those of ``AREAS_PX2``, in this order.
        """
        run = self._run(detections, kind, list(AREAS_PX2), [self.max_dets])
        precision, _ = self._accumulated(run)
        return precision[..., -1], _of_all_areas(run)

    def twelve(
        self, detections: Sequence[ImageDetections], kind: str = "bbox"
    ) -> dict[str, float | None]:
        """The twelve numbers of COCO's table by name, as fractions: AP, AP50, AP75, APs, APm, APl,
        AR1, AR10, AR, ARs, ARm, ARl.

        All except AR1 and AR10 count ``max_dets`` detections per image and class, even if that is
        not 100.
        """
        limits = sorted({min(limit, self.max_dets) for limit in (1, 10, self.max_dets)})
        precision, recall = self._arrays(detections, kind, list(AREAS_PX2), limits)
        found = {
            "AP": precision[..., 0, -1],
            "AP50": precision[0, ..., 0, -1],
            "AP75": precision[5, ..., 0, -1],
        }
        found |= {
            f"AP{name[0]}": precision[..., area, -1] for area, name in enumerate(AREAS_PX2) if area
        }
        found |= {
            f"AR{limit}": recall[..., 0, limits.index(min(limit, self.max_dets))]
            for limit in (1, 10)
        }
        found |= {"AR": recall[..., 0, -1]}
        found |= {
            f"AR{name[0]}": recall[..., area, -1] for area, name in enumerate(AREAS_PX2) if area
        }
        return {name: _mean(values) for name, values in found.items()}

    def _arrays(
        self, detections: Sequence[ImageDetections], kind: str, areas: list[str], limits: list[int]
    ) -> tuple[Array, Array]:
        """Precision (10 IoUs, 101 recalls, classes, areas, limits), recall (10, classes, areas,
        limits); -1: no ground truth.
        """
        return self._accumulated(self._run(detections, kind, areas, limits))

    @staticmethod
    def _accumulated(run: Any) -> tuple[Array, Array]:
        """Matches image by image, then accumulates; precision and recall as :meth:`_arrays`."""
        run.evaluate()
        run.accumulate()
        result: Any = run.eval
        return result["precision"], result["recall"]

    def image_matches(
        self, detections: Sequence[ImageDetections], kind: str
    ) -> list[dict[str, Any]]:
        """pycocotools' ``evalImgs`` of the images of ``detections`` alone, for all areas; see
        :mod:`.matches`.

        Their ``image_id`` is 1 + the image's place by id (``places``), their ``category_id`` is 1 +
        the label.
        """
        run = self._run(detections, kind, ["all"], [self.max_dets])
        run.params.img_ids = [1 + self.places[image.image_id] for image in detections]
        run.evaluate()
        return _of_all_areas(run)

    def _run(
        self, detections: Sequence[ImageDetections], kind: str, areas: list[str], limits: list[int]
    ) -> Any:
        if kind not in ("bbox", "segm"):
            raise InputError(f"unknown kind of evaluation {kind!r}", hint="choose bbox or segm")
        rows, rles = self._columns(detections, kind == "segm")
        truth = self._truth(kind)
        if rles is None:
            found = truth.load_res(rows)
        else:
            found = truth.load_res(rows, segmentation=rles)
            if rles:  # a mask is small or large by its own area, not by the area of its box
                found.update_anns(
                    ids=np.arange(1, len(rows) + 1),
                    area=np.asarray(hotcoco.mask.area(rles), dtype=np.float64),
                )
        run = hotcoco.COCOeval(truth, found, kind)
        run.params.iou_thrs = IOU_THRESHOLDS
        run.params.rec_thrs = RECALL_THRESHOLDS
        run.params.max_dets = limits
        run.params.area_rng = [list(AREAS_PX2[area]) for area in areas]
        run.params.area_rng_lbl = areas
        return run

    def _truth(self, kind: str) -> Any:
        """hotcoco's form of the ground truth, made at the first call. Ids start at 1, because
        COCO's rules use 0 for no match.

        The evaluator's numbers are float64, exact up to 2^53 only, and a data set's ids may be
        larger, or text. So the evaluator gets ranks: of images by id and of classes by label, which
        order equal scores like the ids.
        """
        if kind not in self._truths:
            annotations = self.split.ground_truth(segmentations=kind == "segm")["annotations"]
            label_of = {
                number: label for label, number in enumerate(self.split.classes.category_ids)
            }
            self._truths[kind] = hotcoco.COCO.from_arrays(
                [
                    {"id": 1 + self.places[info.id], "width": info.width, "height": info.height}
                    for info in self.split.images
                ],
                [
                    {"id": number + 1, "name": str(number)}
                    for number in range(len(self.split.classes))
                ],
                np.array([1 + self.places[a["image_id"]] for a in annotations], dtype=np.int64),
                np.array([1 + label_of[a["category_id"]] for a in annotations], dtype=np.int64),
                np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4),
                ids=np.arange(1, len(annotations) + 1),
                area=np.array([a["area"] for a in annotations], dtype=np.float64),
                iscrowd=np.array([int(a["iscrowd"]) for a in annotations], dtype=np.int64),
                segmentation=self._rles(annotations) if kind == "segm" else None,
            )
        return self._truths[kind]

    def _rles(self, annotations: list[dict[str, Any]]) -> list[Any]:
        size_of = {info.id: (info.height, info.width) for info in self.split.images}
        rles = []
        for annotation in annotations:
            try:
                rles.append(rle_of(annotation["segmentation"], *size_of[annotation["image_id"]]))
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                where = f"annotation id {annotation['id']} of image id {annotation['image_id']}"
                raise InputError(
                    f"no usable segmentation: {error}",
                    where,
                    "correct the segmentation, or evaluate boxes only",
                ) from error
        return rles

    def _columns(
        self, detections: Sequence[ImageDetections], masks: bool
    ) -> tuple[Array, list[dict[str, Any]] | None]:
        """Checked detections as float64 (n, 7): image id, x, y, w, h, score, category id; and their
        masks.
        """
        labels, scores, boxes = self.checked(detections, masks)
        numbers = [1.0 + self.places[image.image_id] for image in detections]
        image_ids = np.repeat(numbers, [len(image.scores) for image in detections])
        boxes[:, 2:] -= boxes[:, :2]
        rows = np.column_stack([image_ids, boxes, scores, labels + 1])
        return rows, [
            rle for image in detections for rle in image.masks_rle or ()
        ] if masks else None

    def checked(
        self, detections: Sequence[ImageDetections], masks: bool
    ) -> tuple[Array, Array, Array]:
        """Labels int64 (n,), scores float64 (n,) and boxes float64 (n, 4) xyxy px of all images'
        detections; raises :class:`InputError` for detections that do not fit the split, lack masks
        where ``masks`` asks for them, or are not finite.
        """
        self._check(detections, masks)
        labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in detections)])
        scores = np.concatenate([np.zeros(0), *(image.scores for image in detections)])  # float64
        boxes = np.concatenate(
            [np.zeros((0, 4)), *(np.reshape(image.boxes_xyxy, (-1, 4)) for image in detections)]
        )
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise InputError(
                "detections are not finite", self.split.split, "the model has diverged"
            )
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(self.split.classes):
            last = len(self.split.classes) - 1
            raise InputError(
                f"detections have a label outside 0..{last}",
                self.split.split,
                "use the classes of the train split",
            )
        return labels, scores, boxes

    def _check(self, detections: Sequence[ImageDetections], masks: bool) -> None:
        for image in detections:
            if image.image_id not in self.places:
                raise InputError(
                    f"detections of image id {image.image_id}, which is not in the split",
                    self.split.split,
                )
            lengths = {len(image.scores), len(image.labels), len(image.boxes_xyxy)}
            if masks:
                lengths.add(-1 if image.masks_rle is None else len(image.masks_rle))
            if len(lengths) > 1:
                raise InputError(
                    f"detections of image id {image.image_id} lack masks or are of unequal length",
                    self.split.split,
                )


def _of_all_areas(run: Any) -> list[dict[str, Any]]:
    """The entries of an evaluation for objects of every size."""
    whole = list(AREAS_PX2["all"])
    return [entry for entry in run.eval_imgs if entry and list(entry["aRng"]) == whole]


def images_by_id(split: CocoSplit) -> list[int]:
    """Indices of the split's images in order of id, numbers before texts: the order in which COCO
    ranks equal scores.
    """
    ids = [info.id for info in split.images]
    return sorted(range(len(ids)), key=lambda index: (isinstance(ids[index], str), ids[index]))


def places_by_id(split: CocoSplit) -> dict[ImageKey, int]:
    """Image id -> its place in :func:`images_by_id`, 0..n-1."""
    return {split.images[index].id: place for place, index in enumerate(images_by_id(split))}


def _mean(values: Array) -> float | None:
    """Mean over the entries with ground truth; entries without have -1."""
    valid = values[values > -1]
    return float(valid.mean()) if len(valid) else None
