"""Pages of documents: blocks of print in one or two columns, labelled by their rectangles.

The print is rows of dark marks: it has the texture of text at this size and cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfdetr_repro.data.embedded.compose import Scene

from .domain import Domain, Share
from .exact import between, chance, choose, cloud, noise, weighted, whole
from .picture import Picture

LINE = 4  # px from one line of print to the next
INK = 2  # px, height of the letters of a line
_PAPERS = ((252, 252, 250), (246, 243, 234), (240, 240, 242))
_HUES = ((70, 110, 170), (190, 90, 60), (90, 150, 100), (200, 160, 70), (120, 90, 150))


@dataclass
class Cursor:
    """Where the next block of a column begins."""

    top: int
    left: int
    width: int
    bottom: int  # the first row that no block may use

    @property
    def free(self) -> int:
        """Rows that are left."""
        return self.bottom - self.top


def draw_document(domain: Domain, part: str, rng: np.random.Generator) -> Scene:
    """A page. ``part`` is not used: everything is drawn anew."""
    shape = (domain.height, domain.width)
    paper = np.array(choose(rng, _PAPERS), dtype=np.float32)
    picture = Picture(paper - 6 * cloud(rng, *shape, 3)[..., None])
    margin = whole(rng, 9, 15)
    page = Cursor(margin, margin, domain.width - 2 * margin, domain.height - margin)
    left = whole(rng, *domain.objects)
    if chance(rng, 0.7):
        _block(picture, page, domain, domain.share_of("title"), rng)
        left -= 1
    for column in _columns(page, rng):
        while left > 0 and column.free >= 3 * LINE:
            share = domain.mix[weighted(rng, [row.weight for row in domain.mix])]
            left -= _block(picture, column, domain, share, rng)
            captioned = share.name in ("figure", "table") and chance(rng, 0.75)
            if captioned and column.free >= 3 * LINE:
                column.top -= 3
                left -= _block(picture, column, domain, domain.share_of("caption"), rng)
    return picture.scene(rng, between(rng, 0.5, 3.0), quality=(85, 95))


def _columns(page: Cursor, rng: np.random.Generator) -> list[Cursor]:
    """The rest of the page as one or two columns."""
    if chance(rng, 0.4):
        return [page]
    gutter = whole(rng, 5, 9)
    width = (page.width - gutter) // 2
    return [
        Cursor(page.top, page.left, width, page.bottom),
        Cursor(page.top, page.left + width + gutter, width, page.bottom),
    ]


def _block(
    picture: Picture, column: Cursor, domain: Domain, share: Share, rng: np.random.Generator
) -> int:
    """Draws a block, moves the cursor, and returns the number of blocks drawn: 1.

    The share's range is that of the block's height, which stops at the end of the column.
    """
    shorter = min(domain.height, domain.width)
    wanted = int(between(rng, share.low, share.high) * shorter)
    height = min(max(2 * LINE - 1, wanted), column.free)
    width = column.width
    if share.name in ("title", "caption"):
        width = int(width * between(rng, 0.55, 1.0))
    paper = picture.pixels()[column.top : column.top + height, column.left : column.left + width]
    ink = _DRAWERS[share.name](paper.astype(np.float32), rng)
    cover = np.ones(ink.shape[:2], dtype=np.float32)
    picture.add(cover, ink, column.top, column.left, domain.classes.index(share.name) + 1)
    column.top += len(ink) + whole(rng, 5, 9)
    return 1


def _print_line(
    area: np.ndarray, top: int, left: int, right: int, size: int, rng: np.random.Generator
) -> None:
    """Words of random length from ``left`` to ``right``; letters differ in how dark they are."""
    depth = len(area[top : top + size])
    darkness = between(rng, 0.6, 0.9)
    while left < right:
        word = min(whole(rng, 2 * size, 7 * size), right - left)
        letters = rng.integers(40, 256, size=(depth, word, 1)).astype(np.float32)
        letters *= np.float32(darkness / 255)
        area[top : top + size, left : left + word] *= 1 - letters
        left += word + size


def _paragraph(
    area: np.ndarray, rng: np.random.Generator, left: int = 0, last: float = 0.0
) -> np.ndarray:
    """Full lines and a shorter last line; the block ends with the last line."""
    lines = max(1, (len(area) - INK) // LINE + 1)
    for line in range(lines):
        short = line == lines - 1 and lines > 1
        right = int(area.shape[1] * (last or between(rng, 0.3, 0.95))) if short else area.shape[1]
        _print_line(area, line * LINE, left, max(right, left + 4), INK, rng)
    return area[: (lines - 1) * LINE + INK]


def _text(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _paragraph(area, rng)


def _caption(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    printed = _paragraph(area, rng)
    return printed + (255 - printed) * np.float32(0.25)  # a lighter print


def _title(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One or two lines of large print."""
    size = 5 if len(area) > 6 else 4
    lines = 1 + (len(area) >= 2 * size + 3)
    for line in range(lines):
        top = line * (size + 3)
        for left in range(0, area.shape[1], 4):
            if chance(rng, 0.86):
                dark = np.float32(between(rng, 0.05, 0.3))
                area[top : top + size, left : left + 3] *= dark
    return area[: lines * (size + 3) - 3]


def _list(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points, each with a mark and one or two indented lines."""
    row = 0
    last = INK
    while row + INK <= len(area):
        area[row : row + INK, 1:3] *= np.float32(0.15)
        for _ in range(whole(rng, 1, 2)):
            if row + INK > len(area):
                break
            right = int(area.shape[1] * between(rng, 0.5, 1.0))
            _print_line(area, row, 7, right, INK, rng)
            last = row + INK
            row += LINE
        row += 2
    return area[:last]


def _table(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shaded head, rules, and a short entry in each cell."""
    pitch = LINE + 2
    rows = max(2, (len(area) - 1) // pitch)
    area = area[: rows * pitch + 1]
    count = whole(rng, 3, 5) if area.shape[1] > 60 else whole(rng, 2, 3)
    edges = [int(area.shape[1] * column / count) for column in range(count)]
    ruled = chance(rng, 0.6)
    area[:pitch] *= np.float32(between(rng, 0.72, 0.9))
    for row in range(rows):
        for column, left in enumerate(edges):
            right = left + max(5, int(area.shape[1] / count * between(rng, 0.4, 0.8)))
            if column == 0 or chance(rng, 0.9):
                _print_line(area, row * pitch + 2, left + 2, right, INK, rng)
        if ruled or row == 0:
            area[row * pitch + pitch : row * pitch + pitch + 1] *= np.float32(0.55)
    area[:1] *= np.float32(0.4)
    area[-1:] *= np.float32(0.4)
    if ruled:
        area[:, [*edges, area.shape[1] - 1]] *= np.float32(0.55)
    return area


def _figure(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bar chart, a curve, or a picture."""
    return choose(rng, (_bars, _curve, _photo))(area, rng)


def _axes(area: np.ndarray) -> None:
    area[:, 3:4] *= np.float32(0.2)
    area[-4:-3] *= np.float32(0.2)


def _bars(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = area.shape[:2]
    hue = np.array(choose(rng, _HUES), dtype=np.float32)
    step = whole(rng, 6, 10)
    for left in range(7, width - step, step):
        tall = int((height - 7) * between(rng, 0.2, 1.0))
        area[height - 4 - tall : height - 4, left : left + step - 3] = hue
    _axes(area)
    return area


def _curve(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = area.shape[:2]
    for _ in range(whole(rng, 1, 3)):
        hue = np.array(choose(rng, _HUES), dtype=np.float32)
        heights = cloud(rng, 2, width, whole(rng, 3, 6))[0]
        for column in range(5, width - 2):
            row = int((height - 8) * float(heights[column])) + 1
            area[row : row + 2, column] = hue
    _axes(area)
    return area


def _photo(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A landscape of soft hills under a sky."""
    height, width = area.shape[:2]
    sky = np.array([150, 185, 220], dtype=np.float32)
    area[:] = sky + noise(rng, area.shape, 3.0)
    rows = np.arange(height, dtype=np.float32)[:, None]
    for layer in range(1, 4):
        hue = np.array(choose(rng, _HUES), dtype=np.float32) * np.float32(1.1 - 0.2 * layer)
        ridge = height * (0.2 * layer + 0.3 * cloud(rng, 2, width, 2 + layer)[0])
        land = (rows > ridge[None, :])[..., None]
        area[:] = np.where(land, hue, area)
    return area


_DRAWERS = {
    "title": _title,
    "text": _text,
    "list": _list,
    "table": _table,
    "figure": _figure,
    "caption": _caption,
}
