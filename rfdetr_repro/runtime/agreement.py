"""Check that an artifact computes what its subnet computes, by matched boxes, never elementwise.

Detections with nearly equal scores may come in any order, and two-stage selection may swap queries
(benchmark protocol section 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rfdetr_repro.data.network_input import normalise
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.spec.errors import StatedFailure

from .matching import differences, match
from .session import Array, Detections, Session


@dataclass(frozen=True)
class Tolerance:
    """Largest differences that are allowed between an artifact and PyTorch.

    Box distances are the largest of the four coordinate differences, as parts of the image size.
    Boxes farther apart than ``same_object`` are not compared at all.
    """

    box: float = 1e-3  # part of the image size
    score: float = 1e-3
    mask_logit: float = 1e-2  # relative to the largest logit of the image where that exceeds 1
    matched: float = 0.98  # share of detections that must be matched
    same_object: float = 0.02  # part of the image size


@dataclass(frozen=True)
class Agreement:
    """Largest differences over matched detections of all images."""

    box: float
    score: float
    mask_logit: float | None
    matched: float  # share of detections that were matched
    num_detections: int


@torch.no_grad()
def check_against(
    subnet: nn.Module, session: Session, images: Array, tolerance: Tolerance | None = None
) -> Agreement:
    """Compares the detections of PyTorch and of the artifact on ``images``.

    ``images``: float32 (N, 3, H, W), RGB in 0..1. Raises :class:`StatedFailure` where a difference
    exceeds ``tolerance``.
    """
    tolerance = tolerance or Tolerance()
    parts: list[Array] = []
    matched = total = 0
    for image in images:
        found = session.run(np.ascontiguousarray(image[None]))
        ranked = top_k(subnet(normalise(torch.from_numpy(image[None]))), found.scores.shape[1])
        masks = None if ranked.mask_logits is None else ranked.mask_logits.numpy()
        expected = Detections(
            ranked.scores.numpy(), ranked.labels.numpy(), ranked.boxes_xyxy.numpy(), masks
        )
        pairs = match(expected, found, tolerance.same_object)
        matched, total = matched + len(pairs), total + found.scores.shape[1]
        if len(pairs):
            parts.append(differences(expected, found, pairs).max(axis=0))
    box, score, mask = np.max(parts, axis=0) if parts else (np.inf, np.inf, np.inf)
    has_masks = len(session.manifest.outputs) == 4
    agreement = Agreement(
        float(box), float(score), float(mask) if has_masks else None, matched / max(total, 1), total
    )
    _refuse_beyond(agreement, tolerance, session.manifest.model.name)
    return agreement


def _refuse_beyond(agreement: Agreement, tolerance: Tolerance, name: str) -> None:
    within = (
        agreement.box <= tolerance.box
        and agreement.score <= tolerance.score
        and agreement.matched >= tolerance.matched
    )
    if not within or (agreement.mask_logit or 0.0) > tolerance.mask_logit:
        mask = "" if agreement.mask_logit is None else f", mask logit {agreement.mask_logit:.2g}"
        raise StatedFailure(
            f"the artifact of {name} disagrees with PyTorch: {agreement.matched:.1%} of detections "
            f"matched, largest differences box {agreement.box:.2g}, score "
            f"{agreement.score:.2g}{mask}"
        )
