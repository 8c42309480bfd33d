"""A rival as a module that takes the batches of this package's data pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rfdetr_repro.data.network_input import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_repro.data.transforms import Target
from rfdetr_repro.model.detector import Outputs

# beginning of a loss's name in transformers -> kind, as the lines of progress name kinds
KINDS = {
    "loss_vfl": "class",
    "loss_mal": "class",
    "loss_ce": "class",
    "loss_focal": "class",
    "loss_bbox": "l1",
    "loss_giou": "giou",
    "loss_fgl": "sides",
    "loss_ddf": "sides",
}
# fields of a configuration whose loss is the weighted sum of the parts that the library reports
COEFFICIENTS = {
    "loss_ce": "class_loss_coefficient",
    "loss_bbox": "bbox_loss_coefficient",
    "loss_giou": "giou_loss_coefficient",
}


class RivalModule(nn.Module):
    """Normalised images float32 (B, 3, H, W), as :class:`rfdetr_repro.data.transforms.Batch` has
    them -> outputs, or the library's own loss.

    The state has the library's names, each after "model.".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, normalise: str, hw: tuple[int, int]) -> None:
        """``model``: a detector of transformers; ``normalise``: what it expects of RGB values in
        0..1, "none" or "imagenet"; ``hw``: height and width of its images, px.
        """
        super().__init__()
        self.model = model
        self.input_hw = hw
        plain = normalise == "none"
        mean = IMAGENET_MEAN if plain else (0.0, 0.0, 0.0)
        std = IMAGENET_STD if plain else (1.0, 1.0, 1.0)
        self.register_buffer("mean", _column(mean), persistent=False)
        self.register_buffer("std", _column(std), persistent=False)

    @property
    def queries(self) -> int:
        """Number of detections of an image."""
        return int(self.model.config.num_queries)

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images -> images in the model's own normalisation, of the same shape."""
        return images * self.std + self.mean

    def forward(self, images: Tensor) -> Outputs:
        """What the library's model predicts, without masks."""
        found = self.model(pixel_values=self.pixels(images))
        return Outputs(found.logits, found.pred_boxes, None)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> tuple[Tensor, dict[str, Tensor]]:
        """The library's loss of a batch, and its weighted parts as "NAME/KIND", which add up to the
        loss.
        """
        labels = [
            {"class_labels": target.labels, "boxes": target.boxes_cxcywh} for target in targets
        ]
        found = self.model(pixel_values=self.pixels(images), labels=labels)
        parts = {}
        for name, value in found.loss_dict.items():
            beginning = next((one for one in KINDS if name.startswith(one)), None)
            if beginning is not None:
                weight = getattr(self.model.config, COEFFICIENTS.get(beginning, ""), 1.0)
                if not self._reports_unweighted:
                    weight = 1.0
                part = torch.as_tensor(value).detach().double()
                parts[f"{name}/{KINDS[beginning]}"] = weight * part
        return found.loss, parts

    @property
    def _reports_unweighted(self) -> bool:
        """Whether the library's parts are those before their weights (LW-DETR)."""
        return hasattr(self.model.config, "class_loss_coefficient")


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
