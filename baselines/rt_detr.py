"""RT-DETR, version 1 (arXiv 2304.08069, Apache-2.0) as transformers ports it: R18, R34, R50-m
(three layers), R50, R101.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from .deployed import Detector, merge_parallel_convolutions


class Size(NamedTuple):
    depths: tuple[int, ...]  # blocks of the four ResNet stages
    basic: bool  # blocks of two 3x3 convolutions instead of bottlenecks
    decoder_layers: int
    expansion: float  # width inside the blocks of the pyramid
    wide: bool = False  # a pyramid of 384 channels instead of 256
    evaluated_layers: int = 0  # decoder layers that run after training; 0: all


SIZES = {
    "r18": Size((2, 2, 2, 2), True, 3, 0.5),
    "r34": Size((3, 4, 6, 3), True, 4, 0.5),
    "r50m": Size((3, 4, 6, 3), False, 6, 0.5, evaluated_layers=3),
    "r50": Size((3, 4, 6, 3), False, 6, 1.0),
    "r101": Size((3, 4, 23, 3), False, 6, 1.0, wide=True),
}


def build(size: str, num_classes: int = 80, **changes: Any) -> nn.Module:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration.
    """
    import transformers.models.rt_detr as library

    row = SIZES[size]
    channels = [64, 128, 256, 512] if row.basic else [256, 512, 1024, 2048]
    settings: Any = library.RTDetrResNetConfig  # its type stubs lack inherited settings
    backbone = settings(
        hidden_sizes=channels,
        depths=list(row.depths),
        layer_type="basic" if row.basic else "bottleneck",
        out_indices=[2, 3, 4],
    )
    fields: dict[str, Any] = {
        "backbone_config": backbone,
        "encoder_in_channels": channels[1:],
        "num_labels": num_classes,
        "hidden_expansion": row.expansion,
        "decoder_layers": row.decoder_layers,
    }
    if row.wide:
        fields |= {
            "encoder_hidden_dim": 384,
            "encoder_ffn_dim": 2048,
            "decoder_in_channels": [384] * 3,
        }
    settings = library.RTDetrConfig
    model = (
        library.RTDetrForObjectDetection(settings(**fields | changes)).eval().requires_grad_(False)
    )
    model.evaluated_layers = row.evaluated_layers
    return model


def deployed(model: Any) -> Detector:
    """The authors' ``deploy``: convolutions merged, decoder layers that no evaluation runs dropped;
    alters ``model``.
    """
    return evaluated(merge_parallel_convolutions(model))


def evaluated(model: Any) -> Detector:
    """The authors' evaluation forward; drops decoder layers that it does not run; alters
    ``model``.
    """
    if model.evaluated_layers:
        model.model.decoder.layers = model.model.decoder.layers[: model.evaluated_layers]
    return Detector(model)
