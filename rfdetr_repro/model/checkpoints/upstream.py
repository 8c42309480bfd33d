"""What upstream's program (``rfdetr`` 1.0 to 1.11) writes about a model, and what it must read
about a model of this package.

:data:`IMPLEMENTED` lists the settings that change what the weights mean; a file that departs from
them is refused by the setting's name. The other settings of upstream concern training only, or
follow from the shapes of the weights.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.presets import PRESETS

LAYOUT_VERSION = "1.11.2"  # version of upstream whose layout :func:`described` follows
# the name of mask_downsample_ratio here; only files of this package have it
SAVED_STRIDE = "mask_stride"

# Setting -> values under which weights have the same meaning as here. Read from upstream's
# ``populate_args`` (1.0 to 1.5) and
# ``ModelConfig`` (1.6 to 1.11).
IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "encoder": ("dinov2_windowed_small", "dinov2_windowed_base"),
    "two_stage": (True,),
    "bbox_reparam": (True,),
    "lite_refpoint_refine": (True,),
    "layer_norm": (True,),
    "rms_norm": (False,),
    "decoder_norm": ("LN",),
    "position_embedding": ("sine",),  # computed, but not read by the decoder
    "num_channels": (3,),
    "mask_downsample_ratio": (4,),
    "use_cls_token": (False,),
    "encoder_only": (False,),
    "backbone_only": (False,),
    "use_grouppose_keypoints": (False,),
    "inter_instance_kp_attn": (False,),
    "dual_projector": (False,),
    "dual_projector_kp_only": (False,),
    "num_decoder_registers": (0,),
}
# Settings of upstream's ``ModelConfig`` that follow from shapes, that are read elsewhere, or that
# concern training or loading only.
_HARMLESS = {
    "out_feature_indexes",
    "dec_layers",
    "projector_scale",
    "hidden_dim",
    "patch_size",
    "num_windows",
    "sa_nheads",
    "ca_nheads",
    "dec_n_points",
    "num_queries",
    "num_select",
    "postprocess_trace_alpha",
    "amp",
    "num_classes",
    "pretrain_weights",
    "device",
    "resolution",
    "group_detr",
    "gradient_checkpointing",
    "compile",
    "cuda_graphs",
    "fused_optimizer",
    "positional_encoding_size",
    "ia_bce_loss",
    "cls_loss_coef",
    "segmentation_head",
    "keypoint_cross_attn",
    "grouppose_keypoint_dim_downscale",
    "num_keypoints_per_class",
    "backbone_lora",
    "freeze_encoder",
    "license",
    "model_name",
    "window_block_indexes",
    "dim_feedforward",
    "class_names",
    "trust_checkpoint",
}
_REFUSED = (
    "this setting changes what the weights mean and is not implemented here: use upstream's "
    "program for this file"
)


def check_settings(
    stated: Mapping[str, Any], model_config: Mapping[str, Any], shapes: Mapping[str, Any]
) -> None:
    """Refuses settings under which the weights of a released file mean something else than here;
    the :class:`InputError` names the setting.

    ``stated`` is everything that the file states. ``model_config`` is upstream's configuration of
    the model alone; an unknown name in it is refused too, unless that setting is off. ``shapes``
    follows from the tensors.
    """
    for name, values in IMPLEMENTED.items():
        # the fields of this package state these in full
        own = name in ("encoder", "mask_downsample_ratio") and SAVED_STRIDE in stated
        if stated.get(name) is not None and stated[name] not in values and not own:
            raise InputError(f"{name}={stated[name]!r} (implemented: {values[0]!r})", hint=_REFUSED)
    if any(_number(count) for count in stated.get("num_keypoints_per_class") or ()):
        raise InputError(
            f"num_keypoints_per_class={stated['num_keypoints_per_class']!r}: keypoints",
            hint=_REFUSED,
        )
    if (
        stated.get("segmentation_head") is not None
        and bool(stated["segmentation_head"]) != shapes["masks"]
    ):
        there = "has" if shapes["masks"] else "lacks"
        raise InputError(
            f"segmentation_head={stated['segmentation_head']!r}, but the file {there} a mask head"
        )
    if stated.get("dim_feedforward") is not None and stated["dim_feedforward"] != shapes["ffn"]:
        raise InputError(
            f"dim_feedforward={stated['dim_feedforward']!r}, but the weights have {shapes['ffn']}"
        )
    _check_windows(stated, shapes)
    ours = ModelConfig.__dataclass_fields__
    for name, value in model_config.items():
        if (
            name not in IMPLEMENTED
            and name not in _HARMLESS
            and name not in ours
            and value not in (None, False, 0, "", [], {})
        ):
            raise InputError(f"{name}={value!r} is an unknown setting of the model", hint=_REFUSED)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _check_windows(stated: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    """``window_block_indexes`` is always derived from the stages in released files: all other
    blocks.
    """
    listed = stated.get("window_block_indexes")
    stages = stated.get("out_feature_indexes")
    if not listed or not stages:
        return
    derived = set(range(shapes["vit_depth"])) - {int(stage) for stage in stages}
    if {int(index) for index in listed} - set(range(max(map(int, stages)) + 1)) or {
        int(i) for i in listed
    } - derived:
        raise InputError(
            f"window_block_indexes={list(listed)!r} with out_feature_indexes={list(stages)!r}",
            hint=_REFUSED,
        )


# The same for the configuration of RF-DETR in Hugging Face transformers: the detector, and its
# backbone.
_TRANSFORMERS: dict[str, Any] = {
    "activation_function": "silu",
    "decoder_activation_function": "relu",
    "segmentation_head_activation_function": "gelu",
    "hidden_expansion": 0.5,
    "attention_bias": True,
    "mask_downsample_ratio": 4,
}
_TRANSFORMERS_BACKBONE: dict[str, Any] = {
    "hidden_act": "gelu",
    "use_swiglu_ffn": False,
    "apply_layernorm": True,
    "qkv_bias": True,
    "num_channels": 3,
    "mlp_ratio": 4,
}


def transformers_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a ``config.json`` of transformers under upstream's names. Raises
    :class:`InputError`, which names the setting, for a setting that is not implemented.
    """
    backbone = config.get("backbone_config")
    backbone = backbone if isinstance(backbone, Mapping) else {}
    for part, table in ((config, _TRANSFORMERS), (backbone, _TRANSFORMERS_BACKBONE)):
        for name, value in table.items():
            if part.get(name, value) != value:
                raise InputError(
                    f"{name}={part[name]!r} in config.json (implemented: {value!r})", hint=_REFUSED
                )
    side = backbone.get("image_size")
    sides = set(side) if isinstance(side, list) else {side}
    found = {
        "sa_nheads": config.get("decoder_self_attention_heads"),
        "ca_nheads": config.get("decoder_cross_attention_heads"),
        "dec_n_points": config.get("decoder_n_points"),
        "num_queries": config.get("num_queries"),
        "dim_feedforward": config.get("decoder_ffn_dim"),
        "vit_heads": backbone.get("num_attention_heads"),
        "num_windows": backbone.get("num_windows"),
        "out_feature_indexes": backbone.get("out_indices"),
        "window_block_indexes": backbone.get("window_block_indexes"),
        "resolution": side if not isinstance(side, list) else side[0] if len(sides) == 1 else None,
    }
    return {name: value for name, value in found.items() if value is not None}


# Keyword of upstream's ``export`` -> (values that describe the exported file here, what to use
# instead of another value).
_EXPORT_WORDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "format": (("onnx",), "use python -m rfdetr_repro.export --to torch|tensorrt|tensorrt-rtx"),
    "dynamic_batch": ((False,), "the batch of an exported file is 1"),
    "batch_size": ((1,), "the batch of an exported file is 1"),
    "backbone_only": ((False,), "whole detectors are exported only"),
    "quantization": ((None, "fp32"), "use python -m rfdetr_repro.export --precision fp16"),
    "fp16": ((False,), "use python -m rfdetr_repro.export --precision fp16"),
    "tensorrt": ((False,), "use python -m rfdetr_repro.export --to tensorrt"),
    "simplify": ((False, True), ""),  # the graph is built without what a simplifier removes
    "verbose": ((False, True), ""),
    "force": ((False, True), ""),
}


def export_words(words: Mapping[str, Any], opset: int) -> str | None:
    """``output_dir`` of upstream's ``export`` keywords. Raises :class:`InputError` for a keyword
    that would need another kind of file.
    """
    allowed = {**_EXPORT_WORDS, "opset_version": ((opset,), f"the operator set is {opset}")}
    for name, value in words.items():
        if name in ("output_dir", "infer_dir"):
            continue
        if name not in allowed:
            near = difflib.get_close_matches(
                name, [*allowed, "output_dir", "path", "contract", "name", "shape"], 1
            )
            raise InputError(
                f"unknown setting {name} of an export",
                hint=f"did you mean {near[0]}?" if near else "",
            )
        if value not in allowed[name][0]:
            raise InputError(f"{name}={value!r} is not supported here", hint=allowed[name][1])
    return words.get("output_dir")


# -- writing ---------------------------------------------------------------------------------------

_CLASSES = {
    "nano": "RFDETRNano",
    "small": "RFDETRSmall",
    "medium": "RFDETRMedium",
    "large": "RFDETRLarge",
    "xlarge": "RFDETRXLarge",
    "2xlarge": "RFDETR2XLarge",
    "base": "RFDETRBase",
    "large-deprecated": "RFDETRLargeDeprecated",
    "seg-preview": "RFDETRSegPreview",
    "seg-nano": "RFDETRSegNano",
    "seg-small": "RFDETRSegSmall",
    "seg-medium": "RFDETRSegMedium",
    "seg-large": "RFDETRSegLarge",
    "seg-xlarge": "RFDETRSegXLarge",
    "seg-2xlarge": "RFDETRSeg2XLarge",
}
# class of upstream -> name of the size here
UPSTREAM_CLASSES = {name: size for size, name in _CLASSES.items()}
_ENCODERS = {(384, 6): "dinov2_windowed_small", (768, 12): "dinov2_windowed_base"}


def class_of(model: ModelConfig, arch: Arch) -> str:
    """Upstream's class for a model: the class of the same size, else a class whose settings can all
    be replaced.
    """
    for size, name in _CLASSES.items():
        row = PRESETS[size]
        if replace(row.model, num_classes=model.num_classes) == model and row.arch == arch:
            return name
    return "RFDETRSegNano" if model.masks else "RFDETRNano"


def departures(model: ModelConfig, arch: Arch) -> list[str]:
    """The reasons why upstream's program cannot build a model; empty where it can."""
    height, width = arch.input_hw
    reasons = {
        f"a square input only, not {height}x{width}": height != width,
        f"encoders of width 384 and 768 only, not {model.vit_dim}": (model.vit_dim, model.vit_heads)
        not in _ENCODERS,
        f"12 encoder blocks only, not {model.vit_depth}": model.vit_depth != 12,
        "encoders with LayerScale only": not model.layer_scale,
        f"3 projector blocks only, not {model.projector_blocks}": model.projector_blocks != 3,
        f"a feed-forward width of 2048 only, not {model.ffn}": model.ffn != 2048,
        f"first-stage proposals of side 0.05 only, not {model.proposal_side:g}": model.proposal_side
        != 0.05,
        "global blocks at the feature stages only": set(model.global_blocks)
        != {stage for stage in model.feature_stages if stage < model.vit_depth},
        f"the stored patch kernel only, {model.patch} px, not {arch.patch}": arch.patch
        != model.patch,
    }
    return [reason for reason, there in reasons.items() if there]


def described(
    model: ModelConfig, arch: Arch, names: list[str], category_ids: list[int]
) -> dict[str, Any]:
    """What :func:`save_released` writes in addition to the weights: ``args``, ``model_config``,
    ``model_name`` and the version.

    ``names`` are those of labels 0 to n - 1, as upstream's program numbers labels; the head has n +
    1 logits.
    """
    config = {
        "encoder": _ENCODERS.get(
            (model.vit_dim, model.vit_heads), f"dinov2_windowed_{model.vit_dim}"
        ),
        "out_feature_indexes": list(model.feature_stages),
        "dec_layers": model.decoder_layers,
        "two_stage": True,
        "projector_scale": list(model.levels),
        "hidden_dim": model.hidden,
        "patch_size": model.patch,
        "num_windows": arch.windows,
        "sa_nheads": model.self_heads,
        "ca_nheads": model.cross_heads,
        "dec_n_points": model.points,
        "num_queries": model.queries,
        "num_select": model.queries,
        "bbox_reparam": True,
        "lite_refpoint_refine": True,
        "layer_norm": True,
        "num_classes": len(names),
        "resolution": arch.input_hw[0],
        "group_detr": model.groups,
        "positional_encoding_size": model.pos_grid,
        "segmentation_head": model.masks,
        "mask_downsample_ratio": model.mask_stride,
    }
    ours = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in model.stated().items()
    }
    arguments = argparse.Namespace(
        **{
            **ours,
            **config,
            "input_hw": list(arch.input_hw),
            "class_names": names,
            "category_ids": category_ids,
            "label_convention": "contiguous",
        }
    )
    name = class_of(model, arch)
    return {
        "args": arguments,
        "model_config": config,
        "model_name": name,
        "rfdetr_version": LAYOUT_VERSION,
    }
