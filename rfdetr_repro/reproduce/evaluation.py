"""The whole evaluation of one model on one split: COCO's metrics and the diagnosis, as one JSON
value and as pictures. The evaluate command and the last stage of a campaign use it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.bench.accuracy import Progress, detect_split
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.decoding import reduced
from rfdetr_repro.data.segmentation import decode_mask
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections
from rfdetr_repro.evaluation.diagnosis import Diagnosis, Threshold, diagnose
from rfdetr_repro.evaluation.matches import measured
from rfdetr_repro.evaluation.tiles import Tiling
from rfdetr_repro.plots.detections import Annotations
from rfdetr_repro.plots.diagnosis import ErrorPicture, write_charts, write_worst
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json, writable_folder, write_atomic

METRICS = "metrics.json"
KINDS = {"boxes": "bbox", "masks": "segm"}
PICTURES = 6  # images on the sheet of the worst
PICTURE_PIXELS = 1 << 20  # largest number of pixels of an image on the sheet


@dataclass(frozen=True)
class Asked:
    """How a split is evaluated.

    ``threshold``: a score in 0..1; a split, on which the best threshold is chosen; or None: the
    evaluated split chooses. ``max_dets``: COCO's maxDets. ``progress`` wraps the indices of the
    images. ``tiling``: look at the images in tiles.
    """

    threshold: float | CocoSplit | None = None
    max_dets: int = 100
    progress: Progress = iter
    tiling: Tiling | None = None


@dataclass(frozen=True)
class Evaluation:
    """``metrics``: what is written as JSON; ``diagnoses``: of "boxes", and of "masks" where they
    can be measured.
    """

    metrics: dict[str, Any]
    split: CocoSplit
    diagnoses: dict[str, Diagnosis] = field(repr=False)

    def write(self, folder: str | Path) -> list[Path]:
        """Writes ``metrics.json`` and the pictures into ``folder``; pictures of an earlier
        evaluation there that this one does not have are removed. Returns the pictures.

        For boxes, and for masks: ``boxes-pr``, ``boxes-scores`` and ``boxes-confusion`` as PNG and
        SVG, and ``boxes-worst.png``. ``metrics.json`` is written last, so it is never there without
        its pictures.
        """
        folder = writable_folder(Path(folder))
        (folder / METRICS).unlink(missing_ok=True)
        written = []
        for kind, found in self.diagnoses.items():
            content = self.metrics["diagnosis"][kind]
            where = f"{self.metrics['model']} on {self.split.name} {self.split.split}"
            written += write_charts(content, kind, where, folder)
            if worst := found.worst(PICTURES):
                pictures = [error_picture(found, index) for index in worst]
                path = folder / f"{kind}-worst.png"
                names = self.split.classes.names
                threshold = content["threshold"]["score"]
                written.append(write_worst(pictures, path, class_names=names, threshold=threshold))
        for kind in KINDS:
            for old in [*folder.glob(f"{kind}-*.png"), *folder.glob(f"{kind}-*.svg")]:
                if old not in written:
                    old.unlink()
        write_atomic(folder / METRICS, json.dumps(self.metrics, indent=1) + "\n")
        return written


def evaluation_of(session: Session, split: CocoSplit, asked: Asked = Asked()) -> Evaluation:
    """Evaluates the session's file on ``split``. The metrics are fractions in 0..1, None where
    unknown.

    Raises :class:`InputError` for a threshold outside 0..1, and for a split to choose the threshold
    on whose masks cannot be measured.
    """
    manifest = session.manifest
    masks = len(manifest.outputs) == 4
    with_masks = masks and not split.why_no_mask_ap()
    kinds = {name: kind for name, kind in KINDS.items() if name == "boxes" or with_masks}
    thresholds = _thresholds(session, asked, kinds)
    detections = detect_split(session, split, progress=asked.progress, tiling=asked.tiling)
    evaluator = CocoEvaluator(split, max_dets=asked.max_dets)
    digest = session.artifact_id.sha256
    accuracy = {
        name: dataclasses.asdict(measured(evaluator, detections, kind, digest))
        for name, kind in kinds.items()
    }
    diagnoses = {
        name: diagnose(evaluator, detections, kind, thresholds.get(name))
        for name, kind in kinds.items()
    }
    metrics = {
        "artifact": digest,
        "runtime": session.artifact_id.runtime,
        "model": manifest.model.name,
        "data": split.name,
        "split": split.split,
        "num_images": len(split),
        "data_sha256": split.sha256,
        "boxes": accuracy["boxes"],
        "masks": accuracy.get("masks"),
        "why_no_masks": split.why_no_mask_ap() if manifest.model.task == "segment" else "",
        "diagnosis": {name: found.as_json() for name, found in diagnoses.items()},
    }
    return Evaluation(metrics, split, diagnoses)


def evaluate_chosen(
    session: Session, splits: Mapping[str, CocoSplit], folder: str | Path
) -> Evaluation | None:
    """Evaluates the model that a campaign ends with, on the splits of :func:`splits_of`, and writes
    ``folder``; None if the folder holds this evaluation already.
    """
    split, chooser = splits_of(session, splits)
    known = Path(folder) / METRICS
    if known.exists():
        found = read_json(known)
        same = {"artifact": session.artifact_id.sha256, "data_sha256": split.sha256}
        if isinstance(found, dict) and same.items() <= found.items():
            return None
    evaluation = evaluation_of(session, split, Asked(chooser))
    evaluation.write(folder)
    return evaluation


def splits_of(
    session: Session, splits: Mapping[str, CocoSplit]
) -> tuple[CocoSplit, CocoSplit | None]:
    """The split that the model of a campaign is evaluated on, test where there is a test split,
    else val; and the split that its threshold is chosen on, None for the evaluated split itself.

    The threshold is chosen on val, so that test stays unseen, unless only test has usable masks.
    """
    split = splits.get("test", splits["val"])
    chooser = splits["val"]
    masks = len(session.manifest.outputs) == 4 and not split.why_no_mask_ap()
    unusable = chooser is split or (masks and bool(chooser.why_no_mask_ap()))
    return split, None if unusable else chooser


def _thresholds(session: Session, asked: Asked, kinds: Mapping[str, str]) -> dict[str, Threshold]:
    """The thresholds that are given, or chosen on another split; empty where the evaluated split
    chooses.
    """
    where = asked.threshold
    if where is None:
        return {}
    if not isinstance(where, CocoSplit):
        if not 0 <= where <= 1:
            raise InputError(f"threshold {where} is not in 0..1")
        return {name: Threshold(float(where)) for name in kinds}
    if "masks" in kinds and (why := where.why_no_mask_ap()):
        raise InputError(
            f"no threshold of masks can be chosen on {where.split}: {why}",
            where.name,
            "choose the threshold on another split",
        )
    detections = detect_split(session, where, progress=asked.progress, tiling=asked.tiling)
    evaluator = CocoEvaluator(where, max_dets=asked.max_dets)
    return {name: diagnose(evaluator, detections, kind).threshold for name, kind in kinds.items()}


def error_picture(found: Diagnosis, index: int) -> ErrorPicture:
    """Image ``index`` of the split with its objects and the detections at or above the threshold,
    made smaller for drawing where it is very large.
    """
    split = found.evaluator.split
    at = found.threshold.score
    if at is None:
        raise InputError("no threshold is known, so no detection is wrong", split.split)
    masks = found.kind == "segm"
    sample = split.sample(index, masks=masks and split.has_masks)
    canvas = reduced(np.asarray(sample.image), PICTURE_PIXELS)
    size = split.images[index].height, split.images[index].width
    hits = found.found
    truths = Annotations(sample.boxes_xyxy, sample.labels, None, sample.masks)
    here = hits.object_image == index
    shown = hits.shown(at) & (hits.image == index)
    of_image = np.flatnonzero(hits.image == index)
    rows = np.flatnonzero(shown) - (of_image[0] if len(of_image) else 0)
    predictions = _detections(found.detections, split.images[index].id, rows, masks, size)
    return ErrorPicture(
        split.images[index].path.name,
        canvas,
        _smaller(truths, size, canvas.shape[:2]),
        ~hits.missed(at)[here],
        _smaller(predictions, size, canvas.shape[:2]),
        hits.hit[shown],
    )


def _detections(
    detections: Sequence[ImageDetections],
    image_id: Any,
    rows: np.ndarray,
    masks: bool,
    size: tuple[int, int],
) -> Annotations:
    """The detections ``rows`` of an image, with bitmaps if ``masks``."""
    one = next((one for one in detections if one.image_id == image_id), None)
    if one is None:
        return Annotations(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), None)
    bitmaps: Any = None
    if masks and one.masks_rle is not None:
        bitmaps = np.array([decode_mask(one.masks_rle[row], *size) for row in rows], dtype=bool)
        bitmaps = bitmaps.reshape(-1, *size)
    return Annotations(one.boxes_xyxy[rows], one.labels[rows], one.scores[rows], bitmaps)


def _smaller(objects: Annotations, size: tuple[int, int], drawn: tuple[int, ...]) -> Annotations:
    """The objects of an image of ``size`` on a form of ``drawn`` pixels, both (h, w)."""
    if tuple(drawn) == size:
        return objects
    scale = np.array([drawn[1] / size[1], drawn[0] / size[0]] * 2)
    masks = objects.masks
    if masks is not None:
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip(drawn, size, strict=True)
        )
        masks = masks[:, rows[:, None], columns]
    return Annotations(objects.boxes_xyxy * scale, objects.labels, objects.scores, masks)
