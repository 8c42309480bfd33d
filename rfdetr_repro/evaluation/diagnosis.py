"""What a model does well and badly on a split: AP of each class and size, precision, recall and F1
against the score, the best threshold, a confusion matrix and the worst images.

Definitions:

- AP is COCO's, to the last bit. A class or size without an object has no AP.
- A detection is right if COCO's matching at IoU 0.5 gives it an object of its class. Precision is
  the share of the detections at or above a threshold that are right, recall the share of the
  objects that they find, and F1 = 2 x right / (detections + objects). Detections on crowd regions
  count neither as right nor as wrong.
- A class without an object has no precision, recall or F1, and is not part of a mean. The mean of
  the precision leaves out classes without a detection at the threshold.
- The best threshold has the highest mean F1 over the classes.
- Confusion matrix: detections that are right are on the diagonal. Then the objects that are left
  and the detections that are left are paired, best IoU first, where the IoU is at least 0.5. What
  remains is background. So a row adds up to the objects of its class, and a column to the
  detections of its class.
- The worst images have the most missed objects plus wrong detections, the latter weighted by their
  score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .coco import AREAS_PX2, IOU_THRESHOLDS, RECALL_THRESHOLDS, CocoEvaluator, ImageDetections
from .confusion import confusion
from .hits import IOU, Hits, hits
from .shares import Shares, best_threshold, best_thresholds, rounded, rounded_all

Array = np.ndarray[Any, Any]
GRID = np.linspace(0.0, 1.0, 201)  # scores of the curves against the score
MOST_WORST = 12  # images that are listed as the worst
_50 = IOU_THRESHOLDS.index(IOU)
RULES = {
    "right": "COCO's matching at IoU 0.5 gives the detection an object of its class; detections on "
    "crowd regions are not counted",
    "mean": "over the classes that have an object",
    "threshold": "highest mean F1 over the classes",
    "confusion": "rows: class of the object; columns: class of the detection; the last of each is "
    "background; right detections first, then the objects and detections that are left, best IoU "
    "first, at IoU 0.5 or more",
    "worst": "missed objects, plus wrong detections weighted by their score",
}


@dataclass(frozen=True)
class Threshold:
    """A score threshold, and where it comes from.

    ``score``: in 0..1; None: unknown, because no detection of the split finds an object.
    ``chosen_on``: split that it was chosen on; None: given by the user.
    """

    score: float | None
    chosen_on: str | None = None

    def origin(self, evaluated: str) -> str:
        """A sentence for a threshold that is used on the split ``evaluated``."""
        if self.score is None:
            where = self.chosen_on or evaluated
            return f"No threshold is known: no detection on {where} finds an object at IoU {IOU}."
        if self.chosen_on is None:
            return f"Threshold {self.score:g}, as given."
        text = f"Threshold {self.score:g}, with the highest mean F1 on {self.chosen_on}"
        if self.chosen_on == evaluated:
            return (
                f"{text}, the split that is evaluated: precision, recall and F1 are optimistic. "
                f"Choose the threshold on another split with --threshold-split."
            )
        return f"{text}, and used on {evaluated}."


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of boxes or masks on one split.

    ``precision``: COCO's precision, see :meth:`.coco.CocoEvaluator.curves`. ``confusion``: int64
    (classes + 1, classes + 1), or None without a threshold. ``badness``: float64 (images,), or None
    without a threshold.
    """

    evaluator: CocoEvaluator
    kind: str
    detections: Sequence[ImageDetections]
    found: Hits
    precision: Array
    threshold: Threshold
    confusion: Array | None
    badness: Array | None

    def worst(self, most: int = MOST_WORST) -> list[int]:
        """Indices of the images with errors, the worst first, at most ``most``."""
        if self.badness is None:
            return []
        order = np.argsort(-self.badness, kind="stable")[:most]
        return [int(index) for index in order if self.badness[index] > 0]

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON: fractions in 0..1, None for what is unknown."""
        split = self.evaluator.split
        return {
            "iou": IOU,
            "rules": RULES,
            "threshold": asdict(self.threshold)
            | {
                "evaluated_on": split.split,
                "says": self.threshold.origin(split.split),
            },
            "mean": self._means(),
            "classes": self._classes(),
            "sizes": self._sizes(),
            "pr_curves": self._pr_curves(),
            "score_curves": self._score_curves(),
            "confusion": None
            if self.confusion is None
            else {
                "labels": [*split.classes.names, "background"],
                "matrix": self.confusion.tolist(),
            },
            "worst": self._worst_rows(),
        }

    def _classes(self) -> list[dict[str, Any]]:
        split = self.evaluator.split
        found = self.found
        pairs = np.unique(np.stack([found.object_label, found.object_image]), axis=1)
        images = np.bincount(pairs[0], minlength=found.classes)
        at = self.threshold.score
        shares = None if at is None else Shares.at(found, np.array([at]))
        best = best_thresholds(found)
        rows = []
        for label, (number, name) in enumerate(
            zip(split.classes.category_ids, split.classes.names, strict=True)
        ):
            row = {
                "category_id": number,
                "name": name,
                "images": int(images[label]),
                "objects": int(found.objects[label]),
                **self._aps(label),
                "precision": None,
                "recall": None,
                "f1": None,
                "best_threshold": best[label],
            }
            if shares is not None:
                row |= shares.row(label, 0)
                row["detections"] = int(shares.detections[label, 0])
                row["right"] = int(shares.right[label, 0])
            rows.append(row)
        return rows

    def _aps(self, label: int) -> dict[str, float | None]:
        whole = self.precision[:, :, label]
        sizes = {f"ap_{name[0]}": _mean(whole[:, :, area]) for area, name in _sizes()}
        return {"ap": _mean(whole[..., 0]), "ap50": _mean(whole[_50, :, 0]), **sizes}

    def _means(self) -> dict[str, float | None]:
        found = {"ap": _mean(self.precision[..., 0]), "ap50": _mean(self.precision[_50, ..., 0])}
        if self.threshold.score is None:
            return found | {"precision": None, "recall": None, "f1": None}
        shares = Shares.at(self.found, np.array([self.threshold.score]))
        means = shares.means()
        return found | {name: rounded(values[0]) for name, values in means.items()}

    def _sizes(self) -> list[dict[str, Any]]:
        """COCO's sizes; an object whose area is on a limit belongs to both sizes, as in COCO."""
        areas = self.evaluator.split.table.area[self.found.row]
        at = self.threshold.score
        rows = []
        for place, name in _sizes():
            low, high = AREAS_PX2[name]
            here = (areas >= low) & (areas <= high)
            found = None if at is None or not here.any() else ~self.found.missed(at)[here]
            rows.append(
                {
                    "size": name,
                    "from_px2": low,
                    "to_px2": high if high < AREAS_PX2["all"][1] else None,
                    "objects": int(here.sum()),
                    "ap": _mean(self.precision[:, :, :, place]),
                    "ap50": _mean(self.precision[_50, :, :, place]),
                    "recall": None if found is None else rounded(found.mean()),
                }
            )
        return rows

    def _pr_curves(self) -> dict[str, Any]:
        curves = self.precision[_50, :, :, 0]  # (101, classes)
        known = curves[:, self.found.present]
        return {
            "recall": rounded_all(np.array(RECALL_THRESHOLDS)),
            "mean": rounded_all(known.mean(1)) if known.shape[1] else None,
            "classes": [
                rounded_all(curves[:, label]) if label in set(self.found.present.tolist()) else None
                for label in range(self.found.classes)
            ],
        }

    def _score_curves(self) -> dict[str, Any]:
        shares = Shares.at(self.found, GRID)
        mean = {name: rounded_all(values) for name, values in shares.means().items()}
        classes = [
            shares.curves(label) if self.found.objects[label] else None
            for label in range(self.found.classes)
        ]
        return {"score": rounded_all(GRID), "mean": mean, "classes": classes}

    def _worst_rows(self) -> list[dict[str, Any]]:
        at = self.threshold.score
        if at is None:
            return []
        found = self.found
        missed = found.missed(at)
        wrong = found.shown(at) & ~found.hit
        rows = []
        for index in self.worst():
            info = self.evaluator.split.images[index]
            objects = found.object_image == index
            here = wrong & (found.image == index)
            rows.append(
                {
                    "image_id": info.id,
                    "file": info.path.name,
                    "objects": int(objects.sum()),
                    "missed": int((missed & objects).sum()),
                    "wrong": int(here.sum()),
                    "wrong_scores": rounded(found.score[here].sum()),
                }
            )
        return rows


def diagnose(
    evaluator: CocoEvaluator,
    detections: Sequence[ImageDetections],
    kind: str = "bbox",
    threshold: Threshold | None = None,
) -> Diagnosis:
    """The diagnosis of ``detections``; ``kind``: "bbox" or "segm"; ``threshold`` None: the best on
    this split.

    Raises :class:`~rfdetr_repro.spec.errors.InputError` for detections that do not fit the split.
    """
    precision, entries = evaluator.curves(detections, kind)
    found = hits(evaluator, detections, kind, entries)
    if threshold is None:
        threshold = Threshold(best_threshold(found), evaluator.split.split)
    at = threshold.score
    confused = None if at is None else confusion(evaluator, detections, kind, found, at)
    bad = None if at is None else badness(found, at)
    return Diagnosis(evaluator, kind, detections, found, precision, threshold, confused, bad)


def badness(found: Hits, threshold: float) -> Array:
    """Missed objects plus the scores of wrong detections, float64 (images,)."""
    missed = np.bincount(found.object_image[found.missed(threshold)], minlength=found.images)
    wrong = found.shown(threshold) & ~found.hit
    scores = np.bincount(found.image[wrong], found.score[wrong], minlength=found.images)
    return missed + scores


def _sizes() -> list[tuple[int, str]]:
    """The sizes below "all" with their places in ``AREAS_PX2``."""
    return [(place, name) for place, name in enumerate(AREAS_PX2) if name != "all"]


def _mean(values: Array) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
