"""Intervals and marks in the tables: an order that is not established is not claimed, and the
unknown is not certain.
"""

from __future__ import annotations

from dataclasses import replace

from samples_intervals import FAST, SLOW, noise, sure, three, tuned
from samples_records import measured
from samples_run import protocol_record, search_record

from rfdetr_repro.records.record import Resampled
from rfdetr_repro.tables.campaign import campaign_tables, finetuning_tables
from rfdetr_repro.tables.command import build_tables
from rfdetr_repro.tables.format import FORMATS, render
from rfdetr_repro.tables.intervals import not_told_apart


def test_overlapping_intervals_are_told_apart_by_their_paired_difference_alone():
    (table,) = campaign_tables(three())
    gains = [row["gain"].text for row in table.rows]
    assert gains == ["", "+2.0", "+0.5 ≈"]
    assert [row["val_ci"].text for row in table.rows] == [
        "[34.0, 46.0]",
        "[36.0, 48.0]",
        "[36.5, 48.5]",
    ]
    notes = " ".join(table.notes)
    assert (
        "400 resamples of 150 images, seed 0" in notes
        and "≈" in notes
        and "not established" in notes
    )


def test_an_interval_that_is_not_known_is_called_so():
    records = three()
    records[1] = replace(
        records[1], accuracy=replace(records[1].accuracy, ap_low=None, ap_high=None, resampled=None)
    )
    (table,) = campaign_tables(records)
    assert [row["val_ci"].text for row in table.rows][1] == "unknown"
    assert [row["gain"].text for row in table.rows] == ["", "+2.0 ?", "+0.5 ?"]
    assert "keeps nothing per image" in " ".join(table.notes)
    boxes_only = [replace(record, mask_accuracy=None) for record in records]
    assert (
        "val_mask_ci" not in campaign_tables(boxes_only)[0].rows[0]
        or not campaign_tables(boxes_only)[0].rows[0]["val_mask_ci"].text
    )


def test_a_point_off_the_front_is_compared_with_the_one_that_beats_it():
    worse = sure(protocol_record(SLOW), 0.418, 0.36, 0.48, noise(0.01))
    (table,) = campaign_tables([*three()[:2], worse])
    last = table.rows[-1]
    assert (last["front"].text, last["gain"].text) == ("no", "-0.2 ≈")


def test_the_modelled_frontier_has_intervals_and_claims_no_order():
    records = [
        sure(search_record(arch), ap, ap - 0.05, ap + 0.05)
        for arch, ap in ((FAST, 0.4), (SLOW, 0.5))
    ]
    records = [
        replace(
            r, accuracy=replace(r.accuracy, resampled=Resampled("influence", 150, freedom=60.0))
        )
        for r in records
    ]
    (table,) = campaign_tables(records)
    assert [(row["ci"].text, row["gain"].text) for row in table.rows] == [
        ("[35.0, 45.0]", ""),
        ("[45.0, 55.0]", "+10.0 ?"),
    ]
    assert "the influence of each of 150 images" in " ".join(table.notes)


def test_what_fine_tuning_changed_has_a_paired_interval():
    start = three()[0]
    better = three()[1]
    before = tuned(start, "nas", "ab")
    after = tuned(replace(better, model=start.model), "nas+fine-tuning", "cd")
    (row,) = finetuning_tables([before, after])[0].rows
    assert (
        row["change_ap"].text == "+2.0"
        and row["change_ci"].text.startswith("[+1.")
        and "≈" not in row["change_ci"].text
    )
    assert row["change_mask_ci"].text == "unknown"
    noisy = tuned(
        replace(sure(start, 0.405, 0.34, 0.46, noise(0.02)), model=start.model),
        "nas+fine-tuning",
        "cd",
    )
    (row,) = finetuning_tables([before, noisy])[0].rows
    assert row["change_ci"].text.endswith("≈")


def test_the_papers_tables_show_the_interval_of_what_was_measured_here():
    record = measured()
    known = replace(record, accuracy=replace(record.accuracy, ap_low=0.45, ap_high=0.51))
    shown = {
        "text": ("[45.0, 51.0]", "unknown"),
        "markdown": ("[45.0, 51.0]", "unknown"),
        "latex": ("45.0 & 51.0 &", "- & - &"),
        "csv": (",45.0,51.0,", ",,,"),
        "json": ('"low": 45.0', '"low": null'),
    }
    assert shown.keys() == set(FORMATS)
    for form, texts in shown.items():
        for given, text in zip((known, record), texts, strict=True):
            assert text in render(build_tables("2", [given], form), form)
        assert texts[0] not in render(build_tables("2", [record], form), form)
    assert not any("interval_ap" in row for row in build_tables("2", [])[0].rows)


def test_the_best_is_claimed_only_over_those_that_are_told_apart():
    first, second, third = three()
    assert not_told_apart(third, [first, second]) == ([second], [])
    old = replace(first, accuracy=replace(first.accuracy, resampled=None))
    assert not_told_apart(third, [old, second]) == ([second], [old])
