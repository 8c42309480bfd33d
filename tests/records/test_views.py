"""Views of a Record have the parts that they name; a Record without them is refused in one line."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from samples_records import measured

from rfdetr_repro.records.record import (
    Accuracy,
    MeasuredRecord,
    ModelId,
    Record,
    ScoredRecord,
    SearchedRecord,
    TimedRecord,
)
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

ARCH = Arch(384, 16, 2, 2, 300)


def full() -> Record:
    record = measured(ap=0.4)
    return replace(
        record,
        model=replace(record.model, arch=ARCH),
        mask_accuracy=Accuracy(0.3, artifact_sha256=record.artifact.sha256),
    )


def test_a_full_record_has_every_view():
    record = full()
    assert record.as_accuracy().ap == 0.4 and record.as_accuracy().accuracy is record.accuracy
    assert record.as_accuracy(masks=True).ap == 0.3
    assert record.as_latency().ms == record.latency.median_ms
    assert record.as_searched().arch is ARCH
    view = record.as_measured()
    assert (view.artifact, view.protocol, view.latency) == (
        record.artifact,
        record.protocol,
        record.latency,
    )
    assert view.graph is True and view.record is record
    for one in (record.as_accuracy(), record.as_latency(), record.as_searched(), view):
        assert all(getattr(one, field.name) is not None for field in fields(one))


@pytest.mark.parametrize(
    ("missing", "method", "view", "what"),
    [
        ({"accuracy": None}, "as_accuracy", ScoredRecord, "AP"),
        ({"latency": None}, "as_latency", TimedRecord, "latency"),
        ({"latency": None}, "as_measured", MeasuredRecord, "latency of a file"),
        ({"protocol": None}, "as_measured", MeasuredRecord, "latency of a file"),
        ({"model": ModelId("rfdetr", "ours")}, "as_searched", SearchedRecord, "architecture"),
    ],
)
def test_what_a_record_lacks_is_named(missing, method, view, what):
    record = replace(full(), **missing)
    assert view.of(record) is None
    with pytest.raises(InputError, match=f"{record.id} of ours has no {what}"):
        getattr(record, method)()


def test_an_accuracy_without_an_ap_is_no_ap():
    record = replace(full(), accuracy=Accuracy(None, artifact_sha256=full().artifact.sha256))
    assert ScoredRecord.of(record) is None and ScoredRecord.of(record, masks=True) is not None


def test_views_leave_id_and_stored_line_as_they_are():
    record = full()
    line = record.to_json()
    record.as_accuracy(), record.as_latency(), record.as_measured(), record.as_searched()
    assert record.to_json() == line and Record.from_json(line) == record
