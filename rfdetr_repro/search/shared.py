"""Accuracy of every configuration of a space, shared exactly (docs/search.md).

Configurations that differ only in decoder depth and query count share the backbone, the two-stage
selection and one decoder pass; each still gets the same numbers as its own sliced subnet. The
module reads a model and a split, and uses no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.loader import evaluation_batches
from rfdetr_repro.evaluation.coco import ImageDetections
from rfdetr_repro.evaluation.predict_split import BATCH, detections_of, device_of
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.arch import Arch


@torch.inference_mode()
def shared_detections(
    detector: Detector,
    split: CocoSplit,
    archs: Sequence[Arch],
    *,
    masks: bool,
    indices: Sequence[int] | None = None,
) -> dict[Arch, list[ImageDetections]]:
    """Detections of all ``archs``, which must share one backbone, from one pass over the split, or
    over its images at ``indices``.
    """
    if len({arch.backbone for arch in archs}) != 1:
        raise ValueError("these architectures do not share a backbone")
    first = archs[0]
    depths = [arch.decoder_layers for arch in archs]
    queries = [arch.queries for arch in archs]
    found: dict[Arch, list[ImageDetections]] = {arch: [] for arch in archs}
    infos_left = iter(
        split.images if indices is None else [split.images[index] for index in indices]
    )
    for batch in evaluation_batches(split, first.input_hw, BATCH, indices):
        infos = list(islice(infos_left, len(batch.images)))
        maps = detector.features(batch.to(device_of(detector)).images, first.patch, first.windows)
        outputs = detector.decode_shared(maps, first.input_hw, depths, queries, masks=masks)
        for arch in archs:
            found[arch] += detections_of(
                outputs[arch.decoder_layers, arch.queries], infos, arch.queries, masks=masks
            )
    return found


def by_backbone(archs: Iterable[Arch]) -> Iterator[list[Arch]]:
    """Groups of architectures that share a backbone pass, in order of first appearance."""
    groups: dict[tuple[int, ...], list[Arch]] = {}
    for arch in archs:
        groups.setdefault(arch.backbone, []).append(arch)
    yield from groups.values()
