"""AP of the search beside AP of the confirmed file: found by weights and images, and said in one
sentence.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from samples_records import SHA, measured

from rfdetr_repro.records.ap_gaps import ap_gaps, describe_gaps
from rfdetr_repro.records.record import AP_RULE, Accuracy, DataId, Latency, ModelId, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.tables.campaign import frontier_tables

ARCH = Arch(96, 16, 1, 2, 10)
MODEL = ModelId("rfdetr", f"rfdetr-{ARCH.key}", arch=ARCH, checkpoint_sha256="c" * 64)
DATA = DataId("mine", "val", "d" * 64, 5)


def searched(ap: float, **changes: object) -> Record:
    record = Record(
        "search",
        MODEL,
        data=DATA,
        accuracy=Accuracy(ap, 0.5, rule=AP_RULE),
        latency=Latency(3.0, "modelled"),
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def confirmed(ap: float, precision: str = "fp32", **changes: object) -> Record:
    accuracy = Accuracy(ap, 0.5, artifact_sha256=SHA, rule=AP_RULE)
    return replace(
        measured(model=MODEL, data=DATA, precision=precision), accuracy=accuracy, **changes
    )


def test_the_same_ap_is_said_to_be_the_same() -> None:
    gaps = ap_gaps([searched(0.5), confirmed(0.5)])
    assert len(gaps) == 1 and gaps[0].points == 0
    assert "the same to the last bit (1 values)" in describe_gaps(gaps)


@pytest.mark.parametrize(
    ("precision", "reason"), [("fp32", "another order"), ("fp16", "not float32")]
)
def test_a_difference_is_printed_with_its_reason(precision: str, reason: str) -> None:
    told = describe_gaps(ap_gaps([searched(0.5), confirmed(0.5021, precision)]))
    assert (
        "1 of 1 values" in told
        and "at most 0.21 points" in told
        and ARCH.key in told
        and reason in told
    )
    assert "AP 50.00 in the search, 50.21 of the file" in told


@pytest.mark.parametrize(
    "other",
    [
        searched(0.5, data=replace(DATA, sha256="e" * 64)),
        searched(0.5, data=replace(DATA, split="test")),
        searched(0.5, model=replace(MODEL, checkpoint_sha256="e" * 64)),
        searched(0.5, accuracy=Accuracy(0.5, 0.5)),  # of an older rule
    ],
)
def test_other_images_weights_and_rules_are_not_compared(other: Record) -> None:
    assert ap_gaps([other, confirmed(0.4)]) == [] and describe_gaps([]) == ""


def test_masks_are_compared_with_masks() -> None:
    one = searched(0.5, mask_accuracy=Accuracy(0.3, rule=AP_RULE))
    gaps = ap_gaps(
        [one, confirmed(0.5, mask_accuracy=Accuracy(0.2, artifact_sha256=SHA, rule=AP_RULE))]
    )
    assert [(gap.kind, round(gap.points, 6)) for gap in gaps] == [("ap", 0.0), ("mask_ap", -10.0)]
    assert "mask AP 30.00 in the search" in describe_gaps(gaps)


def test_the_frontier_table_says_so() -> None:
    (table,) = frontier_tables([searched(0.5), confirmed(0.5021)])
    assert any("0.21 points" in note for note in table.notes)
    (alone,) = frontier_tables([confirmed(0.5021)])
    assert not any("in the search" in note for note in alone.notes)
