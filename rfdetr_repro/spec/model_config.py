"""Everything that fixes the shape or the meaning of a weight. An ``Arch`` holds what may vary with
the same weights. No torch here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
}

_MOST_LEVELS = 8


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

    def __post_init__(self) -> None:
        check_ranges(self, _SIZES, {"proposal_side": (1e-6, 1)}, "the model")
        self._check_blocks()
        if (
            self.vit_dim % self.vit_heads
            or self.hidden % self.self_heads
            or self.hidden % self.cross_heads
        ):
            raise InputError("a width is not divisible by its number of heads", asdict(self))
        if (
            max(self.feature_stages) > self.vit_depth
            or max(self.global_blocks, default=0) >= self.vit_depth
        ):
            raise InputError(
                "a feature stage or global block lies beyond the last block", asdict(self)
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
