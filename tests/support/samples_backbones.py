"""Small backbones of every kind: detectors with random weights, and folders as transformers writes
them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import TINY

from rfdetr_repro.model.checkpoints.backbone_folders import detector_with, read_backbone
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbones import conv_fields, vit_fields
from rfdetr_repro.spec.presets import Preset

_VIT = {"feature_stages": (1, 2, 3, 4), "global_blocks": (2,)}
FIELDS: dict[str, dict[str, Any]] = {
    "dinov2": vit_fields("dinov2", 32, 2, 4, **_VIT),
    "dinov2-registers": vit_fields("dinov2-registers", 32, 2, 4, registers=3, **_VIT),
    "dinov3": vit_fields("dinov3", 32, 2, 4, registers=2, **_VIT),
    "dinov3-gated": vit_fields("dinov3", 32, 2, 4, registers=2, gated=True, **_VIT),
    "convnext": conv_fields((1, 2, 2, 1), (8, 16, 24, 32)),
}


def small(kind: str, **changes: Any) -> Preset:
    """A small size with a backbone of FIELDS."""
    return Preset(replace(TINY.model, **FIELDS[kind], **changes), Arch(64, 16, 1, 2, 10))


def small_detector(kind: str, seed: int = 0, **changes: Any) -> Detector:
    """Random weights, all of them shaken out of zeros and ones."""
    row = small(kind, **changes)
    torch.manual_seed(seed)
    detector = Detector(row.model, row.arch)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return detector.eval()


def shaken(module: Any, seed: int = 0) -> Any:
    """A module of transformers in evaluation mode, with random numbers in every parameter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.3 if parameter.dim() > 1 else 0.1
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            noise = torch.randn_like(parameter) * scale / max(1.0, fan_in**0.5 / 3)
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return module.eval()


def their_backbone(kind: str, **changes: Any) -> Any:
    """A backbone of transformers as small as those of FIELDS, with all maps as outputs."""
    import transformers

    vit = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    conv = {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 2, 2, 1],
        "out_features": ["stage2", "stage3", "stage4"],
        "layer_scale_init_value": 0.5,
    }
    dinov3 = {**vit, "intermediate_size": 128, "num_register_tokens": 2}
    classes = {
        "dinov2": ("Dinov2", {**vit, "image_size": 64, "patch_size": 16}),
        "dinov2-registers": (
            "Dinov2WithRegisters",
            {**vit, "image_size": 64, "patch_size": 16, "num_register_tokens": 3},
        ),
        "dinov3": ("DINOv3ViT", dinov3),
        "dinov3-gated": ("DINOv3ViT", {**dinov3, "use_gated_mlp": True, "hidden_act": "silu"}),
        "convnext": ("ConvNext", conv),
        "dinov3-convnext": ("DINOv3ConvNext", conv),
    }
    name, settings = classes[kind]
    config = getattr(transformers, f"{name}Config")(**{**settings, **changes})
    return shaken(getattr(transformers, f"{name}Backbone")(config))


def their_folder(path: Path, kind: str, **changes: Any) -> Any:
    """Saves :func:`their_backbone` in the folder ``path`` and returns it."""
    theirs = their_backbone(kind, **changes)
    theirs.save_pretrained(path)
    return theirs


# the size into which folders are read
ROW = Preset(replace(TINY.model, pos_grid=4), Arch(64, 16, 1, 2, 10))


def read(path: Path, row: Preset = ROW) -> Detector:
    return detector_with(row, read_backbone(path), seed=0)[0]
