"""RF-DETR in Hugging Face transformers (>= 5), built from our configuration with random weights;
nothing is downloaded.

An independent rewrite of the model: the other side of the parity test and of the speed comparison.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rfdetr_repro.spec.model_config import ModelConfig


def build(model: ModelConfig, windows: int, attention: str = "sdpa") -> Any:
    """Their detection model, or their segmentation model if ``model.masks``; single-level
    configurations (P4) only.

    ``windows``: attention windows per side; ``attention``: "sdpa" or "eager". Raises
    ``ImportError`` without transformers.
    """
    import transformers.models.rf_detr as rf_detr
    from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

    settings: Any = RfDetrDinov2Config  # its type stubs lack inherited settings
    backbone = settings(
        hidden_size=model.vit_dim,
        num_attention_heads=model.vit_heads,
        num_hidden_layers=model.vit_depth,
        out_indices=list(model.feature_stages),
        image_size=model.patch * model.pos_grid_hw[0],
        patch_size=model.patch,
        num_windows=windows,
    )
    settings = rf_detr.RfDetrConfig
    config = settings(
        backbone_config=backbone,
        d_model=model.hidden,
        c2f_num_blocks=model.projector_blocks,
        decoder_ffn_dim=model.ffn,
        decoder_layers=model.decoder_layers,
        decoder_n_points=model.points,
        decoder_self_attention_heads=model.self_heads,
        decoder_cross_attention_heads=model.cross_heads,
        num_queries=model.queries,
        group_detr=model.groups,
        num_labels=model.num_classes,
        intermediate_size=4 * model.hidden,
        mask_downsample_ratio=model.mask_stride,
        dropout=0.0,
        layer_norm_eps=1e-6,  # of the projector; their default 1e-5 is not upstream's value
    )
    config._attn_implementation = backbone._attn_implementation = attention
    return (
        rf_detr.RfDetrForInstanceSegmentation if model.masks else rf_detr.RfDetrForObjectDetection
    )(config)


class Forward(nn.Module):
    """images float32 (B, 3, H, W) -> boxes cxcywh (B, Q, 4) in 0..1, logits (B, Q, C) and, with
    masks, logits (B, Q, h, w).
    """

    def __init__(self, library_model: nn.Module) -> None:
        """``library_model``: what :func:`build` returns."""
        super().__init__()
        self.model = library_model.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Boxes, logits and, of a model with masks, mask logits of a batch of images."""
        outputs = self.model(images)
        masks = getattr(outputs, "pred_masks", None)
        return (outputs.pred_boxes, outputs.logits) + (() if masks is None else (masks,))


def deployed(model: Any) -> Forward:
    """As it is: transformers has no other form."""
    return Forward(model)


evaluated = deployed
