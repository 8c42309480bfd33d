"""The explorer's page: its Records, what it holds, and what a reader does with it in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from chromium import Tab
from samples_run import SPACE, protocol_record, search_record

from rfdetr_repro.records.record import Record
from rfdetr_repro.report.blocks import Document, Drawing, Explorer, Title
from rfdetr_repro.report.html import write_html

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
ARCHS = list(SPACE)
LIST = "document.querySelectorAll('[data-part=list] tr[data-record]')"


def measured() -> list[Record]:
    return [
        *map(search_record, ARCHS),
        *(
            protocol_record(arch, split, mode)
            for arch in ARCHS[::3]
            for split in ("val", "test")
            for mode in ("buffered", "sustained")
        ),
    ]


def written(
    folder: Path, records: list[Record], run: str | None = "runs/mine", *, static: bool = False
) -> Path:
    picture = Drawing(lambda figure: figure.text(0.1, 0.5, "static"), 1.0, "still")
    explorer = Explorer(records, run, picture if static else None)
    return write_html(Document("t", "f", [Title("t"), explorer]), folder / "page.html")


def data_of(page: Path) -> Any:
    text = page.read_text()
    return json.loads(re.search(r'id="explorer-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]


def decoded(data: Any, path: str) -> list[Any]:
    """As the docstring of data.py states it."""
    column = data["columns"].get(path, {"at": [], "values": []})
    if isinstance(column, list):
        return column
    if "same" in column:
        return [column["same"]] * data["count"]
    if "words" in column:
        return [None if code < 0 else column["words"][code] for code in column["codes"]]
    values: list[Any] = [None] * data["count"]
    for place, value in zip(column["at"], column["values"], strict=True):
        values[place] = value
    return values


def choose(tab: Tab, **choices: Any) -> None:
    """Changes controls as a reader does."""
    for key, value in choices.items():
        tab.run(
            f"(() => {{ const control = document.querySelector({json.dumps(key_of(key))});"
            f"control.value = {json.dumps(str(value))};"
            f"control.dispatchEvent(new Event('input', {{bubbles: true}}));"
            f"control.dispatchEvent(new Event('change', {{bubbles: true}})); }})()"
        )


def key_of(name: str) -> str:
    parts = {"budget": '[data-part="budget"]', "slider": '[data-part="slider"]'}
    return parts.get(name, f'[data-state="{name}"]')


def answers(tab: Tab) -> list[dict[str, Any]]:
    return tab.run(
        "Array.from(document.querySelectorAll('.answer'), (card) => ({id: card.dataset.record,"
        " fits: !card.classList.contains('none'), words: card.textContent,"
        " command: card.querySelector('code')?.textContent ?? ''}))"
    )


def shown(tab: Tab) -> list[str]:
    """Ids of the list, over all its pages."""
    found = []
    while True:
        found += tab.run(f"Array.from({LIST}, (row) => row.dataset.record)")
        more = "document.querySelector('[data-step=\"1\"]')"
        if tab.run(f"{more}.parentElement.hidden || {more}.disabled"):
            return found
        tab.run(f"{more}.click()")
