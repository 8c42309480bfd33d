"""What the kinds of backbones have in common and where they differ: windows, positions, the side of
a patch, and the maps that the projector receives. No torch here.

A kind is the named value ``ModelConfig.backbone``. :mod:`.backbones` lists the backbones of each
kind by name and size; docs/backbones.md describes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .errors import InputError
from .ranges import choose

PLAIN = "dinov2"  # the backbone of RF-DETR, and of every file that names no other
REGISTERS = "dinov2-registers"
ROTARY = "dinov3"
CONVOLUTIONAL = "convnext"


@dataclass(frozen=True)
class BackboneKind:
    """What a kind of backbones can do.

    ``windows``: whether blocks can attend within windows; ``table``: whether positions are a
    learned table, which is resampled to the grid; ``patch_step``: the side of a patch is a multiple
    of this number of pixels.
    """

    title: str
    windows: bool
    table: bool
    patch_step: int


KINDS: dict[str, BackboneKind] = {
    PLAIN: BackboneKind("DINOv2", windows=True, table=True, patch_step=1),
    REGISTERS: BackboneKind("DINOv2 with registers", windows=True, table=True, patch_step=1),
    ROTARY: BackboneKind("DINOv3 ViT", windows=True, table=False, patch_step=1),
    # the stem's kernel has a quarter of the patch's side, and two convolutions halve its map
    CONVOLUTIONAL: BackboneKind("ConvNeXt", windows=False, table=False, patch_step=4),
}


class MapShape(NamedTuple):
    """A map of a feature stage: its channels, and its side as a multiple of image side / patch."""

    width: int
    scale: float


def kind_of(name: str) -> BackboneKind:
    """The kind called ``name``. Raises :class:`InputError`, which lists the kinds, for another
    name.
    """
    return KINDS[choose(name, KINDS, "backbone", "the model")]


def check_patch(name: str, patch: int) -> None:
    """Raises :class:`InputError` where the patch embedding of a kind has no form for patches of
    ``patch`` px.
    """
    kind = kind_of(name)
    if patch % kind.patch_step:
        raise InputError(
            f"{kind.title} takes no patches of {patch} px: its strides are multiples of "
            f"{kind.patch_step} px, and its kernels cannot be resampled to others",
            hint=f"choose a patch that is a multiple of {kind.patch_step}",
        )


def check_grid(name: str, patch: int, windows: int) -> None:
    """Raises :class:`InputError` where a backbone of the kind ``name`` cannot run with this patch
    and this number of windows per side.
    """
    check_patch(name, patch)
    kind = kind_of(name)
    if windows != 1 and not kind.windows:
        raise InputError(
            f"{kind.title} has no attention and so no windows, but {windows} windows per side are "
            f"asked for",
            hint="use 1 window per side",
        )
