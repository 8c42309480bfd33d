"""Rivals of pico width: each method's own backbone, encoder, decoder and queries with few channels
and layers, so that a comparison can be trained on a CPU in minutes.

The widths follow RF-DETR's size pico: 128 channels, two decoder layers, 25 queries. What the method
does in training (denoising queries, groups of queries, its losses) is the library's default.
"""

from __future__ import annotations

import importlib
from typing import Any

from .names import PICO_QUERIES

WIDTH = 128
FEED_FORWARD = 512
DECODER_LAYERS = 2
# HGNetV2 with half the channels of B0: stem, channels inside and at the end of the four stages
STEM = (16, 16)
MIDDLE = (16, 32, 64, 128)
STAGES = (32, 64, 128, 256)
# ResNet with half the channels of R18
RESNET = (32, 64, 128, 256)


# family -> module of transformers, and the beginning of its class names
MODULES = {
    "dfine": ("d_fine", "DFine"),
    "deimv2": ("deimv2", "Deimv2"),
    "rtdetr": ("rt_detr", "RTDetr"),
    "rtdetrv2": ("rt_detr_v2", "RTDetrV2"),
    "lwdetr": ("lw_detr", "LwDetr"),
}


def classes_of(family: str) -> tuple[Any, Any]:
    """transformers' classes of a family: of its configuration, and of its detector. ``ImportError``
    where transformers lacks them.
    """
    module, beginning = MODULES[family]
    library = importlib.import_module(f"transformers.models.{module}")
    detector = getattr(library, f"{beginning}ForObjectDetection")
    return getattr(library, f"{beginning}Config"), detector


def configuration(family: str, num_classes: int) -> Any:
    """transformers' configuration of ``family`` at pico width."""
    fields = {
        "dfine": _d_fine,
        "rtdetr": _rt_detr,
        "rtdetrv2": _rt_detr,
        "lwdetr": _lw_detr,
    }[family]()
    config_class, _ = classes_of(family)
    return config_class(num_labels=num_classes, num_queries=PICO_QUERIES, **fields)


def _d_fine() -> dict[str, Any]:
    """Two levels, as the size N."""
    from transformers.models.hgnet_v2 import HGNetV2Config

    settings: Any = HGNetV2Config  # its type stubs lack inherited settings
    backbone = settings(
        stem_channels=[3, *STEM],
        stage_in_channels=[STEM[1], *STAGES[:-1]],
        stage_mid_channels=list(MIDDLE),
        stage_out_channels=list(STAGES),
        hidden_sizes=list(STAGES),
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[3] * 4,
        use_learnable_affine_block=True,
        out_indices=[3, 4],
    )
    return {
        "backbone_config": backbone,
        "encoder_in_channels": list(STAGES[-2:]),
        "freeze_backbone_batch_norms": False,
        "num_feature_levels": 2,
        "feat_strides": [16, 32],
        "encode_proj_layers": [1],
        "decoder_n_points": [6, 6],
        "d_model": WIDTH,
        "encoder_hidden_dim": WIDTH,
        "encoder_ffn_dim": FEED_FORWARD,
        "decoder_ffn_dim": FEED_FORWARD,
        "decoder_in_channels": [WIDTH, WIDTH],
        "depth_mult": 0.5,
        "hidden_expansion": 0.34,
        "decoder_layers": DECODER_LAYERS,
    }


def _rt_detr() -> dict[str, Any]:
    from transformers.models.rt_detr import RTDetrResNetConfig

    settings: Any = RTDetrResNetConfig
    backbone = settings(
        embedding_size=RESNET[0],
        hidden_sizes=list(RESNET),
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_indices=[2, 3, 4],
    )
    return {
        "backbone_config": backbone,
        "encoder_in_channels": list(RESNET[1:]),
        "freeze_backbone_batch_norms": False,
        "hidden_expansion": 0.5,
        "decoder_layers": DECODER_LAYERS,
        "d_model": WIDTH,
        "encoder_hidden_dim": WIDTH,
        "encoder_ffn_dim": FEED_FORWARD,
        "decoder_ffn_dim": FEED_FORWARD,
        "decoder_in_channels": [WIDTH] * 3,
    }


def _lw_detr() -> dict[str, Any]:
    """The backbone has the width and depth of RF-DETR's pico, and windows in two of its blocks."""
    from transformers.models.lw_detr import LwDetrViTConfig

    settings: Any = LwDetrViTConfig
    backbone = settings(
        image_size=256,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_windows=4,
        window_block_indices=[0, 2],
        out_indices=[1, 2, 3],
    )
    return {
        "backbone_config": backbone,
        "projector_scale_factors": [1.0],
        "decoder_n_points": 2,
        "d_model": WIDTH,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 8,
        "decoder_ffn_dim": FEED_FORWARD,
        "decoder_layers": DECODER_LAYERS,
        "group_detr": 4,
    }
