"""A picture while it is drawn: its colours, and for each pixel which object shows there.

The ground truth is read from the map of visible pixels, as in the embedded data set.
"""

from __future__ import annotations

import numpy as np

from rfdetr_repro.data.embedded.compose import MIN_PIXELS, MIN_VISIBLE, Scene

from .exact import noise, whole

NOTHING = -1


class Picture:
    """Colours, float32 (height, width, 3) in 0..255, and the objects drawn so far.

    Objects that are drawn later cover earlier objects.
    """

    def __init__(self, background: np.ndarray) -> None:
        """``background``: (height, width, 3) in 0..255 of any type."""
        self.canvas = background.astype(np.float32)
        self.height, self.width = self.canvas.shape[:2]
        self._owner = np.full((self.height, self.width), NOTHING, dtype=np.int16)
        self._categories: list[int] = []
        self._areas: list[int] = []  # pixels of the whole object, inside or outside the picture
        self._shown: list[int] = []  # pixels of the object that no later object covers

    def has_room(self, cover: np.ndarray, top: int, left: int) -> bool:
        """Whether an object of ``cover`` (h, w) in 0..1 shows enough of itself at this place and
        leaves enough of every object that it covers.
        """
        inside, own = self._window(cover.shape, top, left)
        solid = cover[own] >= 0.5
        if not _enough(int(solid.sum()), int((cover >= 0.5).sum())):
            return False
        under = self._owner[inside][solid]
        taken = np.bincount(under[under >= 0], minlength=len(self._areas))
        return all(
            _enough(self._shown[index] - int(taken[index]), self._areas[index])
            for index in np.nonzero(taken)[0].tolist()
        )

    def touches(self, cover: np.ndarray, top: int, left: int) -> bool:
        """Whether an object of ``cover`` would cover a part of an object."""
        inside, own = self._window(cover.shape, top, left)
        return bool((self._owner[inside][cover[own] >= 0.5] >= 0).any())

    def add(
        self, cover: np.ndarray, colour: np.ndarray, top: int, left: int, category: int
    ) -> None:
        """Draws an object with its upper left corner at (top, left), which may be outside.

        ``cover``: float32 (h, w) in 0..1; ``colour``: (h, w, 3) or (3,) in 0..255; ``category`` 0
        is clutter, which covers objects and has no label.
        """
        inside, own = self._window(cover.shape, top, left)
        solid = cover[own] >= 0.5
        under = self._owner[inside][solid]
        for index in under[under >= 0].tolist():
            self._shown[index] -= 1
        self._owner[inside][solid] = len(self._areas)
        self._shown.append(int(solid.sum()))
        self._categories.append(category)
        self._areas.append(int((cover >= 0.5).sum()))
        self.stain(cover, colour, top, left)

    def stain(self, cover: np.ndarray, colour: np.ndarray, top: int, left: int) -> None:
        """Draws what is no object, as :meth:`add` does."""
        inside, own = self._window(cover.shape, top, left)
        part = cover[own][..., None]
        paint = colour[own] if colour.ndim == 3 else colour
        self.canvas[inside] = self.canvas[inside] * (1 - part) + paint * part

    def _window(
        self, shape: tuple[int, ...], top: int, left: int
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """(rows, columns) of the picture and of the object where the two overlap."""
        y0, x0 = max(0, top), max(0, left)
        y1 = max(y0, min(self.height, top + shape[0]))
        x1 = max(x0, min(self.width, left + shape[1]))
        own = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        return (slice(y0, y1), slice(x0, x1)), own

    def pixels(self) -> np.ndarray:
        """The colours as uint8."""
        return np.floor(self.canvas.clip(0, 255) + np.float32(0.5)).astype(np.uint8)

    def scene(
        self, rng: np.random.Generator, grain: float, quality: tuple[int, int] = (80, 95)
    ) -> Scene:
        """The finished scene, with noise of deviation ``grain`` (of 255) in each channel, and the
        JPEG quality drawn from ``quality``.
        """
        if grain:
            self.canvas = self.canvas + noise(rng, self.canvas.shape, grain)
        kept = [
            index
            for index, category in enumerate(self._categories)
            if category and _enough(self._shown[index], self._areas[index])
        ]
        masks = np.zeros((len(kept), self.height, self.width), dtype=bool)
        for row, index in enumerate(kept):
            masks[row] = self._owner == index
        categories = tuple(self._categories[index] for index in kept)
        return Scene(self.pixels(), masks, categories, whole(rng, *quality))


def _enough(visible: int, area: int) -> bool:
    """Whether ``visible`` of the ``area`` pixels of an object suffice for a label."""
    return visible >= MIN_PIXELS and visible >= MIN_VISIBLE * area
