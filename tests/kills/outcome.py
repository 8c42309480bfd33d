"""What of a finished campaign does not depend on measured latency, and must be equal however often
the campaign was killed.

Latencies, times and dates differ between any two runs, and with them the bytes of the store, the
report, the training state and the stages. Equal must be: which files there are, the bytes of the
models, data, pictures and race results, the training logs but for their seconds, and of the Records
everything but latency and date: who was searched, confirmed and fine-tuned, with which AP.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rfdetr_repro.records.pareto import frontier
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store

BYTES = {".safetensors", ".onnx", ".npz", ".png", ".jpg"}
TIMED = {"training_state.safetensors"}  # holds the training's seconds


def outcome(folder: Path) -> dict[str, Any]:
    """Of the campaign in ``folder``, as text that can be compared."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    found: dict[str, Any] = {"files": [name for name in names if "/samples/" not in name]}
    for path, name in zip(files, names, strict=True):
        # raw latencies, named by their hash: as many, and each one that a Record names
        if path.parent.name == "samples":
            key = f"samples in {path.parent.relative_to(folder).as_posix()}"
            found[key] = found.get(key, 0) + 1
        elif (path.suffix in BYTES and path.name not in TIMED) or path.parent.name == "annotations":
            found[f"sha256 of {name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "train_log.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [
                {key: value for key, value in row.items() if key != "seconds"} for row in rows
            ]
        elif path.name == "records.jsonl":
            found |= _records(name, path, Store(path).read())
        elif path.name == "stages.json":
            found[f"stages of {name}"] = list(json.loads(path.read_text()))
    pdf = folder / "run" / "report.pdf"
    html = folder / "run" / "report.html"
    found["report.pdf is whole"] = pdf.read_bytes().startswith(
        b"%PDF"
    ) and pdf.read_bytes().rstrip().endswith(b"%%EOF")
    found["report.html is whole"] = html.read_text().rstrip().endswith("</html>")
    return found


def _records(name: str, path: Path, records: list[Record]) -> dict[str, Any]:
    searched = [
        record for record in records if record.source == "search" and record.model.variant is None
    ]
    trained = [record for record in searched if record.latency is not None]
    samples = {
        record.latency.samples_sha256 for record in records if record.latency is not None
    } - {None}
    folder = path.parent / "samples"
    return {
        f"samples missing of {name}": sum(
            not (folder / f"{digest}.npz").exists() for digest in samples
        ),
        f"records of {name}": sorted(map(_without_latency, records)),
        f"frontier of {name}": [record.model.name for record in frontier(trained, "latency", "ap")],
    }


def _without_latency(record: Record) -> str:
    fields = json.loads(record.to_json())
    kept = (
        "source",
        "model",
        "data",
        "campaign",
        "deployment",
        "protocol",
        "artifact",
        "accuracy",
        "mask_accuracy",
        "seed",
    )
    return json.dumps({key: fields.get(key) for key in kept}, sort_keys=True)


def modelled_ms(folder: Path) -> dict[str, float]:
    """Architecture -> modelled latency in ms of the campaign's search, in rising order; choices
    rest on this order alone.
    """
    records = [
        record
        for record in Store(folder / "run" / "records.jsonl").read()
        if record.source == "search"
    ]
    known = {
        record.model.name: record.latency.median_ms
        for record in records
        if record.latency is not None
    }
    return dict(sorted(known.items(), key=lambda pair: pair[1]))


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not equal, a line each."""
    lines = []
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            if isinstance(one.get(key), list) and isinstance(other.get(key), list):
                gone = [text for text in one[key] if text not in other[key]]
                new = [text for text in other[key] if text not in one[key]]
                lines.append(f"{key}: without {str(gone)[:400]}, with {str(new)[:400]}")
            else:
                lines.append(f"{key}: {str(one.get(key))[:100]} -> {str(other.get(key))[:100]}")
    return lines
