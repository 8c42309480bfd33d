"""Detections and accuracy of one detector in PyTorch, image by image, as a stand-alone subnet gives
them.

Training chooses its weights by this accuracy, and the search's shared passes must equal these
detections. Numbers in Records come from artifacts instead (:mod:`rfdetr_repro.bench.accuracy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from rfdetr_repro.data.coco import CocoSplit, ImageInfo
from rfdetr_repro.data.loader import Making, evaluation_batches
from rfdetr_repro.data.transfer import batches_on
from rfdetr_repro.model.detector import Detector, Outputs
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.resize_rules import ANTIALIASED

from .coco import CocoEvaluator, ImageDetections, detections_in_pixels

BATCH = 8


def detections_of(
    outputs: Outputs, images: Iterable[ImageInfo], k: int, *, masks: bool
) -> list[ImageDetections]:
    """One :class:`ImageDetections` per image of the batch: the top k, boxes in pixels of the
    original image.
    """
    ranked = top_k(outputs, k, masks=masks)
    # one copy for the whole batch
    scores = ranked.scores.float().cpu().numpy()
    labels = ranked.labels.cpu().numpy()
    boxes = ranked.boxes_xyxy.float().cpu().numpy()
    logits = None if ranked.mask_logits is None else ranked.mask_logits.float().cpu().numpy()
    return [
        detections_in_pixels(
            info.id,
            (info.height, info.width),
            scores[row],
            labels[row],
            boxes[row],
            None if logits is None else logits[row],
        )
        for row, info in enumerate(images)
    ]


@torch.inference_mode()
def single_detections(
    subnet: Detector,
    split: CocoSplit,
    *,
    masks: bool,
    arch: Arch | None = None,
    resize: str = ANTIALIASED,
) -> list[ImageDetections]:
    """Detections of one stand-alone subnet on a split; ``arch`` None is the subnet's own.

    ``resize``: the model's rule.
    """
    arch, device = arch or subnet.arch, device_of(subnet)
    found: list[ImageDetections] = []
    making = Making(pinned=device.type == "cuda")
    batches = evaluation_batches(split, arch.input_hw, BATCH, resize=resize, making=making)
    for batch in batches_on(device, batches):
        infos = split.images[len(found) : len(found) + len(batch.images)]
        found += detections_of(
            subnet(batch.images, arch, masks=masks), infos, arch.queries, masks=masks
        )
    return found


def device_of(detector: Detector) -> torch.device:
    """The device of the detector's parameters."""
    return next(detector.parameters()).device


def base_accuracies(detector: Detector, splits: Mapping[str, CocoSplit]) -> list[dict[str, Any]]:
    """Accuracy of the detector's own architecture on each split, as rows of a training log."""
    rows = []
    for name, split in splits.items():
        masks = detector.mask_head is not None and not split.why_no_mask_ap()
        evaluator = CocoEvaluator(split)
        found = single_detections(detector, split, masks=masks)
        boxes = evaluator.accuracy(found, "bbox", all_areas_only=True)
        mask_ap = evaluator.accuracy(found, "segm", all_areas_only=True).ap if masks else None
        rows.append({"split": name, "ap": boxes.ap, "ap50": boxes.ap50, "mask_ap": mask_ap})
    return rows
