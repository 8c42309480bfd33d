"""Accuracy of every configuration of a space, shared exactly (product "The search", step 1).

Configurations that differ only in decoder depth and query count share the backbone, the two-stage selection and one decoder pass;
each still gets the numbers its own sliced subnet would give. Floor 6: reads a model and a split, knows no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from ..coco_eval import CocoEvaluator, ImageDetections, masks_to_rle
from ..config import Arch
from ..data.coco import CocoSplit, ImageInfo
from ..data.loader import evaluation_batches
from ..model.detector import Detector, Outputs
from ..model.postprocess import top_k

BATCH = 8


def detections_of(outputs: Outputs, images: Iterable[ImageInfo], k: int, *, masks: bool) -> list[ImageDetections]:
    """One :class:`ImageDetections` per image of the batch: the top k, boxes in pixels of the original image."""
    ranked = top_k(outputs, k, masks=masks)
    results = []
    for row, info in enumerate(images):
        scale = torch.tensor([info.width, info.height, info.width, info.height])
        rle = None if ranked.mask_logits is None else masks_to_rle(ranked.mask_logits[row].cpu(), info.height, info.width)
        boxes = (ranked.boxes_xyxy[row].float().cpu() * scale).numpy()
        scores, labels = ranked.scores[row].cpu().numpy(), ranked.labels[row].cpu().numpy()
        results.append(ImageDetections(info.id, boxes, scores, labels, rle))
    return results


@torch.inference_mode()
def shared_detections(
    detector: Detector, split: CocoSplit, archs: list[Arch], *, masks: bool
) -> dict[Arch, list[ImageDetections]]:
    """Detections of all ``archs``, which must share one backbone, from one pass over the split."""
    if len({arch.backbone for arch in archs}) != 1:
        raise ValueError("these architectures do not share a backbone")
    first = archs[0]
    depths, queries = [arch.decoder_layers for arch in archs], [arch.queries for arch in archs]
    found: dict[Arch, list[ImageDetections]] = {arch: [] for arch in archs}
    position = 0
    for batch in evaluation_batches(split, first.input_hw, BATCH):
        infos = split.images[position : position + len(batch.images)]
        position += len(infos)
        maps = detector.features(batch.to(_device(detector)).images, first.patch, first.windows)
        outputs = detector.decode_shared(maps, first.input_hw, depths, queries, masks=masks)
        for arch in archs:
            found[arch] += detections_of(outputs[arch.decoder_layers, arch.queries], infos, arch.queries, masks=masks)
    return found


@torch.inference_mode()
def single_detections(subnet: Detector, split: CocoSplit, *, masks: bool, arch: Arch | None = None) -> list[ImageDetections]:
    """Detections of one stand-alone subnet: what the shared pass must equal, and the slow way to the same number.

    ``arch`` None: the subnet's own.
    """
    arch = arch or subnet.arch
    found: list[ImageDetections] = []
    for batch in evaluation_batches(split, arch.input_hw, BATCH):
        infos = split.images[len(found) : len(found) + len(batch.images)]
        found += detections_of(subnet(batch.to(_device(subnet)).images, arch, masks=masks), infos, arch.queries, masks=masks)
    return found


def _device(detector: Detector) -> torch.device:
    return next(detector.parameters()).device


def by_backbone(archs: Iterable[Arch]) -> Iterator[list[Arch]]:
    """Groups of architectures that share one backbone pass, in order of first appearance."""
    groups: dict[tuple[int, ...], list[Arch]] = {}
    for arch in archs:
        groups.setdefault(arch.backbone, []).append(arch)
    yield from groups.values()


def base_accuracies(detector: Detector, splits: dict[str, CocoSplit]) -> list[dict]:
    """Accuracy of the detector's own architecture on each split, as rows of a training log."""
    rows = []
    for name, split in splits.items():
        masks, evaluator = detector.mask_head is not None, CocoEvaluator(split)
        found = single_detections(detector, split, masks=masks)
        boxes = evaluator.accuracy(found, "bbox", all_areas_only=True)
        mask_ap = evaluator.accuracy(found, "segm", all_areas_only=True).ap if masks else None
        rows.append({"split": name, "ap": boxes.ap, "ap50": boxes.ap50, "mask_ap": mask_ap})
    return rows
