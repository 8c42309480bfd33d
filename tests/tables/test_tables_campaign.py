"""Tables of a campaign: the frontier, models before and after fine-tuning, and searches without
confirmed files.
"""

from __future__ import annotations

import dataclasses
import itertools

from samples_run import protocol_record, run_records, search_record

from rfdetr_repro.records.record import Itself, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.tables.campaign import SYNTHETIC, campaign_tables
from rfdetr_repro.tables.format import (
    FORMATS,
    MISSING,
    render,
)


def test_the_frontier_table_by_hand():
    arch = Arch(128, 16, 1, 2, 25)
    records = [
        protocol_record(arch),
        protocol_record(arch, "test"),
        protocol_record(arch, mode="sustained"),
        search_record(arch),
    ]
    (table,) = campaign_tables(records)
    (row,) = table.rows
    val, test, sustained = (record for record in records[:3])
    assert (
        row["val_ap"].text == f"{100 * val.accuracy.ap:.1f}"
        and row["test_ap50"].text == f"{100 * test.accuracy.ap50:.1f}"
    )
    assert (
        row["buffered_ms"].text == f"{val.latency.median_ms:.2f}"
        and row["sustained_ms"].value == sustained.latency.median_ms
    )
    assert row["buffered_ci"].text == f"[{val.latency.ci_low_ms:.2f}, {val.latency.ci_high_ms:.2f}]"
    assert row["sha256"].text == val.artifact.sha256[:12] and row["front"].text == "yes"
    assert "SYNTHETIC" in table.title and SYNTHETIC in table.notes


def test_the_frontier_table_names_what_was_not_measured_and_what_lost():
    slow = dataclasses.replace(
        protocol_record(Arch(160, 16, 1, 2, 25)), accuracy=None, mask_accuracy=None
    )
    fast = protocol_record(Arch(128, 16, 1, 2, 25))
    worse = protocol_record(Arch(128, 16, 2, 0, 10))
    worse = dataclasses.replace(worse, latency=dataclasses.replace(worse.latency, median_ms=50.0))
    (table,) = campaign_tables([slow, fast, worse])
    by_arch = {row["arch"].text: row for row in table.rows}
    assert (
        by_arch["r160-p16-w1-d2-q25"]["val_ap"].state == MISSING
        and by_arch["r160-p16-w1-d2-q25"]["test_ap"].state == MISSING
    )
    assert (
        by_arch["r128-p16-w1-d2-q25"]["front"].text,
        by_arch["r128-p16-w2-d0-q10"]["front"].text,
    ) == ("yes", "no")


def test_a_run_without_masks_prints_no_columns_of_masks():
    def of(variant: str, masks: bool) -> Record:
        record = protocol_record(Arch(128, 16, 1, 2, 25))
        model = dataclasses.replace(record.model, variant=variant)
        kept = record.mask_accuracy if masks else None
        return dataclasses.replace(record, model=model, mask_accuracy=kept)

    for masks in (True, False):
        found = campaign_tables([of("nas", masks), of("nas+fine-tuning", masks)])
        for table, form in itertools.product(found, FORMATS):
            text = render([table], form)
            # what a program reads has the same columns for every run
            assert ("mask" in text) == (masks or form != "text")
            assert "buffered" in text or table.name == "fine-tuning"


def test_before_and_after_fine_tuning_stand_side_by_side():
    def of(variant: str, gain: float, split: str = "val", mode: str = "buffered") -> Record:
        record = protocol_record(Arch(128, 16, 1, 2, 25), split, mode)
        artifact = dataclasses.replace(record.artifact, sha256=("ab" if gain else "cd") * 32)
        parts = {name: getattr(record, name) for name in ("accuracy", "mask_accuracy", "latency")}
        parts = {
            name: dataclasses.replace(part, artifact_sha256=artifact.sha256)
            for name, part in parts.items()
        }
        parts["accuracy"] = dataclasses.replace(
            parts["accuracy"], ap=round(parts["accuracy"].ap + gain, 4)
        )
        return dataclasses.replace(
            record,
            model=dataclasses.replace(record.model, variant=variant),
            artifact=artifact,
            **parts,
        )

    before = of("nas", 0.0)
    after = of("nas+fine-tuning", 0.012)
    both = [
        before,
        of("nas", 0.0, mode="sustained"),
        after,
        of("nas+fine-tuning", 0.012, mode="sustained"),
    ]
    table = campaign_tables(both)[-1]
    (row,) = table.rows
    assert table.name == "fine-tuning" and SYNTHETIC in table.notes and "SYNTHETIC" in table.title
    assert (row["change_ap"].text, row["change_mask_ap"].text, row["files"].text) == (
        "+1.2",
        "+0.0",
        "cdcdcdcdcdcd -> abababababab",
    )
    assert row["fine-tuned_ap"].value == round(row["searched_ap"].value + 1.2, 4)
    test_split = of("nas+fine-tuning", 0.012, "test")
    # another split is no pair
    assert [each.name for each in campaign_tables([before, test_split])] == ["frontier"]


def test_backends_get_their_own_frontier_table():
    cpu = protocol_record(Arch(128, 16, 1, 2, 25))
    other = dataclasses.replace(cpu, artifact=dataclasses.replace(cpu.artifact, runtime="openvino"))
    assert len(campaign_tables([cpu, other])) == 2


def test_an_unconfirmed_search_says_so():
    (table,) = campaign_tables([record for record in run_records() if record.source == "search"])
    assert "NOT CONFIRMED" in table.title and "modelled" in table.title and SYNTHETIC in table.notes


def test_the_frontier_table_says_what_its_intervals_speak_of():
    arch = Arch(128, 16, 1, 2, 25)
    old = protocol_record(arch)
    (table,) = campaign_tables([old])
    assert any("of the session in which" in note for note in table.notes)
    assert any("too narrow" in note for note in table.notes)  # its Record names no method
    itself = Itself(5.1, 0.0012, "SAME", -0.003, 0.0055)
    (table,) = campaign_tables(
        [
            dataclasses.replace(
                old, latency=dataclasses.replace(old.latency, interval="one session", itself=itself)
            )
        ]
    )
    assert not any("too narrow" in note for note in table.notes)
    told = f"{arch.key} measured twice in turns, buffered 200 ms: +0.12% (-0.30% to +0.55%), SAME."
    assert [note for note in table.notes if "A/A" in note and told in note]
