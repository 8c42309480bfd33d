"""Everything that fixes the shape or the meaning of a weight. An ``Arch`` holds what may vary with
the same weights. No torch here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .backbone_kinds import (
    CONVOLUTIONAL,
    PLAIN,
    REGISTERS,
    ROTARY,
    MapShape,
    check_grid,
    check_patch,
    kind_of,
)
from .errors import InputError
from .ranges import check_ranges

_SIZES: dict[str, tuple[float, float]] = {
    "vit_dim": (1, 2**14),
    "vit_heads": (1, 1024),
    "vit_depth": (1, 256),
    "hidden": (1, 2**14),
    "projector_blocks": (0, 64),
    "self_heads": (1, 1024),
    "cross_heads": (1, 1024),
    "points": (1, 64),
    "ffn": (1, 2**17),
    "decoder_layers": (0, 64),
    "queries": (1, 10**5),
    "groups": (1, 256),
    "num_classes": (1, 10**6),
    "mask_stride": (1, 1024),
    "patch": (1, 1024),
    "registers": (0, 64),
}
_REALS: dict[str, tuple[float, float]] = {"proposal_side": (1e-6, 1), "rope_theta": (1, 1e9)}

_MOST_LEVELS = 8
# side of a projector level in sides of the grid, image side / patch
LEVEL_SCALE = {"P3": 2.0, "P4": 1.0, "P5": 0.5}
# factors by which the projector can resample a map
_SAMPLING = (2.0, 1.0, 0.5)

# fields of backbones other than the plain DINOv2, which a file states only where they differ from
# their defaults: files, identities and digests of plain models are as they were without the fields
_ADDED = (
    "backbone",
    "registers",
    "gated",
    "rope_theta",
    "conv_depths",
    "conv_widths",
    "shared_class_token",
)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shape or the meaning of a weight; :class:`Arch` holds what may vary
    with the same weights.

    Defaults are RF-DETR Nano (ViT-S). Raises :class:`InputError` for values that are not whole
    numbers or out of range, and for widths that are not divisible by their number of heads.
    """

    vit_dim: int = 384
    vit_heads: int = 6
    vit_depth: int = 12
    layer_scale: bool = True
    feature_stages: tuple[int, ...] = (3, 6, 9, 12)  # hidden state after k blocks
    global_blocks: tuple[int, ...] = (3, 6, 9)  # 0-based; the others attend within windows
    hidden: int = 256
    projector_blocks: int = 3
    # of the projector: P3 has twice, P4 once and P5 half the side of the ViT's grid
    levels: tuple[str, ...] = ("P4",)
    self_heads: int = 8
    cross_heads: int = 16
    points: int = 2
    ffn: int = 2048
    decoder_layers: int = 2  # layers stored
    queries: int = 300  # queries stored per group
    groups: int = 13
    num_classes: int = 91  # logits per query
    masks: bool = False
    mask_stride: int = 4  # mask map side = image side / mask_stride
    patch: int = 16  # stored patch kernel side
    pos_grid: int | tuple[int, int] = 24  # stored position table: its side, or (H, W)
    # width and height of a first-stage proposal, as a part of the image
    proposal_side: float = 0.05
    # False: the released 1.4.1 eager path (no 1x1 projection of encoder masks)
    encoder_masks_projected: bool = True
    # kind of the backbone, of backbone_kinds.KINDS. For ConvNeXt, vit_dim is the width and
    # feature_stages count the stages of blocks, of which vit_depth exist
    backbone: str = PLAIN
    registers: int = 0  # register tokens beside the class token
    gated: bool = False  # feed-forward layers with a gate (SwiGLU), as in DINOv3 ViT-S+
    rope_theta: float = 100.0  # base period of rotary positions, in DINOv3
    conv_depths: tuple[int, ...] = ()  # blocks of each ConvNeXt stage
    conv_widths: tuple[int, ...] = ()  # channels of each ConvNeXt stage
    # True: the windows of an image share one class token, the mean of its copies after each block;
    # False: each window has a copy of its own, as in the paper
    shared_class_token: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, _SIZES, _REALS, "the model")
        self._check_blocks()
        if (
            self.vit_dim % self.vit_heads
            or self.hidden % self.self_heads
            or self.hidden % self.cross_heads
        ):
            raise InputError("a width is not divisible by its number of heads", self.stated())
        if (
            max(self.feature_stages) > self.vit_depth
            or max(self.global_blocks, default=0) >= self.vit_depth
        ):
            raise InputError(
                "a feature stage or global block lies beyond the last block", self.stated()
            )
        if len(self.pos_grid_hw) != 2 or min(self.pos_grid_hw) < 1:
            raise InputError(
                f"position table {self.pos_grid} is neither a side nor (height, width)"
            )
        if isinstance(self.pos_grid, tuple) and self.pos_grid[0] == self.pos_grid[1]:
            # a square has only this spelling
            object.__setattr__(self, "pos_grid", self.pos_grid[0])
        if not 1 <= len(self.levels) <= _MOST_LEVELS or set(self.levels) - {"P3", "P4", "P5"}:
            raise InputError(
                f"projector levels {self.levels} are not 1 to {_MOST_LEVELS} of P3, P4, P5"
            )
        self._check_backbone()
        self._check_sampling()

    def _check_blocks(self) -> None:
        sides = self.pos_grid if isinstance(self.pos_grid, tuple) else (self.pos_grid,)
        blocks = {"feature_stages": self.feature_stages, "global_blocks": self.global_blocks}
        for name, values in {**blocks, "pos_grid": sides}.items():
            if not all(type(value) is int and 0 <= value <= 4096 for value in values):
                raise InputError(
                    f"{name} = {values!r} has a value that is not a whole number from 0 to 4096",
                    "the model",
                )
        for name, values in blocks.items():
            if len(set(values)) < len(values):
                raise InputError(f"{name} = {values!r} names a block twice", "the model")
        if not self.feature_stages or min(self.feature_stages) < 1:
            raise InputError(
                f"feature_stages = {self.feature_stages!r} must name at least one stage, from "
                f"block 1 on",
                "the model",
            )

    def _check_backbone(self) -> None:
        """Raises :class:`InputError` for fields that the kind of backbone does not have."""
        kind = kind_of(self.backbone)
        check_patch(self.backbone, self.patch)
        foreign = {
            "registers": self.registers and self.backbone not in (REGISTERS, ROTARY),
            "gated": self.gated and self.backbone != ROTARY,
            "conv_depths": self.conv_depths and self.backbone != CONVOLUTIONAL,
            "conv_widths": self.conv_widths and self.backbone != CONVOLUTIONAL,
            "global_blocks": self.global_blocks and not kind.windows,
            "shared_class_token": self.shared_class_token and not kind.windows,
        }
        if named := [name for name, given in foreign.items() if given]:
            raise InputError(f"{kind.title} has no {named[0]}", "the model", "leave the field out")
        if self.backbone == REGISTERS and not self.registers:
            raise InputError(f"{kind.title} needs registers of at least 1", "the model")
        if self.backbone == ROTARY and (self.vit_dim // self.vit_heads) % 4:
            raise InputError(
                f"heads of {self.vit_dim // self.vit_heads} channels cannot be rotated by row and "
                f"column",
                "the model",
                "choose a width per head that is a multiple of 4",
            )
        if self.backbone == CONVOLUTIONAL:
            self._check_convolutions()

    def _check_convolutions(self) -> None:
        for name in ("conv_depths", "conv_widths"):
            values = getattr(self, name)
            if len(values) != self.vit_depth or not all(
                type(value) is int and 1 <= value <= 2**14 for value in values
            ):
                raise InputError(
                    f"{name} = {values!r} are not {self.vit_depth} whole numbers, one for each "
                    f"stage",
                    "the model",
                )
        if self.vit_dim != self.conv_widths[-1]:
            raise InputError(
                f"vit_dim = {self.vit_dim} is not the width of the last stage, "
                f"{self.conv_widths[-1]}",
                "the model",
            )

    def _check_sampling(self) -> None:
        """Raises :class:`InputError` for a map that the projector cannot bring to a level."""
        for stage, shape in zip(sorted(self.feature_stages), self.maps, strict=True):
            for level in self.levels:
                if LEVEL_SCALE[level] / shape.scale not in _SAMPLING:
                    raise InputError(
                        f"the projector cannot bring feature stage {stage} to level {level}: the "
                        f"sides differ by a factor of {LEVEL_SCALE[level] / shape.scale:g}",
                        "the model",
                        "choose other feature stages or levels",
                    )

    @property
    def maps(self) -> tuple[MapShape, ...]:
        """The maps that the backbone gives to the projector, by ascending feature stage."""
        stages = sorted(self.feature_stages)
        if self.backbone != CONVOLUTIONAL:
            return tuple(MapShape(self.vit_dim, 1.0) for _ in stages)
        # strides of a quarter, a half, one and two patches
        return tuple(
            MapShape(self.conv_widths[stage - 1], math.ldexp(1.0, 3 - stage)) for stage in stages
        )

    @property
    def prefix_tokens(self) -> int:
        """Tokens of each window beside those of the patches: class token and registers."""
        return 1 + self.registers

    def check_arch(self, patch: int, windows: int) -> None:
        """Raises :class:`InputError` for a patch or windows that the backbone cannot have."""
        check_grid(self.backbone, patch, windows)

    def stated(self) -> dict[str, Any]:
        """The fields as files, identities and digests state them: fields that only other backbones
        than the plain DINOv2 have are left out at their defaults.
        """
        defaults = self.__dataclass_fields__
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _ADDED or value != defaults[name].default
        }

    @property
    def pos_grid_hw(self) -> tuple[int, int]:
        """(H, W) of the stored position table."""
        return self.pos_grid if isinstance(self.pos_grid, tuple) else (self.pos_grid, self.pos_grid)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """The configuration of a JSON object whose lists stand for tuples.

        Raises :class:`InputError` for unknown fields.
        """
        known = cls.__dataclass_fields__
        if unknown := sorted(set(fields) - set(known)):
            raise InputError(
                f"unknown model fields {unknown}", hint="the file is from another version"
            )
        return cls(**tuples(fields))


def tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` with every list as a tuple, as it was before JSON."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
