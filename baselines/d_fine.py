"""D-FINE (arXiv 2410.13842, Apache-2.0) as transformers ports it, in the five sizes of the authors'
configuration files.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from .deployed import Detector, merge_normalisations, merge_parallel_convolutions


class Backbone(NamedTuple):
    """HGNetV2: channels of the stem and of the four stages, blocks per stage, layers per block."""

    stem: tuple[int, int]
    inputs: tuple[int, ...]
    middle: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: tuple[int, ...]
    layers: int
    affine: bool  # a learnt scale and shift after every activation


B0 = Backbone(
    (16, 16), (16, 64, 256, 512), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, True
)
B2 = Backbone(
    (24, 32), (32, 96, 384, 768), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, True
)
B4 = Backbone(
    (32, 48),
    (48, 128, 512, 1024),
    (48, 96, 192, 384),
    (128, 512, 1024, 2048),
    (1, 1, 3, 1),
    6,
    False,
)
B5 = Backbone(
    (32, 64),
    (64, 128, 512, 1024),
    (64, 128, 256, 512),
    (128, 512, 1024, 2048),
    (1, 2, 5, 2),
    6,
    False,
)

_THREE_LEVELS: dict[str, Any] = {"decoder_n_points": [3, 6, 3]}
_TWO_LEVELS: dict[str, Any] = {
    "num_feature_levels": 2,
    "feat_strides": [16, 32],
    "encode_proj_layers": [1],
    "decoder_n_points": [6, 6],
    "d_model": 128,
    "encoder_hidden_dim": 128,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "decoder_in_channels": [128, 128],
}
# the authors freeze those of L and X only
_TRAINED_NORMS: dict[str, Any] = {"freeze_backbone_batch_norms": False}
_WIDE: dict[str, Any] = {
    "encoder_hidden_dim": 384,
    "encoder_ffn_dim": 2048,
    "decoder_in_channels": [384, 384, 384],
}
SIZES: dict[str, tuple[Backbone, dict[str, Any]]] = {
    "n": (
        B0,
        _TRAINED_NORMS
        | _TWO_LEVELS
        | {"depth_mult": 0.5, "hidden_expansion": 0.34, "decoder_layers": 3},
    ),
    "s": (
        B0,
        _TRAINED_NORMS
        | _THREE_LEVELS
        | {"depth_mult": 0.34, "hidden_expansion": 0.5, "decoder_layers": 3},
    ),
    "m": (B2, _TRAINED_NORMS | _THREE_LEVELS | {"depth_mult": 0.67, "decoder_layers": 4}),
    "l": (B4, _THREE_LEVELS),
    "x": (B5, _THREE_LEVELS | _WIDE),
}


def build(size: str, num_classes: int = 80, **changes: Any) -> nn.Module:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration.
    """
    import transformers.models.d_fine as library
    from transformers.models.hgnet_v2 import HGNetV2Config

    row, fields = SIZES[size]
    levels = fields.get("num_feature_levels", 3)
    settings: Any = HGNetV2Config  # its type stubs lack inherited settings
    backbone = settings(
        stem_channels=[3, *row.stem],
        stage_in_channels=list(row.inputs),
        stage_mid_channels=list(row.middle),
        stage_out_channels=list(row.outputs),
        hidden_sizes=list(row.outputs),
        stage_num_blocks=list(row.blocks),
        stage_numb_of_layers=[row.layers] * 4,
        use_learnable_affine_block=row.affine,
        out_indices=[2, 3, 4][-levels:],
    )
    settings = library.DFineConfig
    channels = list(row.outputs[-levels:])
    fields = (
        {"backbone_config": backbone, "encoder_in_channels": channels, "num_labels": num_classes}
        | fields
        | changes
    )
    return library.DFineForObjectDetection(settings(**fields)).eval().requires_grad_(False)


def deployed(model: Any) -> Detector:
    """The authors' ``deploy``: convolutions merged, heads of other layers than the last dropped;
    alters ``model``.
    """
    merge_normalisations(merge_parallel_convolutions(model))
    decoder = model.model.decoder
    last = len(model.model.decoder.layers) - 1
    for heads in (decoder.class_embed, decoder.lqe_layers):
        for index in range(last):
            heads[index] = nn.Identity()
    model.class_embed, model.bbox_embed = decoder.class_embed, decoder.bbox_embed
    return Detector(model, choose_first=True)


def evaluated(model: Any) -> Detector:
    """The authors' evaluation forward of the model as it is trained."""
    return Detector(model, choose_first=True)
