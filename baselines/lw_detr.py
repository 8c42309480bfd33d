"""LW-DETR (arXiv 2406.03459, Apache-2.0) as transformers ports it, in the five sizes of the
authors' scripts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from .deployed import Detector


class Size(NamedTuple):
    vit_dim: int
    vit_layers: int
    windowed: tuple[int, ...]  # blocks with window attention
    stages: tuple[int, ...]  # blocks that are read out
    queries: int
    pyramid: bool = False  # two levels, 384 channels; else one of 256


_TEN = (10, (0, 1, 3, 6, 7, 9), (2, 4, 5, 9), 300)
SIZES = {
    "tiny": Size(192, 6, (0, 2, 4), (1, 3, 5), 100),
    "small": Size(192, *_TEN),
    "medium": Size(384, *_TEN),
    "large": Size(384, *_TEN, pyramid=True),
    "xlarge": Size(768, *_TEN, pyramid=True),
}
_ONE: dict[str, Any] = {"projector_scale_factors": [1.0], "decoder_n_points": 2}
_PYRAMID: dict[str, Any] = {
    "projector_scale_factors": [2.0, 0.5],
    "decoder_n_points": 4,
    "d_model": 384,
    "decoder_self_attention_heads": 12,
    "decoder_cross_attention_heads": 24,
}


def build(size: str, num_classes: int = 91, **changes: Any) -> nn.Module:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration.
    """
    import transformers.models.lw_detr as library

    row = SIZES[size]
    settings: Any = library.LwDetrViTConfig  # its type stubs lack inherited settings
    backbone = settings(
        image_size=1024,
        hidden_size=row.vit_dim,
        num_hidden_layers=row.vit_layers,
        num_attention_heads=12,
        window_block_indices=list(row.windowed),
        out_indices=list(row.stages),
    )
    fields = {"backbone_config": backbone, "num_queries": row.queries, "num_labels": num_classes}
    settings = library.LwDetrConfig
    fields |= (_PYRAMID if row.pyramid else _ONE) | changes
    return library.LwDetrForObjectDetection(settings(**fields)).eval().requires_grad_(False)


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
        self.model.class_embed(earlier), self.model.bbox_embed(earlier)
        return outputs.pred_boxes, outputs.logits


def evaluated(model: Any) -> Detector:
    """The authors' evaluation forward, for counting: heads on every decoder layer."""
    return _EveryLayer(model)
