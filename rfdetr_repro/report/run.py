"""A run folder in memory.

Every file of it and every field of its summary is optional; a broken one is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfdetr_repro.plots.pictures import read_captions
from rfdetr_repro.plots.training import read_log
from rfdetr_repro.records.pareto import Confirmed, confirmed_points
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json

EVALUATION = Path("evaluation", "metrics.json")
HINT = "write it again by running the campaign"


@dataclass
class Run:
    """A run folder in memory; ``summary`` is ``summary.json`` or empty."""

    folder: Path
    records: list[Record] = field(default_factory=list)
    records_path: Path | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[tuple[Path, str]] = field(default_factory=list)
    # ``evaluation/metrics.json``: what the chosen model does well and badly; or empty
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def points(self) -> list[Confirmed]:
        """The confirmed points of the frontier."""
        return confirmed_points(self.records)

    @property
    def synthetic(self) -> bool:
        """Whether a Record was measured on synthetic data."""
        return any(record.data is not None and record.data.synthetic for record in self.records)

    def part(self, name: str) -> dict[str, Any]:
        """A part of the summary that is an object; empty if it is absent."""
        return self.summary.get(name) or {}

    def items(self, name: str) -> list[Any]:
        """A part of the summary that is a list; empty if it is absent."""
        return list(self.summary.get(name) or [])


def read_run(folder: str | Path, records: str | Path | None = None) -> Run:
    """Reads what is there. Raises :class:`InputError` for a missing folder or a broken file."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            "the run folder does not exist",
            folder,
            "give the folder that the reproduce command wrote",
        )
    run = Run(folder)
    run.records_path = Path(records) if records is not None else folder / "records.jsonl"
    if records is not None or run.records_path.exists():
        run.records = read_stores([run.records_path])
    if (folder / "summary.json").exists():
        run.summary = read_json(folder / "summary.json")
        if not isinstance(run.summary, dict):
            raise InputError("not a JSON object", folder / "summary.json", HINT)
        _check_summary(run.summary, folder / "summary.json")
    if (folder / "train_log.jsonl").exists():
        run.log = read_log(folder / "train_log.jsonl")
    if (folder / EVALUATION).exists():
        run.evaluation = _evaluation(folder / EVALUATION)
    captions = read_captions(folder / "predictions.json")
    run.pictures = [
        (path, captions.get(path.name, ""))
        for path in sorted((folder / "predictions").glob("*.png"))
    ]
    return run


def _evaluation(path: Path) -> dict[str, Any]:
    """The content of an evaluation's ``metrics.json``; anything else is an :class:`InputError`."""
    content = read_json(path)
    texts = ("model", "artifact", "data", "split")
    parts = ("threshold", "mean", "classes", "sizes", "pr_curves", "score_curves", "confusion")
    whole = (
        isinstance(content, dict)
        and all(isinstance(content.get(name), str) for name in texts)
        and isinstance(content.get("num_images"), int)
        and isinstance(content.get("diagnosis"), dict)
        and all(
            isinstance(found, dict) and all(name in found for name in parts)
            for found in content["diagnosis"].values()
        )
    )
    if not whole:
        raise InputError("not the metrics of an evaluation", path, "evaluate the model again")
    return content


def _check_summary(summary: dict[str, Any], path: Path) -> None:
    """Refuses a part of another kind: what is broken must not be reported as not in this run.

    A part may be absent, or null.
    """
    kinds = {
        dict: (
            "machine",
            "env",
            "data",
            "data.splits",
            "recipe",
            "search",
            "search.one_by_one",
            "search.latency_model",
        ),
        list: ("stages", "departures", "checks"),
    }
    for kind, places in kinds.items():
        for place in places:
            value: Any = summary
            for name in place.split("."):
                value = value.get(name) if value is not None else None
            if value is not None and not isinstance(value, kind):
                raise InputError(
                    f"{place!r} is no {'object' if kind is dict else 'list'}", path, HINT
                )
    if not all(isinstance(stage, dict) for stage in summary.get("stages") or []):
        raise InputError("a stage is not a JSON object", path, HINT)
