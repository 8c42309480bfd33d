"""The arguments by which a command looks at pictures in tiles."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rfdetr_repro.spec.arguments import number
from rfdetr_repro.spec.errors import InputError

if TYPE_CHECKING:
    from .tiles import Tiling


def add_tiles(group: argparse._ActionsContainer) -> None:
    """Adds ``--tiles`` and ``--tile-overlap``; :func:`tiling_of` reads them."""
    group.add_argument(
        "--tiles",
        metavar="TILES",
        help="look at a picture in overlapping tiles and merge what they show; auto: tiles as "
        "large as the model's input; N: N tiles per side; HxW: tiles of this height and width in "
        "pixels, such as 480x640 (default: the whole picture at once)",
    )
    group.add_argument(
        "--tile-overlap",
        type=number(0, 0.5),
        default=0.2,
        help="least share of a tile's side that the next tile shows again",
    )


def tiling_of(args: argparse.Namespace) -> Tiling | None:
    """The tiling that the arguments state; None without ``--tiles``. Raises :class:`InputError` for
    text that is no tiling.
    """
    from .tiles import Tiling  # loads slowly

    if args.tiles is None:
        return None
    try:
        return Tiling.parse(args.tiles, args.tile_overlap)
    except ValueError as error:
        raise InputError(str(error), "--tiles") from error
