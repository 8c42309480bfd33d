"""Builds a model of EdgeCrafter with random weights; imported by the programs beside this file,
which are run by the interpreter that has libreyolo.

Exit code 64: libreyolo cannot be imported, or has no EdgeCrafter.
"""

import sys
from typing import Any

try:
    import libreyolo
    import torch
    from libreyolo import LibreEC
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(64)


class Detector(torch.nn.Module):
    """Images (1, 3, H, W) -> boxes, logits and, with masks, mask logits."""

    def __init__(self, model: Any) -> None:
        """``model``: libreyolo's network."""
        super().__init__()
        self.model = model

    def forward(self, images: Any) -> tuple[Any, ...]:
        """Boxes cxcywh in 0..1 (1, Q, 4), logits (1, Q, C) and maybe mask logits (1, Q, h, w)."""
        outputs = self.model(images)
        keys = ("pred_boxes", "pred_logits", "pred_masks")
        return tuple(outputs[key] for key in keys if key in outputs)


def build(name: str) -> Any:
    """The deployed model called ``name``, such as ``ec-s`` or ``ec-s-seg``."""
    size, *masks = name.removeprefix("ec-").split("-")
    torch.manual_seed(0)
    task = "segment" if masks else "detect"
    model = LibreEC(None, size=size, device="cpu", task=task).model
    return Detector(model.deploy()).eval().requires_grad_(False)


def versions() -> dict[str, str]:
    """Of the packages."""
    return {
        "libreyolo": getattr(libreyolo, "__version__", "unknown"),
        "libreyolo-torch": torch.__version__,
    }
