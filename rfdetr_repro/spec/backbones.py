"""Backbones by name, and a size with another backbone. No torch here.

The released sizes of DINOv2 (arXiv 2304.07193), of DINOv2 with registers (arXiv 2309.16588), of
DINOv3 (arXiv 2508.10104) and of ConvNeXt (arXiv 2201.03545), and one backbone of each kind as small
as that of the size ``pico``, which learns from random weights on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .arch import SearchSpace
from .backbone_kinds import CONVOLUTIONAL, KINDS, PLAIN, REGISTERS, ROTARY, check_patch, kind_of
from .errors import InputError
from .model_config import ModelConfig
from .presets import PICO, Preset
from .ranges import choose

_STAGES = (3, 6, 9, 12)  # of twelve blocks, in the released sizes
_BLOCKS = 12
_CONV_STAGES = (2, 3, 4)  # the maps with strides of a half, one and two patches
_RELEASED_REGISTERS = 4


def vit_fields(kind: str, dim: int, heads: int, depth: int, **more: Any) -> dict[str, Any]:
    """The fields of a :class:`ModelConfig` for a ViT of ``depth`` blocks with LayerScale.

    Feature stages are a quarter of the blocks apart, and the blocks behind the first three attend
    over the whole image, as in the released sizes of twelve blocks. Raises :class:`InputError` for
    a depth that four does not divide.
    """
    if depth % len(_STAGES):
        raise InputError(
            f"{depth} blocks cannot be cut into {len(_STAGES)} equal parts",
            hint="choose a backbone whose number of blocks is a multiple of 4",
        )
    stages = tuple(stage * depth // _BLOCKS for stage in _STAGES)
    fields = {
        "backbone": kind,
        "vit_dim": dim,
        "vit_heads": heads,
        "vit_depth": depth,
        "layer_scale": True,
        "feature_stages": stages,
        "global_blocks": stages[:-1],
    }
    return {**_ABSENT, **fields, **more}


def conv_fields(depths: tuple[int, ...], widths: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """The fields of a :class:`ModelConfig` for a ConvNeXt with LayerScale."""
    fields = {
        "backbone": CONVOLUTIONAL,
        "vit_dim": widths[-1],
        "vit_heads": 1,
        "vit_depth": len(depths),
        "layer_scale": True,
        "feature_stages": _CONV_STAGES,
        "global_blocks": (),
        "conv_depths": depths,
        "conv_widths": widths,
    }
    return {**_ABSENT, **fields, **more}


# what a kind of backbone does not have
_ABSENT: dict[str, Any] = {
    "registers": 0,
    "gated": False,
    "rope_theta": 100.0,
    "conv_depths": (),
    "conv_widths": (),
}


def _pico(kind: str, **more: Any) -> dict[str, Any]:
    """A ViT as small as pico's."""
    model = PICO.model
    fields = vit_fields(kind, model.vit_dim, model.vit_heads, model.vit_depth)
    own = {
        name: getattr(model, name) for name in ("layer_scale", "feature_stages", "global_blocks")
    }
    return {**fields, **own, **more}


_REGISTERS = {"registers": _RELEASED_REGISTERS}
# widths and depths of the released ViTs
_SMALL = (384, 6, 12)
_BASE = (768, 12, 12)
_LARGE = (1024, 16, 24)

BACKBONES: dict[str, dict[str, Any]] = {
    "dinov2-pico": _pico(PLAIN),
    "dinov2-small": vit_fields(PLAIN, *_SMALL),
    "dinov2-base": vit_fields(PLAIN, *_BASE),
    "dinov2-large": vit_fields(PLAIN, *_LARGE),
    "dinov2-registers-pico": _pico(REGISTERS, **_REGISTERS),
    "dinov2-registers-small": vit_fields(REGISTERS, *_SMALL, **_REGISTERS),
    "dinov2-registers-base": vit_fields(REGISTERS, *_BASE, **_REGISTERS),
    "dinov2-registers-large": vit_fields(REGISTERS, *_LARGE, **_REGISTERS),
    "dinov3-pico": _pico(ROTARY, **_REGISTERS),
    "dinov3-small": vit_fields(ROTARY, *_SMALL, **_REGISTERS),
    "dinov3-small-plus": vit_fields(ROTARY, *_SMALL, gated=True, **_REGISTERS),
    "dinov3-base": vit_fields(ROTARY, *_BASE, **_REGISTERS),
    "dinov3-large": vit_fields(ROTARY, *_LARGE, **_REGISTERS),
    # about as many parameters as pico's ViT
    "convnext-pico": conv_fields((2, 2, 4, 2), (32, 64, 128, 256), layer_scale=False),
    "convnext-tiny": conv_fields((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext-small": conv_fields((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext-base": conv_fields((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext-large": conv_fields((3, 3, 27, 3), (192, 384, 768, 1536)),
}


def backbone_named(name: str) -> dict[str, Any]:
    """The fields of the backbone called ``name``. Raises :class:`InputError`, with the nearest
    name, for an unknown name.
    """
    return dict(BACKBONES[choose(name, BACKBONES, "backbone")])


def name_of(model: ModelConfig) -> str:
    """The name of the model's backbone; its kind, where the sizes are of no name."""
    return name_of_fields(vars(model))


def name_of_fields(fields: Mapping[str, Any]) -> str:
    """The same for the fields of a model that describe its backbone. Which blocks give maps and
    which attend over the whole image is no part of a name.
    """
    apart = ("feature_stages", "global_blocks")
    for name, known in BACKBONES.items():
        if all(fields[key] == value for key, value in known.items() if key not in apart):
            return name
    return str(fields["backbone"])


def known_backbones() -> tuple[str, ...]:
    """What :func:`name_of` may return: every name, and every kind."""
    return (*BACKBONES, *KINDS)


def stated_backbone(model: ModelConfig) -> str | None:
    """What Records and manifests state about the model's backbone: :func:`name_of`; None for the
    plain DINOv2, as in the Records that were written before there were others.
    """
    return None if model.backbone == PLAIN else name_of(model)


def with_backbone(row: Preset, fields: dict[str, Any]) -> tuple[Preset, str]:
    """``row`` with another backbone, and a sentence on what had to change with it, or an empty
    text.

    The stored patch and the table of positions keep the sides of ``row``. A backbone without
    attention runs with one window. Raises :class:`InputError` where the backbone cannot have the
    patch of ``row``.
    """
    kind = kind_of(fields["backbone"])
    check_patch(fields["backbone"], row.arch.patch)
    model = replace(row.model, **fields)
    if kind.windows or row.arch.windows == 1:
        return replace(row, model=model, note=""), ""
    height, width = row.arch.input_hw
    arch = replace(row.arch, windows=1).with_input(height, width)
    told = f"{kind.title} has no windows: {row.arch.windows} windows per side become 1"
    return Preset(model, arch), told


def space_for(space: SearchSpace, kind_name: str) -> tuple[SearchSpace, str]:
    """The part of ``space`` that a kind of backbones can run, and a sentence on what was left out,
    or an empty text. Raises :class:`InputError` where nothing is left.
    """
    kind = kind_of(kind_name)
    patches = tuple(patch for patch in space.patches if patch % kind.patch_step == 0)
    windows = space.windows if kind.windows else (1,)
    if not patches:
        raise InputError(
            f"{kind.title} takes none of the patches {space.patches}",
            "the search space",
            f"add a multiple of {kind.patch_step}",
        )
    found = replace(space, patches=patches, windows=windows)
    if found == space:
        return space, ""
    out = [str(patch) for patch in space.patches if patch not in patches]
    parts = [f"the windows {', '.join(map(str, space.windows))} become 1"] * (
        windows != space.windows
    )
    parts += [f"the patches {', '.join(out)} are left out"] * bool(out)
    return found, f"{kind.title}: {' and '.join(parts)}"
