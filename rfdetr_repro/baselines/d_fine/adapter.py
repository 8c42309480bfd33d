"""Builds D-FINE: transformers' port with the settings of ``baseline.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.deployed import (
    Detector,
    last_layer_alone,
    merge_normalisations,
    merge_parallel_convolutions,
)


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

BACKBONES = {"B0": B0, "B2": B2, "B4": B4, "B5": B5}
CARD = read_card(Path(__file__).parent)


def build(size: str, num_classes: int = 80, **changes: Any) -> Any:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration.
    """
    import transformers.models.d_fine as library
    from transformers.models.hgnet_v2 import HGNetV2Config

    fields = dict(CARD.by_key(size).settings)
    row = BACKBONES[fields.pop("backbone")]
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
    model: Any = library.DFineForObjectDetection(settings(**fields))
    return model.eval().requires_grad_(False)


def deployed(model: Any) -> Detector:
    """The authors' ``deploy``: convolutions merged, heads of other layers than the last dropped;
    alters ``model``.
    """
    merge_normalisations(merge_parallel_convolutions(model))
    return last_layer_alone(model)


def evaluated(model: Any) -> Detector:
    """The authors' evaluation forward of the model as it is trained."""
    return Detector(model, choose_first=True)
