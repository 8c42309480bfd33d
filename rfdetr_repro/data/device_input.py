"""The resize of training pictures on the device that trains: whole decoded pictures go in, and the
pixels that come out are those of :func:`.network_input.network_input`, to the last bit.

Whoever makes a batch decodes its pictures and says how each is filtered (:func:`filters_of`, in
NumPy). The device crops, resizes, mirrors and normalises (:meth:`Filters.images`, in PyTorch
operations that any device has). Pillow's bilinear filter is arithmetic of whole numbers, weights of
22 bits and pixels of 8, so the order of sums does not matter and no rounding depends on the device;
the last step looks the 256 values of a channel up in a table that the CPU made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .network_input import IMAGENET_MEAN, IMAGENET_STD, View

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BITS = 22  # of a weight behind the point, as in Pillow
AT_ONCE = 1 << 24  # numbers that are summed at once: bounds the memory of the work


class _Taps(NamedTuple):
    """How one side is filtered: the source pixels of each new pixel, and their weights."""

    pixels: np.ndarray  # int64 (size, most), inside the picture
    weights: np.ndarray  # int64 (size, most) in 2^-22; 0 where a new pixel has fewer sources


def _taps(side: int, low: int, high: int, size: int) -> _Taps:
    """Pillow's bilinear filter with antialiasing from the window [low, high) of a side of so many
    px to ``size`` px: the numbers of csrc/cpu/pictures_isa.cpp, in the same order of operations.
    """
    scale = (high - low) / size
    support = max(scale, 1.0)
    centre = low + (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), side)
    pixels = first[:, None] + np.arange(int((last - first).max()))
    distance = np.abs((pixels - centre[:, None] + 0.5) * (1 / support))
    shares = np.where((distance < 1) & (pixels < last[:, None]), 1 - distance, 0.0)
    total = np.zeros(size)
    for tap in shares.T:  # one after the other, as the sums are made there
        total += tap
    shares /= np.where(total == 0, 1.0, total)[:, None]
    weights = (0.5 + shares * (1 << BITS)).astype(np.int64)
    return _Taps(np.minimum(pixels, side - 1), np.where(pixels < last[:, None], weights, 0))


def _down_first(picture: np.ndarray, size_hw: tuple[int, int]) -> bool:
    """Whether a picture is made lower before it is made narrower: Pillow 13's choice."""
    lower, narrower = picture.shape[0] - size_hw[0], picture.shape[1] - size_hw[1]
    return lower > max(0, 2 * narrower)


@dataclass(frozen=True)
class _Group:
    """Pictures of a batch that are filtered in the same order of directions: along their lines,
    which are rows, or columns where a picture is made lower first; then across the lines.
    """

    transposed: bool  # a line is a column
    shapes: tuple[tuple[int, ...], ...]  # of the arrays, in the order of _ARRAYS


# Of a group of k pictures with r lines, which are filtered to s numbers along and t across:
#   places (k,)            of the pictures in the batch
#   lines, pictures (r,)   the pixel that a line begins with, and the line's picture in the group
#   first (k, s, taps)     pixels of a line, from its first, and their weights
#   second (k * t, taps)   lines, and their weights
_ARRAYS = ("places", "lines", "pictures", "first", "first_weights", "second", "second_weights")


@dataclass(frozen=True)
class Filters:
    """How the whole pictures of a batch become its images."""

    size_hw: tuple[int, int]  # px of the images
    count: int  # pictures
    groups: tuple[_Group, ...]
    numbers: Tensor  # int32 (n,), the arrays of all groups one after the other

    @property
    def nbytes(self) -> int:
        """Bytes of the images and of :attr:`numbers`."""
        return 3 * 4 * self.count * self.size_hw[0] * self.size_hw[1] + self.numbers.nbytes

    def pin_memory(self) -> Filters:
        """The same in memory that a GPU copies from by itself."""
        return Filters(self.size_hw, self.count, self.groups, self.numbers.pin_memory())

    def images(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        """The pictures as uint8 (n, 3) pixels and :attr:`numbers`, both on one device -> normalised
        images float32 (count, 3, H, W) there. Sums are made of AT_ONCE numbers at a time.
        """
        import torch

        height, width = self.size_hw
        images = torch.empty((self.count, 3, height, width), device=pixels.device)
        table = _table(pixels.device)
        at = 0
        for group in self.groups:
            arrays = {}
            for name, shape in zip(_ARRAYS, group.shapes, strict=True):
                size = int(np.prod(shape))
                arrays[name] = numbers[at : at + size].view(shape)
                at += size
            made = _filtered(pixels, arrays)  # (k, second size, first size, 3)
            planes = made.permute(3, 0, 2, 1) if group.transposed else made.permute(3, 0, 1, 2)
            for channel, values in enumerate(planes):
                looked_up = table[channel].index_select(0, values.reshape(-1).int())
                images[:, channel].index_copy_(
                    0, arrays["places"].long(), looked_up.view(values.shape)
                )
        return images


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    """float32 (3, 256): the normalised value of each channel and byte."""
    import torch

    values = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, deviation = (
        np.array(part, np.float32)[:, None] for part in (IMAGENET_MEAN, IMAGENET_STD)
    )
    with torch.inference_mode(False):  # training may be the next to use it
        return torch.from_numpy((values - mean) / deviation).to(device)


def _filtered(pixels: Tensor, arrays: dict[str, Tensor]) -> Tensor:
    """uint8 (k, second size, first size, 3): lines filtered in the first direction, then across
    lines.
    """
    import torch

    lines, pictures = arrays["lines"], arrays["pictures"]
    first, weights = arrays["first"], arrays["first_weights"]
    size = first.shape[1]
    part = max(1, AT_ONCE // (3 * size))
    between = torch.empty((len(lines), size, 3), dtype=torch.uint8, device=pixels.device)
    for begin in range(0, len(lines), part):
        of = pictures[begin : begin + part]
        start = lines[begin : begin + part, None]
        total = torch.full((len(of), size, 3), 1 << BITS - 1, dtype=torch.int32, device=of.device)
        for tap in range(first.shape[2]):
            where = (start + first[:, :, tap].index_select(0, of)).view(-1)
            values = pixels.index_select(0, where).view(total.shape)
            total += values.int() * weights[:, :, tap].index_select(0, of)[..., None]
        between[begin : begin + part] = (total >> BITS).clamp_(max=255)
    rows, shares = arrays["second"], arrays["second_weights"]  # (k * second size, taps)
    flat = between.view(len(lines), 3 * size)
    made = torch.empty((len(rows), 3 * size), dtype=torch.uint8, device=pixels.device)
    for begin in range(0, len(rows), part):
        of = rows[begin : begin + part]
        total = torch.full((len(of), 3 * size), 1 << BITS - 1, dtype=torch.int32, device=of.device)
        for tap in range(rows.shape[1]):
            weight = shares[begin : begin + part, tap, None]
            total += flat.index_select(0, of[:, tap]).int() * weight
        made[begin : begin + part] = (total >> BITS).clamp_(max=255)
    count = len(arrays["places"])
    return made.view(count, len(rows) // count, size, 3)


def filters_of(
    pictures: Sequence[np.ndarray], views: Sequence[View | None], size_hw: tuple[int, int]
) -> Filters:
    """How pictures uint8 (H, W, 3) of a batch, seen by ``views``, are filtered to images of
    ``size_hw`` px once their pixels follow each other, row by row (:func:`joined_pixels`).
    """
    import torch

    starts = np.cumsum([0, *(one.shape[0] * one.shape[1] for one in pictures)])
    order: dict[bool, list[int]] = {}
    for place, picture in enumerate(pictures):
        order.setdefault(_down_first(picture, size_hw), []).append(place)
    groups, numbers = [], []
    for transposed, places in sorted(order.items()):
        arrays = _arrays(pictures, views, size_hw, places, transposed, starts)
        groups.append(_Group(transposed, tuple(one.shape for one in arrays)))
        numbers += [one.astype(np.int32).ravel() for one in arrays]
    joined = torch.from_numpy(np.concatenate(numbers))
    return Filters(size_hw, len(pictures), tuple(groups), joined)


def _arrays(
    pictures: Sequence[np.ndarray],
    views: Sequence[View | None],
    size_hw: tuple[int, int],
    places: list[int],
    transposed: bool,
    starts: np.ndarray,
) -> list[np.ndarray]:
    """The arrays of a group, in the order of _ARRAYS."""
    lines, owners, firsts, seconds = [], [], [], []
    above = 0  # lines of the pictures before
    for number, place in enumerate(places):
        height, width = pictures[place].shape[:2]
        window, flip = views[place] or View((0, 0, width, height), False)
        left, top, right, bottom = window
        across = _taps(width, left, right, size_hw[1])
        if flip:
            across = _Taps(across.pixels[::-1], across.weights[::-1])
        down = _taps(height, top, bottom, size_hw[0])
        first, second = (down, across) if transposed else (across, down)
        step, stride = (1, width) if transposed else (width, 1)  # pixels between lines, in a line
        low = int(second.pixels.min())
        used = np.arange(low, int(second.pixels.max()) + 1)
        lines.append(starts[place] + step * used)
        owners.append(np.full(len(used), number))
        firsts.append(_Taps(stride * first.pixels, first.weights))
        seconds.append(_Taps(above + second.pixels - low, second.weights))
        above += len(used)
    first, second = _joined(firsts), _joined(seconds)
    flat = (-1, second.pixels.shape[-1])
    return [
        np.array(places),
        np.concatenate(lines),
        np.concatenate(owners),
        *first,
        second.pixels.reshape(flat),
        second.weights.reshape(flat),
    ]


def _joined(taps: list[_Taps]) -> _Taps:
    """(k, size, most) of all pictures; what a picture lacks has the weight 0."""
    most = max(one.pixels.shape[1] for one in taps)
    more = [((0, 0), (0, most - one.pixels.shape[1])) for one in taps]
    return _Taps(
        np.stack([np.pad(one.pixels, pad, "edge") for one, pad in zip(taps, more, strict=True)]),
        np.stack([np.pad(one.weights, pad) for one, pad in zip(taps, more, strict=True)]),
    )


def joined_pixels(pictures: Sequence[np.ndarray], pinned: bool = False) -> Tensor:
    """The pixels of the pictures uint8 (H, W, 3), one after the other: uint8 (n, 3)."""
    import torch

    count = sum(one.shape[0] * one.shape[1] for one in pictures)
    joined = torch.empty((count, 3), dtype=torch.uint8, pin_memory=pinned)
    to = joined.numpy()
    at = 0
    for one in pictures:
        size = one.shape[0] * one.shape[1]
        to[at : at + size].reshape(one.shape)[:] = one
        at += size
    return joined
