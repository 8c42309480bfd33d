"""What can be chosen: an ``Arch``, a ``SearchSpace`` of them, the ``ModelConfig`` behind them, training.

All are frozen dataclasses without behaviour beyond their own arithmetic; no module takes ``args``. No torch here.
Sources: RF-DETR (arXiv 2511.09554 v2) Appendix A for the space, Tables 7 and 8 for the rounding rule of :attr:`Arch.input_hw`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

from .errors import InputError
from .ranges import check_ranges, choose

MAX_SIDE = 16384  # px; larger inputs are mistakes
MAX_TOKENS = 2**14  # patches of an image, as of 2048 x 2048 px in patches of 16; attention grows with their square
_DIGITS = "([0-9]{1,9})"
_ARCH_KEY = re.compile(f"r{_DIGITS}(?:x{_DIGITS})?-p{_DIGITS}-w{_DIGITS}-d{_DIGITS}-q{_DIGITS}")


@dataclass(frozen=True, order=True)
class Arch:
    """One point of the search space: the five knobs of the paper, and a width for rectangles. Weights never depend on it."""

    resolution: int  # requested image side (height, if `width` is given) in pixels; see `input_hw`
    patch: int  # patch side in pixels
    windows: int  # attention windows per side (2 means 2 x 2)
    decoder_layers: int  # decoder layers run, 0..N
    queries: int  # object queries kept, most confident first
    width: int = 0  # requested image width in pixels; 0: square. Search spaces are square

    def __post_init__(self) -> None:
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in asdict(self).values()):
            raise InputError(f"architecture {asdict(self)} holds what is no whole number")
        low = min(self.resolution, self.patch, self.windows, self.queries)
        if low < 1 or self.decoder_layers < 0 or self.width < 0:
            raise InputError(f"architecture {self.key} has a value below its minimum", mend="all >= 1, decoder layers >= 0")
        if max(self.resolution, self.width) > MAX_SIDE:
            raise InputError(f"architecture {self.key} is larger than {MAX_SIDE} px", mend="choose a smaller input")
        if self.width == self.resolution:
            object.__setattr__(self, "width", 0)  # one spelling of a square
        if min(self.input_hw) == 0:
            told = f"resolution {self._requested} is smaller than patch x windows = {self.patch * self.windows}"
            raise InputError(told, self.key, "raise the resolution or lower patch or windows")
        if self.tokens > MAX_TOKENS:
            told = f"architecture {self.key} cuts an image into {self.tokens} patches, more than {MAX_TOKENS}"
            raise InputError(told, mend="lower the resolution or raise the patch")

    @property
    def _requested(self) -> str:
        return f"{self.resolution}x{self.width}" if self.width else str(self.resolution)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Real input (H, W) in pixels: what was requested, rounded down to multiples of patch x windows (Tables 7, 8)."""
        unit = self.patch * self.windows
        return self.resolution // unit * unit, (self.width or self.resolution) // unit * unit

    @property
    def rounding(self) -> str:
        """What to log when the real side is not the requested one; empty otherwise."""
        height, width = self.input_hw
        unit, real = self.patch * self.windows, f"{height}x{width}" if self.width else str(height)
        told = f"resolution {self._requested} -> {real} px (rounded down to a multiple of patch x windows = {unit})"
        return told if real != self._requested else ""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Tokens per column and per row."""
        height, width = self.input_hw
        return height // self.patch, width // self.patch

    @property
    def tokens(self) -> int:
        """Patches of one image, class tokens not counted."""
        return self.grid_hw[0] * self.grid_hw[1]

    @property
    def key(self) -> str:
        """Short name, e.g. ``r384-p16-w2-d2-q300`` (``r384x640-...``: height x width); :meth:`parse` reads it back."""
        return f"r{self._requested}-p{self.patch}-w{self.windows}-d{self.decoder_layers}-q{self.queries}"

    @property
    def backbone(self) -> tuple[int, int, int, int]:
        """(height, width, patch, windows): architectures that agree here share one backbone pass."""
        return *self.input_hw, self.patch, self.windows

    def with_input(self, height: int, width: int) -> Arch:
        """The same architecture for images of (height, width) px; not divisible by patch x windows: :class:`InputError`."""
        unit = self.patch * self.windows
        if height < unit or width < unit or height % unit or width % unit:
            nearest = "x".join(str(max(1, (side + unit // 2) // unit) * unit) for side in (height, width))
            told = f"input {height}x{width} px is not divisible by patch x windows = {unit}"
            raise InputError(told, self.key, f"the nearest is {nearest}")
        return replace(self, resolution=height, width=width)

    def knobs(self) -> dict[str, int]:
        """Field -> value, without the width of a square: what is hashed, so that squares keep the ids they have always had."""
        return {name: value for name, value in asdict(self).items() if name != "width" or value}

    @classmethod
    def parse(cls, key: str) -> Arch:
        match = _ARCH_KEY.fullmatch(key.strip())
        if match is None:
            raise InputError(f"{key!r} is not an architecture", mend="write it like r384-p16-w2-d2-q300")
        height, width, patch, windows, depth, queries = match.groups()
        if width is not None and int(width) == 0:
            raise InputError(f"{key!r} has a width of 0", mend="leave it out for a square")
        return cls(int(height), int(patch), int(windows), int(depth), int(queries), int(width or 0))


def parse_shape(text: str) -> tuple[int, int]:
    """``"384x640"`` -> (384, 640): height and width in px."""
    match = re.fullmatch(f"{_DIGITS}x{_DIGITS}", text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a shape", mend="write height x width in px, like 384x640")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class SearchSpace:
    """The axes of a search; iterating yields every legal architecture once, in a fixed order.

    Resolutions are rounded down to multiples of patch x windows, so two grid points may be one architecture: it is counted, drawn
    and searched once, under the first of its resolutions. ``len`` counts architectures, :meth:`grid_points` what is written down.
    """

    resolutions: tuple[int, ...]
    patches: tuple[int, ...]
    windows: tuple[int, ...]
    decoder_layers: tuple[int, ...]
    queries: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            low, high = (0 if name == "decoder_layers" else 1), (MAX_SIDE if name == "resolutions" else 10_000)
            whole = isinstance(values, tuple) and all(type(value) is int and low <= value <= high for value in values)
            if not whole or not values or len(set(values)) != len(values):
                told = f"{name} = {values!r} is no list of different whole numbers from {low} to {high}"
                raise InputError(told, "the search space", f"write {name} = [{low + 1}, {low + 2}]")

    def __iter__(self) -> Iterator[Arch]:
        heads = list(dict.fromkeys(product(self.decoder_layers, self.queries)))
        for arch in self.training_archs():
            for depth, queries in heads:
                yield replace(arch, decoder_layers=depth, queries=queries)

    def __len__(self) -> int:
        return len(self.training_archs()) * len(set(self.decoder_layers)) * len(set(self.queries))

    def grid_points(self) -> int:
        """Legal combinations of the axes, those that round to the same architecture counted each: 6,468 in the paper's space."""
        return self._backbone_points() * len(self.decoder_layers) * len(self.queries)

    def _backbone_points(self) -> int:
        return sum(res >= patch * win for res, patch, win in product(self.resolutions, self.patches, self.windows))

    def counted(self) -> str:
        """What to print where grid points coincide; empty where all are different."""
        points, distinct = self._backbone_points(), len(self.training_archs())
        if points == distinct:
            return ""
        told = f"{self.grid_points()} grid points are {len(self)} architectures: of {points} backbones {points - distinct} round"
        return f"{told} to the size of another, {distinct} are distinct; each is counted once"

    def check(self) -> SearchSpace:
        """Returns itself; raises :class:`InputError` if no configuration is legal."""
        if len(self) == 0:
            mend = "add a larger resolution or a smaller patch"
            raise InputError("the search space has no legal configuration", asdict(self), mend)
        return self

    def training_archs(self) -> tuple[Arch, ...]:
        """One per backbone, with all decoder layers and all queries (v2 Appendix A: both are dropped only at inference).

        Made once per space, because every training step draws from them.
        """
        return _training_archs(self)


@lru_cache(maxsize=64)
def _training_archs(space: SearchSpace) -> tuple[Arch, ...]:
    if not space.decoder_layers or not space.queries:
        return ()
    depth, queries = max(space.decoder_layers), max(space.queries)
    distinct: dict[tuple[int, int, int, int], Arch] = {}
    for resolution, patch, windows in product(space.resolutions, space.patches, space.windows):
        if resolution >= patch * windows:  # otherwise rounding down leaves no image
            arch = Arch(resolution, patch, windows, depth, queries)
            distinct.setdefault(arch.backbone, arch)
    return tuple(distinct.values())


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
    """Everything that fixes the shape or meaning of a weight; :class:`Arch` is what may vary with the same weights.

    Defaults are RF-DETR Nano (ViT-S family).
    """

    vit_dim: int = 384
    vit_heads: int = 6
    vit_depth: int = 12
    layer_scale: bool = True
    feature_stages: tuple[int, ...] = (3, 6, 9, 12)  # hidden state after k blocks
    global_blocks: tuple[int, ...] = (3, 6, 9)  # 0-based; the others attend within windows
    hidden: int = 256
    projector_blocks: int = 3
    levels: tuple[str, ...] = ("P4",)  # of the projector: P3 twice, P4 once, P5 half the ViT's grid
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
    proposal_side: float = 0.05  # width and height of a first-stage proposal, as a part of the image
    encoder_masks_projected: bool = True  # False: the released 1.4.1 eager path (no 1x1 projection of encoder masks)

    def __post_init__(self) -> None:
        check_ranges(self, _SIZES, {"proposal_side": (1e-6, 1)}, "the model")
        sides = self.pos_grid if isinstance(self.pos_grid, tuple) else (self.pos_grid,)
        listed = {"feature_stages": self.feature_stages, "global_blocks": self.global_blocks, "pos_grid": sides}
        for name, values in listed.items():
            if not all(type(value) is int and 0 <= value <= 4096 for value in values):
                raise InputError(f"{name} = {values!r} holds what is no whole number from 0 to 4096", "the model")
        for name, values in {"feature_stages": self.feature_stages, "global_blocks": self.global_blocks}.items():
            if len(set(values)) < len(values):
                raise InputError(f"{name} = {values!r} names a block twice", "the model")
        if not self.feature_stages or min(self.feature_stages) < 1:
            raise InputError(f"feature_stages = {self.feature_stages!r}: at least one, after block 1 or later", "the model")
        if self.vit_dim % self.vit_heads or self.hidden % self.self_heads or self.hidden % self.cross_heads:
            raise InputError("a width is not divisible by its number of heads", asdict(self))
        if max(self.feature_stages) > self.vit_depth or max(self.global_blocks, default=0) >= self.vit_depth:
            raise InputError("a feature stage or global block lies beyond the last block", asdict(self))
        if len(self.pos_grid_hw) != 2 or min(self.pos_grid_hw) < 1:
            raise InputError(f"position table {self.pos_grid} is no side and no (height, width)")
        if isinstance(self.pos_grid, tuple) and self.pos_grid[0] == self.pos_grid[1]:
            object.__setattr__(self, "pos_grid", self.pos_grid[0])  # one spelling of a square
        if not 1 <= len(self.levels) <= _MOST_LEVELS or set(self.levels) - {"P3", "P4", "P5"}:
            raise InputError(f"projector levels {self.levels} are not 1 to {_MOST_LEVELS} of P3, P4, P5")

    @property
    def pos_grid_hw(self) -> tuple[int, int]:
        """(H, W) of the stored position table."""
        return self.pos_grid if isinstance(self.pos_grid, tuple) else (self.pos_grid, self.pos_grid)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        known = cls.__dataclass_fields__
        if unknown := sorted(set(fields) - set(known)):
            raise InputError(f"unknown model fields {unknown}", mend="the file is from another version")
        return cls(**tuples(fields))


def tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """What JSON made lists, as tuples again."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


_MANY = 10**9
TRAIN_WHOLE = {  # field of a TrainConfig -> lowest and highest value
    "steps": (1, _MANY),
    "batch_size": (1, 2**16),
    "accumulate": (1, 2**16),
    "seed": (0, 2**63 - 1),
    "warmup_steps": (0, _MANY),
    "checkpoint_every": (1, _MANY),
    "evaluate_every": (0, _MANY),
    "patience": (0, _MANY),
}
_SHARE, _WEIGHT = (0, 1), (0, 1e6)
TRAIN_REAL = {
    "lr": _SHARE,
    "lr_encoder": _SHARE,
    "layer_decay": (1e-6, 1),
    "component_decay": (1e-6, 1),
    "weight_decay": _SHARE,
    "beta2": (0, 1 - 1e-9),
    "cooldown_share": _SHARE,
    "clip_norm": (1e-9, 1e9),
    "ema_decay": (0, 1 - 1e-12),
    "ema_tau": (1e-9, 1e9),
    "class_weight": _WEIGHT,
    "l1_weight": _WEIGHT,
    "giou_weight": _WEIGHT,
    "mask_bce_weight": _WEIGHT,
    "mask_dice_weight": _WEIGHT,
    "dense_weight": _WEIGHT,
    "flip_probability": _SHARE,
    "crop_probability": _SHARE,
    "base_share": _SHARE,
}
_LATER = ("sampling", "multi_scale", "float16", "checkpoint_activations", "patience")


@dataclass(frozen=True)
class TrainConfig:
    """Training recipe. Defaults are upstream's (architecture facts section 9); presets state where they depart.

    Rates are per optimizer step; ``steps`` counts optimizer steps.
    """

    steps: int = 1000
    batch_size: int = 16
    accumulate: int = 1  # micro-batches per optimizer step
    seed: int = 0
    lr: float = 1e-4
    lr_encoder: float = 1.5e-4
    layer_decay: float = 0.8
    component_decay: float = 0.7
    weight_decay: float = 1e-4
    beta2: float = 0.999
    warmup_steps: int = 0
    cooldown_share: float = 0.0  # last part of the run in which the rate falls linearly to 0; the paper has none
    clip_norm: float = 0.1
    ema_decay: float = 0.993
    ema_tau: float = 100.0
    bfloat16: bool = True  # autocast on backbone and projector
    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    mask_bce_weight: float = 5.0
    mask_dice_weight: float = 5.0
    dense_weight: float = 0.0  # auxiliary per-token loss, not in the paper; 0 = off
    flip_probability: float = 0.5
    crop_probability: float = 0.5
    base_share: float = 0.0  # part of the steps that draw the base architecture instead of a uniform one; paper: 0
    checkpoint_every: int = 500  # steps
    evaluate_every: int = 0  # steps; 0 = only at the end
    sampling: str = "uniform"  # or "sandwich": largest, smallest and a random architecture in every step (arXiv 1903.05134)
    multi_scale: bool = False  # of one fixed architecture: a random side per step, upstream's recipe
    float16: bool = False  # autocast with loss scaling where there are no bfloat16 instructions
    checkpoint_activations: bool = False  # backbone blocks run again in the backward pass: less memory, a third more work
    patience: int = 0  # evaluations without a better AP before the run ends; 0: all steps. The best weights are kept

    def __post_init__(self) -> None:
        check_ranges(self, TRAIN_WHOLE, TRAIN_REAL, "the training recipe")
        choose(self.sampling, ("uniform", "sandwich"), "sampling")
        if self.patience and not self.evaluate_every:
            raise InputError(f"patience {self.patience} without evaluations", mend="set evaluate_every")

    def settings(self) -> dict[str, Any]:
        """Field -> value; a field that came later only where it departs from its default, so that older runs resume."""
        return {key: value for key, value in asdict(self).items() if key not in _LATER or value != getattr(TrainConfig(), key)}
