"""A run folder in memory. Every file of it and every field of its summary is optional; a broken one is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfdetr_repro.errors import InputError
from rfdetr_repro.files import read_json
from rfdetr_repro.pareto import Confirmed, confirmed_points
from rfdetr_repro.plots import read_log
from rfdetr_repro.record import Record
from rfdetr_repro.store import read_stores


@dataclass
class Run:
    """A run folder in memory; ``summary`` is ``summary.json`` or empty."""

    folder: Path
    records: list[Record] = field(default_factory=list)
    records_path: Path | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def points(self) -> list[Confirmed]:
        return confirmed_points(self.records)

    @property
    def synthetic(self) -> bool:
        return any(record.data is not None and record.data.synthetic for record in self.records)

    def part(self, name: str) -> dict[str, Any]:
        """A part of the summary that is an object; empty if it is absent."""
        value = self.summary.get(name)
        return value if isinstance(value, dict) else {}

    def items(self, name: str) -> list[Any]:
        value = self.summary.get(name)
        return list(value) if isinstance(value, (list, tuple)) else []


def read_run(folder: str | Path, records: str | Path | None = None) -> Run:
    """Reads what is there. Raises :class:`InputError` for a missing folder or a broken file."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such run folder", folder, "give the folder that the reproduce command wrote")
    run = Run(folder)
    run.records_path = Path(records) if records is not None else folder / "records.jsonl"
    if records is not None or run.records_path.exists():
        run.records = read_stores([run.records_path])
    if (folder / "summary.json").exists():
        run.summary = read_json(folder / "summary.json")
        if not isinstance(run.summary, dict):
            raise InputError("not a JSON object", folder / "summary.json", "write it again by running the campaign")
    if (folder / "train_log.jsonl").exists():
        run.log = read_log(folder / "train_log.jsonl")
    captions = _captions(folder / "predictions.json")
    run.pictures = [(path, captions.get(path.name, "")) for path in sorted((folder / "predictions").glob("*.png"))]
    return run


def _captions(path: Path) -> dict[str, str]:
    """File name to caption, from a list of objects with ``file`` and ``caption``; anything else gives no captions."""
    rows = read_json(path) if path.exists() else []
    found = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(row.get("file"), str):
            found[Path(row["file"]).name] = str(row.get("caption", ""))
    return found
