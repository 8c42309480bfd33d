"""The paper's latency experiments as campaigns on the device of this machine: models and protocols.

``table1`` measures the models of Table 1 in FP32 and FP16, buffered; ``buffer-sweep`` measures the
models of the camera-ready's Table 20 with waits of 0, 200, 400 and 800 ms. ``rfdetr_repro.tables``
prints the Records next to the published rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from rfdetr_repro.records.record import ModelId, Record

from .published import join_key, published_records

CAMPAIGNS = {"table1": "1", "buffer-sweep": "v2_20"}  # -> published table


def campaign_models(campaign: str, known: Iterable[str]) -> tuple[list[str], list[str]]:
    """Two lists: the names of ``known`` that are in the campaign's table, and the rows of the table
    that have no name in ``known``.
    """
    rows = {
        join_key(record)[:2]: f"{record.model.name} {record.model.size}"
        for record in published_records(CAMPAIGNS[campaign])
    }
    names = {_key(name): name for name in known}
    found = [names[key] for key in rows if key in names]
    return found, [title for key, title in rows.items() if key not in names]


def _key(name: str) -> tuple[str, str]:
    """(family, size) of a model's name, such as "rfdetr-medium" or "yolov8-m", in the spelling of
    the published tables' keys.
    """
    family, _, size = name.rpartition("-")
    return join_key(Record("search", ModelId(family, name, size=size)))[:2]
