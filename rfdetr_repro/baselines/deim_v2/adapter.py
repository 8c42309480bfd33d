"""Builds DEIMv2: transformers' port with the settings of ``baseline.toml``.

The four small sizes have a convolutional backbone (HGNetV2), the four large ones a vision
transformer (DINOv3's architecture) beside a convolutional branch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.deployed import (
    Detector,
    last_layer_alone,
    merge_normalisations,
    merge_parallel_convolutions,
)

CARD = read_card(Path(__file__).parent)
# Of the three or four stages of the convolutional backbones; the fourth stage is B0's.
_STAGES: dict[str, list[Any]] = {
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, True, True],
    "stage_numb_of_layers": [3, 3, 3, 3],
}
# channels that a stage returns, blocks, and side of the kernels
_CONVOLUTIONAL: dict[str, tuple[list[int], list[int], list[int]]] = {
    "atto": ([64, 256, 256], [1, 1, 1], [3, 3, 3]),
    "femto": ([64, 256, 512], [1, 1, 1], [3, 3, 5]),
    "pico": ([64, 256, 512], [1, 1, 2], [3, 3, 5]),
    "b0": ([64, 256, 512, 1024], [1, 1, 2, 1], [3, 3, 5, 5]),
}
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 192, "num_attention_heads": 3},
    "tiny-plus": {"hidden_size": 256, "num_attention_heads": 4},
    "small": {"hidden_size": 384, "num_attention_heads": 6, "num_register_tokens": 4},
    "small-plus": {"hidden_size": 384, "num_attention_heads": 6, "num_register_tokens": 4},
}


def build(size: str, num_classes: int = 80, **changes: Any) -> Any:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration. ``ImportError`` where transformers is too old.
    """
    import transformers.models.deimv2 as library

    fields = dict(CARD.by_key(size).settings)
    name = fields.pop("backbone")
    stages = fields.pop("backbone_stages")
    backbone = _convolutional if name in _CONVOLUTIONAL else _transformer
    fields = {"backbone_config": backbone(name, stages), "num_labels": num_classes} | fields
    settings: Any = library.Deimv2Config  # its type stubs lack inherited settings
    model: Any = library.Deimv2ForObjectDetection(settings(**fields | changes))
    return model.eval().requires_grad_(False)


def _convolutional(name: str, stages: list[int]) -> Any:
    """Configuration of an HGNetV2 whose ``stages``, counted from 1, are read out."""
    from transformers.models.hgnet_v2 import HGNetV2Config

    outputs, blocks, kernels = _CONVOLUTIONAL[name]
    settings: Any = HGNetV2Config
    return settings(
        stem_channels=[3, 16, 16],
        stage_out_channels=outputs,
        hidden_sizes=outputs,
        depths=blocks,
        stage_num_blocks=blocks,
        stage_kernel_size=kernels,
        use_learnable_affine_block=True,
        out_indices=stages,
        **{field: values[: len(outputs)] for field, values in _STAGES.items()},
    )


def _transformer(name: str, stages: list[int]) -> Any:
    """Configuration of a ViT whose blocks ``stages``, counted from 1, are read out.

    The authors' own distilled ViTs (tiny, tiny-plus) have neither registers nor scaled layers nor
    a last normalisation; those of DINOv3 have all three.
    """
    from transformers.models.dinov3_vit import DINOv3ViTConfig

    row = _TRANSFORMERS[name]
    gated = name == "small-plus"
    theirs = name.startswith("small")  # DINOv3's
    settings: Any = DINOv3ViTConfig
    return settings(
        num_hidden_layers=12,
        intermediate_size=4 * row["hidden_size"],  # of a gated block two thirds of six times
        use_gated_mlp=gated,
        layerscale_value=1e-5 if theirs else 1.0,
        pos_embed_rescale=2.0 if theirs else None,
        key_bias=theirs,
        rope_theta=100.0,
        apply_layernorm=theirs,
        reshape_hidden_states=True,
        out_indices=stages,
        **row,
    )


class _Positions(nn.Module):
    """Rotary position factors, computed once for each size of image: an exported file then holds
    those of its fixed size.
    """

    def __init__(self, library_module: nn.Module) -> None:
        super().__init__()
        self.library_module = library_module
        self.known: dict[tuple[Any, ...], Any] = {}

    def forward(self, images: Tensor) -> Any:
        """Images (B, 3, H, W) -> cosines and sines (tokens, size of a head), as the library's."""
        # while a model is exported, sides are traced values; numbers find what an earlier run made
        key = (*map(int, images.shape[-2:]), images.device, images.dtype)
        if key not in self.known:
            self.known[key] = self.library_module(images)
        return self.known[key]


class _WithoutRegisters(nn.Module):
    """The tokens of a ViT that has no registers. The library concatenates an empty tensor of
    registers, which PyTorch's exporter to ONNX counts as one token.
    """

    def __init__(self, library_module: Any) -> None:
        super().__init__()
        self.cls_token = library_module.cls_token
        self.patch_embeddings = library_module.patch_embeddings

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> class token and patches (B, 1 + H W / patch^2, width)."""
        patches = self.patch_embeddings(images).flatten(2).transpose(1, 2)
        return torch.cat((self.cls_token.expand(len(images), -1, -1), patches), 1)


def deployed(model: Any) -> Detector:
    """The authors' ``deploy``: convolutions merged, heads of other layers than the last dropped;
    alters ``model``.
    """
    merge_normalisations(merge_parallel_convolutions(model))
    backbone = getattr(model.model.conv_encoder, "backbone", None)
    if backbone is not None and hasattr(backbone, "rope_embeddings"):
        backbone.rope_embeddings = _Positions(backbone.rope_embeddings)
        if not backbone.embeddings.register_tokens.shape[1]:
            backbone.embeddings = _WithoutRegisters(backbone.embeddings)
    return last_layer_alone(model)


def evaluated(model: Any) -> Detector:
    """The authors' evaluation forward of the model as it is trained."""
    return Detector(model, choose_first=True)
