"""The architecture and the space of architectures that a search goes through. No torch here.

Sources: RF-DETR (arXiv 2511.09554 v2) Appendix A for the space, Tables 7 and 8 for the rounding
rule of :attr:`Arch.input_hw`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product

from .errors import InputError

MAX_SIDE = 16384  # px; larger inputs are mistakes

# patches of an image, as of 2048 x 2048 px in patches of 16; attention grows with their square
MAX_TOKENS = 2**14

_DIGITS = "([0-9]{1,9})"

_ARCH_KEY = re.compile(f"r{_DIGITS}(?:x{_DIGITS})?-p{_DIGITS}-w{_DIGITS}-d{_DIGITS}-q{_DIGITS}")


@dataclass(frozen=True, order=True)
class Arch:
    """One point of the search space: the five knobs of the paper, and a width for rectangles.

    Weights never depend on it.
    """

    resolution: int  # requested image side (height, if `width` is given) in pixels; see `input_hw`
    patch: int  # patch side in pixels
    windows: int  # attention windows per side (2 means 2 x 2)
    decoder_layers: int  # decoder layers run, 0..N
    queries: int  # object queries kept, most confident first
    width: int = 0  # requested image width in pixels; 0: square. Search spaces are square

    def __post_init__(self) -> None:
        if not all(
            isinstance(value, int) and not isinstance(value, bool)
            for value in asdict(self).values()
        ):
            raise InputError(f"architecture {asdict(self)} holds what is no whole number")
        low = min(self.resolution, self.patch, self.windows, self.queries)
        if low < 1 or self.decoder_layers < 0 or self.width < 0:
            raise InputError(
                f"architecture {self.key} has a value below its minimum",
                hint="all >= 1, decoder layers >= 0",
            )
        if max(self.resolution, self.width) > MAX_SIDE:
            raise InputError(
                f"architecture {self.key} is larger than {MAX_SIDE} px",
                hint="choose a smaller input",
            )
        if self.width == self.resolution:
            object.__setattr__(self, "width", 0)  # one spelling of a square
        if min(self.input_hw) == 0:
            told = (
                f"resolution {self._requested} is smaller than patch x windows = "
                f"{self.patch * self.windows}"
            )
            raise InputError(told, self.key, "raise the resolution or lower patch or windows")
        if self.tokens > MAX_TOKENS:
            told = (
                f"architecture {self.key} cuts an image into {self.tokens} patches, more than "
                f"{MAX_TOKENS}"
            )
            raise InputError(told, hint="lower the resolution or raise the patch")

    @property
    def _requested(self) -> str:
        return f"{self.resolution}x{self.width}" if self.width else str(self.resolution)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Real input (H, W) in pixels: what was requested, rounded down to multiples of patch x
        windows (Tables 7, 8).
        """
        unit = self.patch * self.windows
        return self.resolution // unit * unit, (self.width or self.resolution) // unit * unit

    @property
    def rounding(self) -> str:
        """What to log when the real side is not the requested one; empty otherwise."""
        height, width = self.input_hw
        unit = self.patch * self.windows
        real = f"{height}x{width}" if self.width else str(height)
        told = (
            f"resolution {self._requested} -> {real} px (rounded down to a multiple of patch x "
            f"windows = {unit})"
        )
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
        """Short name, e.g.

        ``r384-p16-w2-d2-q300`` (``r384x640-...``: height x width); :meth:`parse` reads it back.
        """
        grid = f"r{self._requested}-p{self.patch}-w{self.windows}"
        return f"{grid}-d{self.decoder_layers}-q{self.queries}"

    @property
    def backbone(self) -> tuple[int, int, int, int]:
        """(height, width, patch, windows): architectures that agree here share one backbone
        pass.
        """
        return *self.input_hw, self.patch, self.windows

    def with_input(self, height: int, width: int) -> Arch:
        """The same architecture for images of (height, width) px; not divisible by patch x windows:
        :class:`InputError`.
        """
        unit = self.patch * self.windows
        if height < unit or width < unit or height % unit or width % unit:
            nearest = "x".join(
                str(max(1, (side + unit // 2) // unit) * unit) for side in (height, width)
            )
            told = f"input {height}x{width} px is not divisible by patch x windows = {unit}"
            raise InputError(told, self.key, f"the nearest is {nearest}")
        return replace(self, resolution=height, width=width)

    def knobs(self) -> dict[str, int]:
        """Field -> value, without the width of a square: what is hashed, so that squares keep the
        ids they have always had.
        """
        return {name: value for name, value in asdict(self).items() if name != "width" or value}

    @classmethod
    def parse(cls, key: str) -> Arch:
        match = _ARCH_KEY.fullmatch(key.strip())
        if match is None:
            raise InputError(
                f"{key!r} is not an architecture", hint="write it like r384-p16-w2-d2-q300"
            )
        height, width, patch, windows, depth, queries = match.groups()
        if width is not None and int(width) == 0:
            raise InputError(f"{key!r} has a width of 0", hint="leave it out for a square")
        return cls(int(height), int(patch), int(windows), int(depth), int(queries), int(width or 0))


def parse_shape(text: str) -> tuple[int, int]:
    """``"384x640"`` -> (384, 640): height and width in px."""
    match = re.fullmatch(f"{_DIGITS}x{_DIGITS}", text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is not a shape", hint="write height x width in px, like 384x640"
        )
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class SearchSpace:
    """The axes of a search; iterating yields every legal architecture once, in a fixed order.

    Resolutions are rounded down to multiples of patch x windows, so two grid points may be one
    architecture: it is counted, drawn and searched once, under the first of its resolutions.
    ``len`` counts architectures, :meth:`grid_points` what is written down.
    """

    resolutions: tuple[int, ...]
    patches: tuple[int, ...]
    windows: tuple[int, ...]
    decoder_layers: tuple[int, ...]
    queries: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            low = 0 if name == "decoder_layers" else 1
            high = MAX_SIDE if name == "resolutions" else 10_000
            whole = isinstance(values, tuple) and all(
                type(value) is int and low <= value <= high for value in values
            )
            if not whole or not values or len(set(values)) != len(values):
                told = (
                    f"{name} = {values!r} is no list of different whole numbers from {low} to "
                    f"{high}"
                )
                raise InputError(told, "the search space", f"write {name} = [{low + 1}, {low + 2}]")

    def __iter__(self) -> Iterator[Arch]:
        heads = list(dict.fromkeys(product(self.decoder_layers, self.queries)))
        for arch in self.training_archs():
            for depth, queries in heads:
                yield replace(arch, decoder_layers=depth, queries=queries)

    def __len__(self) -> int:
        return len(self.training_archs()) * len(set(self.decoder_layers)) * len(set(self.queries))

    def grid_points(self) -> int:
        """Legal combinations of the axes, those that round to the same architecture counted each:
        6,468 in the paper's space.
        """
        return self._backbone_points() * len(self.decoder_layers) * len(self.queries)

    def _backbone_points(self) -> int:
        return sum(
            res >= patch * win
            for res, patch, win in product(self.resolutions, self.patches, self.windows)
        )

    def counted(self) -> str:
        """What to print where grid points coincide; empty where all are different."""
        points = self._backbone_points()
        distinct = len(self.training_archs())
        if points == distinct:
            return ""
        told = (
            f"{self.grid_points()} grid points are {len(self)} architectures: of {points} "
            f"backbones {points - distinct} round"
        )
        return f"{told} to the size of another, {distinct} are distinct; each is counted once"

    def check(self) -> SearchSpace:
        """Returns itself; raises :class:`InputError` if no configuration is legal."""
        if len(self) == 0:
            hint = "add a larger resolution or a smaller patch"
            raise InputError("the search space has no legal configuration", asdict(self), hint)
        return self

    def training_archs(self) -> tuple[Arch, ...]:
        """One per backbone, with all decoder layers and all queries (v2 Appendix A: both are
        dropped only at inference).

        Made once per space, because every training step draws from them.
        """
        return _training_archs(self)


@lru_cache(maxsize=64)
def _training_archs(space: SearchSpace) -> tuple[Arch, ...]:
    if not space.decoder_layers or not space.queries:
        return ()
    depth = max(space.decoder_layers)
    queries = max(space.queries)
    distinct: dict[tuple[int, int, int, int], Arch] = {}
    for resolution, patch, windows in product(space.resolutions, space.patches, space.windows):
        if resolution >= patch * windows:  # otherwise rounding down leaves no image
            arch = Arch(resolution, patch, windows, depth, queries)
            distinct.setdefault(arch.backbone, arch)
    return tuple(distinct.values())
