"""The Records as the page holds them: columns in JSON, each named by its path in the Record.

``columns`` maps a path such as ``latency.median_ms`` to the values of all Records in their order,
in the first of these forms that holds them:

- ``{"same": value}``: every Record has this value;
- ``{"at": [...], "values": [...]}``: the values of the few Records at these positions;
- ``{"words": [...], "codes": [...]}``: texts, by their place in ``words``; -1 where there is none;
- a list, with null where a Record has no value.

Names that begin with ``shown.`` are not fields. They state what the page needs to know about a
Record in order to compare: the page itself has no rule about which Records are comparable.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rfdetr_repro.records.frames import columns, flat
from rfdetr_repro.records.pareto import (
    backend,
    backend_of_any_batch,
    images,
    latency_mode,
    pickable,
)
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.protocol import PAPER_WAIT_MS

# columns of paths that only a program needs
_LEFT_OUT = re.compile(r"unverified$|.*\.draws_sha256$|latency\.(samples_sha256|parts)$")
_WAIT = re.compile(r"buffer (\S+) ms")
_FEW = 0.25  # share of Records below which only the present values are listed

ABLATIONS = ("5", "6", "v2_19")  # tables whose rows are steps or backbones, no family of models
MEASURED = "measured"
MODELLED = "modelled"
PUBLISHED = "published"


def explorer_json(records: Sequence[Record], run: str | None, published_first: bool = False) -> str:
    """The data of the page as JSON in ASCII that may stand in a script element.

    ``run``: the folder that ``rfdetr-repro pick`` can be given; None if these Records are not those
    of one run. ``published_first``: whether the page opens with the published Records.
    """
    page = {
        "count": len(records),
        "run": None if run is None else shlex.quote(run),
        "opens": PUBLISHED if published_first else MEASURED,
    }
    return in_script(page | _columns(records))


def in_script(value: Any) -> str:
    """``value`` as JSON without letters that could end or comment out a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def explorable(records: Sequence[Record]) -> bool:
    """Whether at least one Record has an AP and something to draw it against."""
    return any(_point(record) for record in records)


def _point(record: Record) -> bool:
    scored = any(
        accuracy is not None and accuracy.ap is not None
        for accuracy in (record.accuracy, record.mask_accuracy)
    )
    cost = record.cost
    counted = cost is not None and (cost.params is not None or cost.flops is not None)
    return scored and (record.latency is not None or counted)


def _columns(records: Sequence[Record]) -> dict[str, Any]:
    found = columns(records)
    shown = [_shown(record) for record in records]
    for name in shown[0] if shown else ():
        found[f"shown.{name}"] = [row[name] for row in shown]
    named = _in_order(records, {name for name in found if not _LEFT_OUT.match(name)}, found)
    return {"columns": {name: _encoded(found[name]) for name in named}}


def _in_order(
    records: Sequence[Record], names: set[str], found: Mapping[str, list[Any]]
) -> list[str]:
    """The columns of ``names`` with a value, in the order in which they first occur, Record by
    Record.
    """
    first: dict[int, set[str]] = {}  # place of a Record -> columns that begin there
    for name in names:
        values = found[name]
        place = next((place for place, value in enumerate(values) if value is not None), None)
        if place is not None:
            first.setdefault(place, set()).add(name)
    ordered = []
    for place in sorted(first):
        row = [*flat(records[place]), *(f"shown.{name}" for name in _shown(records[place]))]
        ordered += [name for name in row if name in first[place]]
    return ordered


def _encoded(values: list[Any]) -> Any:
    first = values[0]
    if first is not None and values.count(first) == len(values):
        return {"same": first}
    if len(values) - values.count(None) < _FEW * len(values):
        present = [place for place, value in enumerate(values) if value is not None]
        return {"at": present, "values": [values[place] for place in present]}
    if not {str, type(None)}.issuperset(map(type, values)):
        return values
    distinct = dict.fromkeys(values)
    distinct.pop(None, None)
    codes: dict[str | None, int] = {word: code for code, word in enumerate(distinct)}
    codes[None] = -1
    return {"words": list(distinct), "codes": [codes[value] for value in values]}


def _shown(record: Record) -> dict[str, Any]:
    """What the page shows of a Record beside its fields, and what it compares the Record by."""
    return {
        "name": name_of(record),
        "arch": record.model.arch.key if record.model.arch else None,
        "origin": _origin(record),
        "mode": _mode(record),
        "images": images(record) if record.data else None,
        "timed": backend(record) if record.latency else None,
        "served": backend_of_any_batch(record) if record.latency else None,
        "backend": _backend(record),
        "machine": _machine(record),
        "series": _series(record),
        "weights": _weights(record),
        "pickable": pickable(record) is not None or None,
    }


def name_of(record: Record) -> str:
    """The architecture, or the model's name with its size; then the variant."""
    model = record.model
    if model.arch is not None:
        words = [model.arch.key]
    elif record.published is not None and model.size is not None:
        words = [model.name, model.size]
    else:
        words = [model.name]
    return " ".join([*words, *([model.variant] if model.variant else [])])


def _origin(record: Record) -> str:
    if record.published is not None:
        return PUBLISHED
    if record.latency is not None and record.latency.method == MODELLED:
        return MODELLED
    return MEASURED


def _mode(record: Record) -> str | None:
    """The latency mode. The paper's latencies are buffered by 200 ms where a row states no other
    wait.
    """
    if record.latency is None:
        return None
    if record.published is None:
        return latency_mode(record) or "unknown mode"
    wait = _WAIT.match(record.model.variant or "")
    if wait is None or float(wait[1]) == PAPER_WAIT_MS:
        return "buffered"
    return f"buffered {wait[1]} ms"


def _backend(record: Record) -> str | None:
    """Runtime, precision and options of what was timed; None without a latency."""
    if record.latency is None:
        return None
    if record.published is not None:
        return record.published.latency_backend or "unknown runtime"
    if record.latency.method == MODELLED:
        words = (record.deployment or "unknown runtime").split()
        mode = (latency_mode(record) or "").split()
        return " ".join(words[: -len(mode)] if mode and words[-len(mode) :] == mode else words)
    if record.artifact is None:
        return "unknown runtime"
    artifact = record.artifact
    graph = ["CUDA graph"] if record.latency.cuda_graph else []
    return " ".join([artifact.runtime, artifact.precision, *graph])


def _machine(record: Record) -> str | None:
    if record.machine is None:
        return None
    return record.machine.gpu or record.machine.cpu


def _series(record: Record) -> str:
    """What has one colour: the Records of a checkpoint, or the printed rows of a family."""
    if record.published is not None:
        if record.published.table in ABLATIONS:
            return f"Table {record.published.table} (paper)"
        return f"{record.model.name.partition(' (')[0]} (paper)"
    if record.model.checkpoint_sha256 is not None:
        words = record.model.name if record.model.arch is None else "checkpoint"
        return f"{words} {record.model.checkpoint_sha256[:8]}"
    return f"{record.model.name}, unknown checkpoint"


def _weights(record: Record) -> str:
    """What a front may join: the checkpoint, or the sizes of one family in one printed table."""
    model = record.model
    if record.published is None:
        return model.checkpoint_sha256 or f"{model.name}, unknown checkpoint"
    if record.published.table in ABLATIONS:
        return record.source
    table = f"Table {record.published.table}, {record.published.section}"
    return f"{model.name}, {model.variant}, {table}"
