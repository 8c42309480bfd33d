"""A subnet that PyTorch computes in float16 or bfloat16, with the regions in float32 that a float16
ONNX file keeps (``export/float32_regions.py``), and the check that it agrees with float32.

Weights and activations are half; box arithmetic, the sine embedding of reference boxes, sampling
locations with the weights of samples, and scores are float32. LayerNorm and softmax keep their
statistics in float32 in PyTorch's own kernels.

Detections of two precisions cannot be compared one by one where confidences are nearly equal: the
two-stage selection then chooses other tokens, and every later number belongs to another query. The
check therefore compares all queries of a pass whose tokens are those that float32 chose, and
compares the choice itself by the confidence that it loses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfdetr_repro.export.onnx.exporter import example_images
from rfdetr_repro.model.detector import Detector, Outputs
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.ranges import choose

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
REGIONS = ("boxes", "positions", "sampling", "scores")  # in float32 at every precision
_SEED = 0


@dataclass(frozen=True)
class Closeness:
    """Largest differences between a half subnet and the float32 subnet, or the largest allowed.

    A query agrees where its box, scores and mask are within the allowed differences.
    """

    box: float  # of a corner's coordinate, as part of the image
    score: float
    mask_logit: float  # relative to the largest logit of the image where that exceeds 1
    # confidence that is lost by the least confident token that was chosen
    choice: float
    agreeing: float = 0.98  # share of the queries that agree

    def __str__(self) -> str:
        return (
            f"{self.agreeing:.1%} of the queries agree, largest differences box {self.box:.2g}, "
            f"score {self.score:.2g}, mask logit {self.mask_logit:.2g}, choice of tokens "
            f"{self.choice:.2g}"
        )


# A bfloat16 number has 8 significant bits, a float16 number 11.
ALLOWED = {
    "fp16": Closeness(box=5e-3, score=5e-3, mask_logit=2e-2, choice=5e-3),
    "bf16": Closeness(box=4e-2, score=4e-2, mask_logit=0.16, choice=4e-2),
}


def in_precision(subnet: Detector, precision: str, where: object = "") -> Detector:
    """``subnet``, float32 on its device, in ``precision``: itself in "fp32", else a copy that
    agrees with it.

    Raises :class:`InputError`, which names ``where``, for a precision that PyTorch does not compute
    and for weights that do not fit into float16; :class:`StatedFailure` where the copy disagrees.
    """
    dtype = DTYPES[choose(precision, tuple(DTYPES), "precision in PyTorch", str(where))]
    if dtype == torch.float32:
        return subnet
    half = in_dtype(subnet, dtype, where)
    check_half(subnet, half, ALLOWED[precision], f"{where} in {precision}")
    return half


def in_dtype(subnet: Detector, dtype: torch.dtype, where: object = "") -> Detector:
    """A copy of ``subnet`` in ``dtype`` whose reference boxes stay float32; raises
    :class:`InputError` for weights that the type cannot represent.
    """
    half = copy.deepcopy(subnet).to(dtype)
    for name, parameter in half.named_parameters():
        if not parameter.isfinite().all():
            raise InputError(
                f"{name} has values beyond the range of {str(dtype).removeprefix('torch.')}",
                where,
                "choose bf16 or fp32",
            )
    boxes = subnet.decoder.refpoint_embed
    half.decoder.refpoint_embed = nn.Parameter(boxes.detach().clone(), requires_grad=False)
    return half.eval()


@torch.inference_mode()
def check_half(
    exact: Detector, half: Detector, allowed: Closeness, name: str, count: int = 2
) -> Closeness:
    """Compares the two subnets, which are on one device, on ``count`` images of 1, smooth and of
    noise; raises :class:`StatedFailure`, which names ``name``, beyond ``allowed``.
    """
    device = next(exact.parameters()).device
    noise = torch.Generator().manual_seed(_SEED)
    shape = (1, 3, *exact.arch.input_hw)
    images = [example_images(exact.arch)]
    images += [torch.rand(shape, generator=noise) for _ in range(count - 1)]
    parts = [_compared(exact, half, image.to(device), allowed) for image in images]
    found = Closeness(
        box=max(part.box for part in parts),
        score=max(part.score for part in parts),
        mask_logit=max(part.mask_logit for part in parts),
        choice=max(part.choice for part in parts),
        agreeing=min(part.agreeing for part in parts),
    )
    # written so that NaN is refused as well
    if not (found.agreeing >= allowed.agreeing and found.choice <= allowed.choice):
        raise StatedFailure(f"{name} disagrees with float32: {found}")
    return found


def _compared(exact: Detector, half: Detector, images: Tensor, allowed: Closeness) -> Closeness:
    with _kept(exact.selection) as chosen, _kept(exact.selection.class_embed) as logits:
        expected = exact(images)
    tokens = chosen[0].tokens  # (B, 1, k)
    with _kept(half.selection.class_embed) as half_logits:
        found = half(images.to(half.decoder.query_feat.dtype), tokens=tokens)
    confidence = logits[0].amax(-1).sigmoid()  # (B, 1, S)
    chosen_by_half = half_logits[0].amax(-1).topk(tokens.shape[-1], dim=-1).indices
    lost = confidence.gather(-1, tokens).amin(-1) - confidence.gather(-1, chosen_by_half).amin(-1)
    box = _distance(_corners(found), _corners(expected))  # (B, N)
    score = _distance(found.logits.float().sigmoid(), expected.logits.sigmoid())
    mask = _mask_distance(found, expected)
    agrees = (box <= allowed.box) & (score <= allowed.score) & (mask <= allowed.mask_logit)
    return Closeness(
        box=float(box.max()),
        score=float(score.max()),
        mask_logit=float(mask.max()),
        choice=max(0.0, float(lost.max())),
        agreeing=float(agrees.float().mean()),
    )


def _corners(outputs: Outputs) -> Tensor:
    centre, size = outputs.boxes_cxcywh.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    """(B, N, ...) twice -> the largest difference of each query, (B, N); infinite where a number is
    not finite.
    """
    difference = (found - expected).abs().nan_to_num(nan=math.inf)
    return difference.flatten(2).amax(-1)


def _mask_distance(found: Outputs, expected: Outputs) -> Tensor:
    """The distance of the mask logits of each query, (B, N), 0 without masks."""
    logits = found.mask_logits
    wanted = expected.mask_logits
    if logits is None or wanted is None:
        return expected.logits.new_zeros(expected.logits.shape[:2])
    return _distance(logits.float(), wanted) / wanted.abs().amax().clamp_min(1.0)


@contextmanager
def _kept(module: nn.Module) -> Iterator[list[Any]]:
    """The outputs of ``module`` while the block runs, in order."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
