"""Parameter names of other projects -> the released RF-DETR names that :mod:`released` reads.

Three layouts: RF-DETR in Hugging Face transformers, DINOv2 as Hugging Face names it, DINOv2 as Meta
published it. Names are translated, and attention projections are joined or cut; no value is
computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from rfdetr_repro.spec.errors import InputError

ENCODER = "backbone.0.encoder.encoder."
_HF_ENCODER = "backbone.backbone."
_PROJECTOR = "backbone.0.projector.stages.0."

# transformers name (prefixes "model." cut) -> released name; the first match wins, and a name that
# no row matches is kept.
_TRANSFORMERS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"^backbone\.backbone\.(.*)\.attention\.([qkv])_proj\.",
            rf"{ENCODER}\1.attention.attention.\2_.",
        ),
        (
            r"^backbone\.backbone\.(.*)\.attention\.o_proj\.",
            rf"{ENCODER}\1.attention.output.dense.",
        ),
        (r"^backbone\.backbone\.", ENCODER),
        (r"^backbone\.projector\.layer_norm\.", rf"{_PROJECTOR}1."),
        (
            r"^backbone\.projector\.projector_layer\.bottlenecks\.(\d+)\.conv(\d)\.conv\.",
            rf"{_PROJECTOR}0.m.\1.cv\2.conv.",
        ),
        (
            r"^backbone\.projector\.projector_layer\.bottlenecks\.(\d+)\.conv(\d)\.norm\.",
            rf"{_PROJECTOR}0.m.\1.cv\2.bn.",
        ),
        (r"^backbone\.projector\.projector_layer\.conv(\d)\.conv\.", rf"{_PROJECTOR}0.cv\1.conv."),
        (r"^backbone\.projector\.projector_layer\.conv(\d)\.norm\.", rf"{_PROJECTOR}0.cv\1.bn."),
        (
            r"^decoder\.layers\.(\d+)\.self_attn\.o_proj\.",
            r"transformer.decoder.layers.\1.self_attn.out_proj.",
        ),
        (
            r"^decoder\.layers\.(\d+)\.self_attn_layer_norm\.",
            r"transformer.decoder.layers.\1.norm1.",
        ),
        (
            r"^decoder\.layers\.(\d+)\.cross_attn_layer_norm\.",
            r"transformer.decoder.layers.\1.norm2.",
        ),
        (r"^decoder\.layers\.(\d+)\.layer_norm\.", r"transformer.decoder.layers.\1.norm3."),
        (r"^decoder\.layers\.(\d+)\.mlp\.fc(\d)\.", r"transformer.decoder.layers.\1.linear\2."),
        (r"^decoder\.layernorm\.", "transformer.decoder.norm."),
        (
            r"^(decoder|enc_output|enc_output_norm|enc_out_class_embed|enc_out_bbox_embed)\.",
            r"transformer.\1.",
        ),
        (r"^reference_point_embed\.", "refpoint_embed."),
        (r"^segmentation_bias$", "segmentation_head.bias"),
        (r"^blocks\.(\d+)\.layernorm\.", r"segmentation_head.blocks.\1.norm."),
        (r"^blocks\.(\d+)\.depthwise_conv\.", r"segmentation_head.blocks.\1.dwconv."),
        (r"^blocks\.(\d+)\.pointwise_conv\.", r"segmentation_head.blocks.\1.pwconv1."),
        (r"^query_features_block\.norm\.", "segmentation_head.query_features_block.norm_in."),
        (r"^query_features_block\.mlp\.fc1\.", "segmentation_head.query_features_block.layers.0."),
        (r"^query_features_block\.mlp\.fc2\.", "segmentation_head.query_features_block.layers.2."),
        (r"^(spatial_features_proj|query_features_proj)\.", r"segmentation_head.\1."),
    )
)
_QKV = {"q": "query", "k": "key", "v": "value"}
_SELF_ATTENTION = re.compile(r"decoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")


def layout_of(names: Iterable[str]) -> str:
    """The layout that the names belong to: "released", "transformers", "dinov2", "dinov2-meta" or
    "unknown".
    """
    names = set(names)
    if "transformer.decoder.norm.weight" in names:
        return "released"
    if any(name.endswith("decoder.layernorm.weight") for name in names):
        return "transformers"
    if any(name.endswith("blocks.0.attn.qkv.weight") for name in names) and "pos_embed" in names:
        return "dinov2-meta"
    if any(name.endswith("embeddings.position_embeddings") for name in names):
        return "dinov2"
    return "unknown"


def transformers_name(name: str) -> str:
    """Released name of a transformers parameter. The query, key and value of a decoder layer end in
    ``q_``, ``k_`` and ``v_``, because the released layout has them in one tensor.
    """
    while name.startswith("model."):
        name = name[len("model.") :]
    if match := _SELF_ATTENTION.fullmatch(name):
        return f"transformer.decoder.layers.{match[1]}.self_attn.in_proj_{match[3]}.{match[2]}_"
    for pattern, replacement in _TRANSFORMERS:
        translated, count = pattern.subn(replacement, name)
        if count:
            return re.sub(r"\.([qkv])_\.", lambda mark: f".{_QKV[mark[1]]}.", translated)
    return name


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ``RfDetrForObjectDetection`` or ``RfDetrForInstanceSegmentation``, in released
    names.
    """
    released = {transformers_name(name): tensor for name, tensor in state.items()}
    for name in [name for name in released if name.endswith(".q_")]:
        stem = name[: -len(".q_")]
        released[stem] = torch.cat([released.pop(f"{stem}.{part}_") for part in "qkv"])
    return released


def from_dinov2(state: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Encoder weights in released names from either DINOv2 layout ("dinov2" or "dinov2-meta").
    Raises :class:`InputError` for a DINOv2 with register tokens, and for other models.
    """
    if any("register" in name for name in state):
        raise InputError(
            "a DINOv2 with register tokens",
            hint="train with --backbone-weights and the folder that transformers writes",
        )
    if layout == "dinov2":
        return {
            ENCODER + re.sub(r"^(dinov2|model)\.", "", name): tensor
            for name, tensor in state.items()
        }
    released = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if stem.endswith(".attn.qkv"):
            block = stem.split(".")[-3]
            for part, values in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                released[f"{ENCODER}encoder.layer.{block}.attention.attention.{part}.{kind}"] = (
                    values
                )
        else:
            released[_meta_name(name)] = tensor
    return released


_META = tuple(
    (re.compile(pattern), ENCODER + replacement)
    for pattern, replacement in (
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^mask_token$", "embeddings.mask_token"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
        (r"^blocks\.(\d+)\.ls(\d)\.gamma$", r"encoder.layer.\1.layer_scale\2.lambda1"),
        (r"^blocks\.(\d+)\.(norm\d|mlp\.fc\d)\.", r"encoder.layer.\1.\2."),
    )
)


def _meta_name(name: str) -> str:
    for pattern, replacement in _META:
        translated, count = pattern.subn(replacement, name)
        if count:
            return translated
    raise InputError(
        f"{name} is not a parameter of a plain DINOv2",
        hint="RF-DETR uses dinov2-small or dinov2-base",
    )
