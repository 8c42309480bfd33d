"""What describes a domain: its classes, how many objects of which size its pictures show, and the
function that draws a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rfdetr_repro.data.embedded.compose import Scene, pack_categories

# split -> the part of the pack of cut-outs that the split may use, without and with held-out
# objects
SEEN = {"train": "train", "val": "train", "test": "train"}
UNSEEN = {"train": "train", "val": "train", "test": "val"}


@dataclass(frozen=True)
class Share:
    """A share of the objects of a domain: ``weight`` in proportion to the other shares, and the
    range of the longest side as a fraction of the picture's shorter side.

    ``name``: the class of these objects; "" for objects of any class.
    """

    weight: int
    low: float
    high: float
    name: str = ""


@dataclass(frozen=True)
class Domain:
    """One data set of embedded-10. ``objects`` and ``mix`` rule what is drawn; objects that end up
    hidden have no label, so the measured counts are lower, within ``mean_objects``.
    """

    name: str
    number: int  # part of the random stream of the pictures
    resembles: str  # what the pictures look like, as a noun phrase
    unlike: str  # what the pictures do not claim to be, as a sentence
    height: int  # px
    width: int  # px
    classes: tuple[str, ...]
    objects: tuple[int, int]  # least and most objects of a picture, clutter included
    mix: tuple[Share, ...]
    # (domain, part of the pack, generator) -> a picture
    draw: Callable[[Domain, str, np.random.Generator], Scene]
    mean_objects: tuple[float, float]  # bounds of the labelled objects per picture, on average
    # bounds of the median square root of a box's area, as a fraction of that of the picture
    median_side: tuple[float, float]
    from_pack: bool = False  # whether the objects are cut-outs of the pack
    holds_out: bool = False  # whether test shows objects and backgrounds that train never shows

    @property
    def categories(self) -> tuple[tuple[int, str], ...]:
        """(id, name) of each class: COCO's ids for objects of the pack, otherwise numbers from
        1.
        """
        if self.from_pack:
            return tuple(row for row in pack_categories() if row[1] in self.classes)
        return tuple(enumerate(self.classes, 1))

    def part(self, split: str) -> str:
        """The part of the pack that ``split`` may use."""
        return (UNSEEN if self.holds_out else SEEN)[split]

    def share_of(self, name: str) -> Share:
        """The share of the class ``name``."""
        return next(share for share in self.mix if share.name == name)
