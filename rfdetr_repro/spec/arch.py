"""The architecture and the space of architectures that a search evaluates. No torch here.

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
MAX_COUNT = 10_000  # of every other value of an architecture

# patches of an image, as of 2048 x 2048 px in patches of 16; attention grows with their square
MAX_TOKENS = 2**14

# The knobs that a search turns, in the order of the fields of Arch; and how figures call them.
KNOB_LABELS = {
    "resolution": "resolution",
    "patch": "patch",
    "windows": "windows per side",
    "decoder_layers": "decoder layers",
    "queries": "queries",
}
KNOBS = tuple(KNOB_LABELS)
KNOB_UNITS = {"resolution": "px", "patch": "px"}

_DIGITS = "([0-9]{1,9})"

_ARCH_KEY = re.compile(f"r{_DIGITS}(?:x{_DIGITS})?-p{_DIGITS}-w{_DIGITS}-d{_DIGITS}-q{_DIGITS}")


@dataclass(frozen=True, order=True)
class Arch:
    """One point of the search space: the five knobs of the paper, and a width for rectangular
    inputs.

    The weights do not depend on an ``Arch``. Raises :class:`InputError` for values that are not
    whole numbers, for values below their minimum, for sides above ``MAX_SIDE``, other values above
    ``MAX_COUNT`` and more than ``MAX_TOKENS`` patches.
    """

    resolution: int  # requested image side (height, if `width` is given) in pixels; see `input_hw`
    patch: int  # patch side in pixels
    windows: int  # attention windows per side; 2 means 2 x 2
    decoder_layers: int  # decoder layers that run, 0..N
    queries: int  # object queries kept, most confident first
    width: int = 0  # requested image width in pixels; 0 means square. Search spaces are square

    def __post_init__(self) -> None:
        if set(map(type, vars(self).values())) != {int}:
            raise InputError(f"architecture {vars(self)} has a value that is not a whole number")
        low = min(self.resolution, self.patch, self.windows, self.queries)
        if low < 1 or self.decoder_layers < 0 or self.width < 0:
            raise InputError(
                f"architecture {self.key} has a value below its minimum",
                hint="every value is at least 1, decoder_layers at least 0",
            )
        if max(self.patch, self.windows, self.decoder_layers, self.queries) > MAX_COUNT:
            raise InputError(
                "the architecture has a value above its maximum",
                hint=f"patch, windows, decoder_layers and queries are at most {MAX_COUNT}",
            )
        if max(self.resolution, self.width) > MAX_SIDE:
            raise InputError(
                f"architecture {self.key} is larger than {MAX_SIDE} px",
                hint="choose a smaller input",
            )
        if self.width == self.resolution:
            object.__setattr__(self, "width", 0)  # a square has only this spelling
        if min(self.input_hw) == 0:
            message = (
                f"resolution {self._requested} is smaller than patch x windows = "
                f"{self.patch * self.windows}"
            )
            raise InputError(message, self.key, "raise the resolution or lower patch or windows")
        if self.tokens > MAX_TOKENS:
            message = (
                f"architecture {self.key} cuts an image into {self.tokens} patches, more than "
                f"{MAX_TOKENS}"
            )
            raise InputError(message, hint="lower the resolution or raise the patch")

    @property
    def _requested(self) -> str:
        return f"{self.resolution}x{self.width}" if self.width else str(self.resolution)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Actual input (H, W) in pixels: the requested sides, rounded down to multiples of patch x
        windows (Tables 7, 8).
        """
        unit = self.patch * self.windows
        return self.resolution // unit * unit, (self.width or self.resolution) // unit * unit

    @property
    def rounding(self) -> str:
        """What to log where the actual side differs from the requested side; empty otherwise."""
        height, width = self.input_hw
        unit = self.patch * self.windows
        real = f"{height}x{width}" if self.width else str(height)
        message = (
            f"resolution {self._requested} -> {real} px (rounded down to a multiple of patch x "
            f"windows = {unit})"
        )
        return message if real != self._requested else ""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Patches per image: (rows, columns)."""
        height, width = self.input_hw
        return height // self.patch, width // self.patch

    @property
    def tokens(self) -> int:
        """Number of patches of one image, without the class token."""
        return self.grid_hw[0] * self.grid_hw[1]

    @property
    def key(self) -> str:
        """Short name, like ``r384-p16-w2-d2-q300`` (``r384x640-...``: height x width).
        :meth:`parse` reads it back.
        """
        grid = f"r{self._requested}-p{self.patch}-w{self.windows}"
        return f"{grid}-d{self.decoder_layers}-q{self.queries}"

    @property
    def backbone(self) -> tuple[int, int, int, int]:
        """(height, width, patch, windows): architectures with the same tuple share one pass of the
        backbone.
        """
        return *self.input_hw, self.patch, self.windows

    def with_input(self, height: int, width: int) -> Arch:
        """The same architecture for images of (``height``, ``width``) pixels.

        Raises :class:`InputError` where a side is not divisible by patch x windows.
        """
        unit = self.patch * self.windows
        if height < unit or width < unit or height % unit or width % unit:
            nearest = "x".join(
                str(max(1, (side + unit // 2) // unit) * unit) for side in (height, width)
            )
            message = f"input {height}x{width} px is not divisible by patch x windows = {unit}"
            raise InputError(message, self.key, f"the nearest is {nearest}")
        return replace(self, resolution=height, width=width)

    def knobs(self) -> dict[str, int]:
        """Field -> value, without the width of a square. This is what ids hash, so squares keep the
        ids that they had before rectangles existed.
        """
        return {name: value for name, value in vars(self).items() if name != "width" or value}

    @classmethod
    def parse(cls, key: str) -> Arch:
        """The architecture of a :attr:`key`, like ``r384-p16-w2-d2-q300``.

        Raises :class:`InputError` where the text is not a key.
        """
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
    """The axes of a search. Iterating yields every legal architecture once, in a fixed order.

    Resolutions are rounded down to multiples of patch x windows, so two grid points may be the same
    architecture. Such an architecture is counted, drawn and searched once, under the first of its
    resolutions. ``len`` counts architectures, :meth:`grid_points` counts combinations of the axes.
    Raises :class:`InputError` for an axis that is empty, repeats a value or leaves its range.
    """

    resolutions: tuple[int, ...]
    patches: tuple[int, ...]
    windows: tuple[int, ...]
    decoder_layers: tuple[int, ...]
    queries: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            low = 0 if name == "decoder_layers" else 1
            high = MAX_SIDE if name == "resolutions" else MAX_COUNT
            whole = isinstance(values, tuple) and all(
                type(value) is int and low <= value <= high for value in values
            )
            if not whole or not values or len(set(values)) != len(values):
                message = (
                    f"{name} = {values!r} is not a list of different whole numbers from {low} to "
                    f"{high}"
                )
                raise InputError(
                    message, "the search space", f"write {name} = [{low + 1}, {low + 2}]"
                )

    def __iter__(self) -> Iterator[Arch]:
        heads = list(dict.fromkeys(product(self.decoder_layers, self.queries)))
        for arch in self.training_archs():
            for depth, queries in heads:
                yield replace(arch, decoder_layers=depth, queries=queries)

    def __len__(self) -> int:
        return len(self.training_archs()) * len(set(self.decoder_layers)) * len(set(self.queries))

    def grid_points(self) -> int:
        """Number of legal combinations of the axes. Combinations that round to the same
        architecture count separately: 6,468 in the paper's space.
        """
        return self._backbone_points() * len(self.decoder_layers) * len(self.queries)

    def _backbone_points(self) -> int:
        return sum(
            res >= patch * win
            for res, patch, win in product(self.resolutions, self.patches, self.windows)
        )

    def counted(self) -> str:
        """What to print where grid points coincide; empty where all differ."""
        points = self._backbone_points()
        distinct = len(self.training_archs())
        if points == distinct:
            return ""
        message = (
            f"{self.grid_points()} grid points are {len(self)} architectures: of {points} "
            f"backbones {points - distinct} round"
        )
        return f"{message} to the size of another, {distinct} are distinct; each is counted once"

    def check(self) -> SearchSpace:
        """Returns the space; raises :class:`InputError` if it has no legal configuration."""
        if len(self) == 0:
            hint = "add a larger resolution or a smaller patch"
            raise InputError("the search space has no legal configuration", asdict(self), hint)
        return self

    def training_archs(self) -> tuple[Arch, ...]:
        """One architecture per backbone, with all decoder layers and all queries (v2 Appendix A:
        both are dropped at inference only).

        The tuple is made once per space, because every training step draws from it.
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
