"""Builds LW-DETR: transformers' port with the settings of ``baseline.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.deployed import Detector

CARD = read_card(Path(__file__).parent)
_ONE: dict[str, Any] = {"projector_scale_factors": [1.0], "decoder_n_points": 2}
_PYRAMID: dict[str, Any] = {
    "projector_scale_factors": [2.0, 0.5],
    "decoder_n_points": 4,
    "d_model": 384,
    "decoder_self_attention_heads": 12,
    "decoder_cross_attention_heads": 24,
}


def build(size: str, num_classes: int = 91, **changes: Any) -> Any:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration.
    """
    import transformers.models.lw_detr as library

    row = CARD.by_key(size).settings
    settings: Any = library.LwDetrViTConfig  # its type stubs lack inherited settings
    backbone = settings(
        image_size=1024,
        hidden_size=row["vit_dim"],
        num_hidden_layers=row["vit_layers"],
        num_attention_heads=12,
        window_block_indices=row["windowed"],
        out_indices=row["stages"],
    )
    fields = {"backbone_config": backbone, "num_queries": row["queries"], "num_labels": num_classes}
    settings = library.LwDetrConfig
    fields |= (_PYRAMID if row["pyramid"] else _ONE) | changes
    model: Any = library.LwDetrForObjectDetection(settings(**fields))
    return model.eval().requires_grad_(False)


def deployed(model: Any) -> Detector:
    """As the authors export it: the last layer's heads only."""
    return Detector(model)


class _EveryLayer(Detector):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The port runs its heads on the last decoder layer; the authors' evaluation runs them on
        every layer.
        """
        outputs = self.model(images)
        earlier = outputs.intermediate_hidden_states[:-1]  # (L - 1, B, Q, d)
        model: Any = self.model
        model.class_embed(earlier)
        model.bbox_embed(earlier)
        return outputs.pred_boxes, outputs.logits


def evaluated(model: Any) -> Detector:
    """The authors' evaluation forward, for counting: heads on every decoder layer."""
    return _EveryLayer(model)
