"""Builds RT-DETR: transformers' port with the settings of ``baseline.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.deployed import Detector, merge_parallel_convolutions

CARD = read_card(Path(__file__).parent)


def build(size: str, num_classes: int = 80, **changes: Any) -> Any:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration.
    """
    import transformers.models.rt_detr as library

    row = CARD.by_key(size).settings
    settings: Any = library.RTDetrConfig  # its type stubs lack inherited settings
    configuration = settings(**fields_of(row, num_classes) | changes)
    return finished(library.RTDetrForObjectDetection(configuration), row)


def fields_of(row: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Fields of the configuration of RT-DETR, version 1 or 2, for the settings ``row`` of a size;
    both versions have the same backbones and pyramids.
    """
    from transformers.models.rt_detr import RTDetrResNetConfig

    channels = [64, 128, 256, 512] if row["basic"] else [256, 512, 1024, 2048]
    settings: Any = RTDetrResNetConfig  # its type stubs lack inherited settings
    backbone = settings(
        hidden_sizes=channels,
        depths=row["depths"],
        layer_type="basic" if row["basic"] else "bottleneck",
        out_indices=[2, 3, 4],
    )
    fields: dict[str, Any] = {
        "backbone_config": backbone,
        "encoder_in_channels": channels[1:],
        "num_labels": num_classes,
        "hidden_expansion": row["expansion"],
        "decoder_layers": row["decoder_layers"],
    }
    if row["wide"]:
        fields |= {
            "encoder_hidden_dim": 384,
            "encoder_ffn_dim": 2048,
            "decoder_in_channels": [384] * 3,
        }
    return fields


def finished(model: Any, row: Mapping[str, Any]) -> Any:
    """``model`` for evaluation, with the number of decoder layers that the authors evaluate."""
    model.evaluated_layers = row["evaluated_layers"]
    return model.eval().requires_grad_(False)


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
