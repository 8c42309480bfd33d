"""The table of docs/domains.md: what the train splits of embedded-10 hold, counted from the drawn
pictures.

``python docs/tools/domains.py`` draws every train split (about three minutes of one core), stores
the counts in docs/tools/domains.json, writes the table into the page, and draws the page's picture.
A test compares the page with the stored counts, and the stored counts with a few pictures that are
drawn again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "domains.md"
STORED = ROOT / "docs" / "tools" / "domains.json"
BEGIN = "<!-- table: python docs/tools/domains.py -->"
END = "<!-- end of table -->"
SHEET = ROOT / "docs" / "domains.jpg"
COLUMNS = 5  # of the page's picture
SHOWN = 2  # train pictures of each domain, one above the other
FEW = 3  # pictures whose counts are stored one by one


def counted(name: str, images: int) -> dict[str, Any]:
    """Counts of the first ``images`` pictures of a train split of seed 0, and the time of one
    processor core for all of them.
    """
    from rfdetr_repro.data.domains.dataset import compose

    compose(name, 0, "train", 0)  # reads the pack
    began = time.process_time()
    scenes = [compose(name, 0, "train", index) for index in range(images)]
    seconds = time.process_time() - began
    objects = [len(scene.masks) for scene in scenes]
    sides = [side for scene in scenes for side in map(_side, scene.masks)]
    ranked = sorted(sides)
    return {
        "images": images,
        "first": objects[:FEW],
        "objects": sum(objects),
        "median_objects": median(objects),
        "most_objects": max(objects),
        "classes": len({number for scene in scenes for number in scene.category_ids}),
        "side_10": round(ranked[len(ranked) // 10], 3),
        "side_50": round(median(sides), 3),
        "side_90": round(ranked[len(ranked) * 9 // 10], 3),
        "cpu_s": round(seconds, 1),
    }


def _side(mask: Any) -> float:
    """The square root of a box's area as a fraction of the picture's."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return float(area / mask.size) ** 0.5


def table(stored: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown: one row for each domain."""
    from rfdetr_repro.data.domains.kinds import DOMAINS

    rows = [
        "| name | resembles | size, px | classes | objects per picture: mean, median, most | side "
        "of objects: 10, 50, 90 % | in test | time, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in stored.items():
        domain = DOMAINS[name]
        mean = row["objects"] / row["images"]
        sides = ", ".join(f"{row[f'side_{share}']:.2f}" for share in (10, 50, 90))
        held = "held-out objects" if domain.holds_out else "new pictures"
        rows.append(
            f"| `{name}` | {domain.resembles} | {domain.width} x {domain.height} "
            f"| {row['classes']} | {mean:.1f}, {row['median_objects']:g}, {row['most_objects']} "
            f"| {sides} | {held} | {row['cpu_s']:.0f} |"
        )
    return "\n".join(rows)


def with_table(page: str, rows: str) -> str:
    """``page`` with ``rows`` between the marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{rows}\n\n{END}{after}"


def stored_counts() -> dict[str, dict[str, Any]]:
    """What the last run of this program counted."""
    found: dict[str, dict[str, Any]] = json.loads(STORED.read_text(encoding="utf-8"))
    return found


def draw_sheet() -> None:
    """The first train pictures of each domain, row by row in the order of the table."""
    import numpy as np
    from PIL import Image

    from rfdetr_repro.data.domains.dataset import compose
    from rfdetr_repro.data.domains.kinds import TEN

    side = max(max(domain.height, domain.width) for domain in TEN)
    rows = -(-len(TEN) // COLUMNS) * SHOWN
    sheet = np.full((rows * side, COLUMNS * side, 3), 255, dtype=np.uint8)
    for number, domain in enumerate(TEN):
        for index in range(SHOWN):
            picture = compose(domain.name, 0, "train", index).image
            row = (number // COLUMNS * SHOWN + index) * side + (side - domain.height) // 2
            column = number % COLUMNS * side + (side - domain.width) // 2
            sheet[row : row + domain.height, column : column + domain.width] = picture
    Image.fromarray(sheet).save(SHEET, quality=85)


def _count_all() -> None:
    from rfdetr_repro.data.domains.dataset import DomainConfig
    from rfdetr_repro.data.domains.kinds import TEN

    found = {domain.name: counted(domain.name, DomainConfig.train_images) for domain in TEN}
    STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = with_table(PAGE.read_text(encoding="utf-8"), table(found))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    _count_all()
    draw_sheet()
