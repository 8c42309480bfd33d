"""Released RF-DETR parameter names <-> the names in this package (architecture facts section 12).

The names here differ in three ways: short prefixes, fused query/key/value, and stacked two-stage
heads of all groups. Both directions are exact copies; no value is computed.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from rfdetr_repro.spec.errors import InputError

from .native import FLOATS

_ENCODER = "backbone.0.encoder.encoder."

# (name here, released name): prefixes, of which the first match wins; the rest of the name is kept.
_PREFIXES = (
    ("backbone.cls_token", f"{_ENCODER}embeddings.cls_token"),
    ("backbone.pos_embed", f"{_ENCODER}embeddings.position_embeddings"),
    ("backbone.patch_embed.", f"{_ENCODER}embeddings.patch_embeddings.projection."),
    ("backbone.blocks.", f"{_ENCODER}encoder.layer."),
    ("backbone.norm.", f"{_ENCODER}layernorm."),
    ("projector.sampling.", "backbone.0.projector.stages_sampling."),
    ("projector.", "backbone.0.projector."),
    ("decoder.query_feat", "query_feat.weight"),
    ("decoder.refpoint_embed", "refpoint_embed.weight"),
    ("decoder.", "transformer.decoder."),
    ("mask_head.pixel_proj.", "segmentation_head.spatial_features_proj."),
    ("mask_head.query_block.proj.", "segmentation_head.query_features_proj."),
    ("mask_head.query_block.fc1.", "segmentation_head.query_features_block.layers.0."),
    ("mask_head.query_block.fc2.", "segmentation_head.query_features_block.layers.2."),
    ("mask_head.query_block.", "segmentation_head.query_features_block."),
    ("mask_head.", "segmentation_head."),
)
# Inside a ViT block and inside projector convolutions.
_INNER = (
    (re.compile(r"(encoder\.layer\.\d+)\.attn\.proj\."), r"\1.attention.output.dense."),
    (re.compile(r"(encoder\.layer\.\d+)\.(fc\d)\."), r"\1.mlp.\2."),
    (re.compile(r"(encoder\.layer\.\d+)\.scale(\d)$"), r"\1.layer_scale\2.lambda1"),
    (re.compile(r"(projector\.stages\.\d+)\.norm\."), r"\1.1."),
    (re.compile(r"(projector\.stages\.\d+)\.(cv|m\.)"), r"\1.0.\2"),
    (re.compile(r"(projector\.stages_sampling\.\d+\.\d+)\."), r"\1.0."),
    (re.compile(r"(projector\.stages.*)\.norm\."), r"\1.bn."),
)
_STACKED = (
    ("selection.proj.", "transformer.enc_output.{g}."),
    ("selection.norm.", "transformer.enc_output_norm.{g}."),
    ("selection.class_embed.", "transformer.enc_out_class_embed.{g}."),
    ("selection.bbox_embed.", "transformer.enc_out_bbox_embed.{g}.layers."),
)
_QKV = re.compile(r"(.*encoder\.layer\.\d+)\.attn\.qkv\.(weight|bias)")
MASK_TOKEN = f"{_ENCODER}embeddings.mask_token"  # stored by DINOv2, unused


def released_names(name: str, groups: int) -> list[str]:
    """The released names that a parameter of this package consists of: one, three (query, key,
    value) or ``groups`` of them.
    """
    for ours, theirs in _STACKED:
        if name.startswith(ours):
            return [theirs.format(g=g) + name[len(ours) :] for g in range(groups)]
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            name = theirs + name[len(ours) :]
            break
    if match := _QKV.fullmatch(name):
        return [
            f"{match[1]}.attention.attention.{part}.{match[2]}"
            for part in ("query", "key", "value")
        ]
    for pattern, replacement in _INNER:
        name = pattern.sub(replacement, name)
    return [name]


def to_released(state: dict[str, Tensor], groups: int) -> dict[str, Tensor]:
    """``state`` in the released layout, including the mask token (zeros, since no computation reads
    it).
    """
    released = {}
    for name, tensor in state.items():
        names = released_names(name, groups)
        if name.startswith("selection."):
            parts = list(tensor.unbind(0))
        else:
            parts = list(tensor.chunk(len(names), 0))
        released.update({key: part.clone() for key, part in zip(names, parts, strict=True)})
    released[MASK_TOKEN] = torch.zeros_like(state["backbone.cls_token"][0])
    return released


def from_released(
    released: dict[str, Tensor], expected: dict[str, Tensor], groups: int
) -> dict[str, Tensor]:
    """A state dict for a model whose own state dict is ``expected``. Raises :class:`InputError` for
    missing, unknown and misshapen entries.
    """
    left = dict(released)
    left.pop(MASK_TOKEN, None)
    state = {}
    for name, like in expected.items():
        names = released_names(name, groups)
        if missing := [key for key in names if key not in left]:
            raise InputError(
                f"the checkpoint lacks {missing[0]} (and {len(missing) - 1} more)",
                hint="check that the file has this size",
            )
        parts = [left.pop(key) for key in names]
        if like.is_floating_point() and (odd := {part.dtype for part in parts} - FLOATS):
            what = f"{names[0]} is {odd.pop()}, which is not a type of weights"
            raise InputError(what, hint="save the model in float32 or float16")
        tensor = (
            torch.stack(parts)
            if name.startswith("selection.")
            else torch.cat(parts)
            if len(parts) > 1
            else parts[0]
        )
        if tensor.shape != like.shape:
            raise InputError(
                f"{names[0]} has shape {tuple(parts[0].shape)}, expected a part of "
                f"{tuple(like.shape)}",
                hint="name the size of the file",
            )
        state[name] = tensor
    if left:
        raise InputError(
            f"the checkpoint has {len(left)} unknown entries, e.g. {sorted(left)[0]}",
            hint="check that the file has this size",
        )
    return state
