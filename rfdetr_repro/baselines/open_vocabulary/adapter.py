"""MM-GroundingDINO (Apache-2.0) as transformers ports it: the paper measures GroundingDINO's cost
on it, in PyTorch (its star).

It has a text encoder and data-dependent masks, so there is no artifact of it; it is counted as a
module, at the size and with the prompt behind the paper's number: an image of 800 x 1333 px, and
COCO's 80 names as 195 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# of "person. bicycle. ... toothbrush." in BERT's vocabulary, with the two that frame it
TOKENS = 195


def build(size: str = "tiny", num_classes: int = 80, **changes: Any) -> Any:
    """transformers' detector (Swin-T, BERT base), random weights; there is one size, and its
    classes are words.

    ``changes`` replace fields.
    """
    import transformers.models.mm_grounding_dino as library

    settings: Any = library.MMGroundingDinoConfig  # its type stubs lack inherited settings
    config = settings(disable_custom_kernels=True, **changes)
    model: Any = library.MMGroundingDinoForObjectDetection(config)
    return model.eval().requires_grad_(False)


class Forward(nn.Module):
    """images float32 (B, 3, H, W) -> boxes cxcywh (B, Q, 4) in 0..1, logits (B, Q, tokens), under a
    prompt of ``TOKENS``.
    """

    def __init__(self, library_model: nn.Module) -> None:
        """``library_model``: what :func:`build` returns."""
        super().__init__()
        self.model = library_model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and logits of a batch of images."""
        tokens = torch.ones(len(images), TOKENS, dtype=torch.long, device=images.device)
        outputs = self.model(images, tokens, attention_mask=tokens)
        return outputs.pred_boxes, outputs.logits


def evaluated(model: nn.Module) -> Forward:
    """The library's forward pass; there is no other form."""
    return Forward(model)


deployed = evaluated
