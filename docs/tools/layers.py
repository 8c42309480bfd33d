"""Draws the layers of the package, as the import contract in pyproject.toml states them: ``python
docs/tools/layers.py``.

Writes ``docs/layers.svg``. The line of text in each box is the first line of that folder's or
module's docstring.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "layers.svg"
WIDTH = 1040
BOX_HEIGHT = 34
GAP = 8
MARGIN = 12
NAME_WIDTH = 330  # px in which the names of a layer stand, left of its description
LONGEST = 104  # characters of a description
WITHOUT_TORCH = "#d7e8d3"
OTHER = "#dbe4f0"


def layers() -> list[list[str]]:
    """The layers from the top down; modules of one layer do not import each other."""
    contract = _contract("layers")
    return [
        [name.strip() for name in layer.replace("|", ":").split(":")]
        for layer in contract["layers"]
    ]


def without_torch() -> set[str]:
    """Names of the folders for which the contract forbids PyTorch."""
    return {
        module.rpartition(".")[2] for module in _contract("from-records-alone")["source_modules"]
    }


def _contract(name: str) -> dict[str, list[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return next(
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["id"] == name
    )


def description(name: str) -> str:
    """First line of the docstring of folder or module ``name`` of the package."""
    package = ROOT / "rfdetr_repro"
    file = package / name / "__init__.py" if (package / name).is_dir() else package / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    text = docstring.partition("\n")[0].replace("``", "").replace(" No torch here.", "").rstrip(":")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3].rstrip()}..."


def drawing() -> str:
    """The SVG: one box per layer, arrows from a layer to those below it."""
    rows = layers()
    free = without_torch()
    height = MARGIN * 2 + len(rows) * (BOX_HEIGHT + GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 '
        f'{WIDTH} {height}" font-family="sans-serif" font-size="13">',
        "<title>Layers of rfdetr_repro: each imports only from those below it</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for index, names in enumerate(rows):
        top = MARGIN + index * (BOX_HEIGHT + GAP)
        fill = WITHOUT_TORCH if set(names) <= free else OTHER
        middle = top + BOX_HEIGHT // 2 + 5
        shown = " · ".join(names)
        text = (
            description(names[0]) if len(names) == 1 else "commands: arguments, one call, printing"
        )
        size = 13 if len(shown) < 34 else 11
        parts += [
            f'<rect x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{BOX_HEIGHT}" '
            f'rx="4" fill="{fill}" stroke="#7a8797"/>',
            f'<text x="{MARGIN + 10}" y="{middle}" font-weight="bold" font-size="{size}" '
            f'class="layer">{escape(shown)}</text>',
            f'<text x="{MARGIN + NAME_WIDTH}" y="{middle}" fill="#333333" '
            f'font-size="12">{escape(text)}</text>',
        ]
    legend = height - MARGIN
    parts += [
        f'<text x="{MARGIN}" y="{legend}" fill="#333333">A layer imports only from layers '
        "below it. Green layers run without PyTorch.</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
