"""Does a table hold? One line per printed row, four states, and a verdict whose counts add up."""

from __future__ import annotations

import dataclasses
import json

import pytest
from samples_records import EVERYTHING, NOTHING, OTHER_SHA, SHA, counted, measured

from rfdetr_repro.paper.cells import cells, table_rows
from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.record import Accuracy, ArtifactId, Cost, Latency, Machine
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.answer import (
    DIFFERS,
    INCOMPARABLE,
    NOT_MEASURED,
    NUMBER_STATES,
    REPRODUCED,
    AnsweredRow,
    answer,
)
from rfdetr_repro.tables.answer_table import answer_table, verdict_lines
from rfdetr_repro.tables.command import build_tables
from rfdetr_repro.tables.format import render
from rfdetr_repro.tables.observations import COLUMNS
from rfdetr_repro.tables.table import Table

CPU = Machine("AMD EPYC", 2, 7.0, "Linux")


def whole_nano(ap: float = 0.48, ms: float = 2.3):
    """A measurement of every AP that Table 2 prints of RF-DETR N, equal to the printed ones."""
    accuracy = Accuracy(ap, 0.67, 0.514, 0.252, 0.535, 0.7, artifact_sha256=SHA)
    return measured(ap=ap, ms=ms, accuracy=accuracy)


def row_of(found, label: str) -> AnsweredRow:
    (row,) = [row for row in found.rows if row.label == label]
    return row


def line_of(table: Table, label: str) -> dict[str, str]:
    (row,) = [row for row in table.rows if row["model"].text == label]
    return {key: cell.shown for key, cell in row.items()}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("here", [NOTHING, EVERYTHING])
def test_one_line_per_printed_row_and_counts_that_add_up(name, here):
    records = [whole_nano(), counted("dfine", "S", 10_200_000, 25.2, counter="calflops")]
    found = answer(name, records, here)
    assert [row.row.number for row in found.rows] == [row.number for row in table_rows(name)]
    assert len(answer_table(found).rows) == len(table_rows(name))
    assert sum(found.counts.values()) == len(list(cells(name))) == len(found.numbers)
    assert set(found.counts) <= set(NUMBER_STATES)
    opened = [number for number in found.numbers if not number.compared]
    assert all(number.why for number in opened)  # every open number has its reason
    assert sum(found.reasons.values()) == len(opened)


def test_the_states_of_a_row():
    count = counted("rfdetr", "nano", 30_467_000, 31.934)
    states = {
        "reproduced": [whole_nano(), count],
        "7 of 9 reproduced": [whole_nano()],
        "differs: AP": [whole_nano(ap=0.47), count],
        "differs: ms, AP": [whole_nano(ap=0.47, ms=3.0)],
        "not measured": [],
        "differs: Params, GFLOPs": [counted("rfdetr", "nano", 26_900_000, 31.7)],
    }
    for state, records in states.items():
        assert row_of(answer("2", records, NOTHING), "RF-DETR N").state == state


def test_a_latency_of_another_device_is_shown_but_compared_with_nothing():
    artifact = ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 1)
    record = measured(ms=56.7, machine=CPU, artifact=artifact)
    found = answer("2", [record], NOTHING)
    number = row_of(found, "RF-DETR N").numbers["latency_ms"]
    assert number.state == INCOMPARABLE and "onnxruntime-cpu fp32" in number.why
    assert "a T4's" in number.why and "AMD EPYC" in number.why
    line = line_of(answer_table(found), "RF-DETR N")
    assert (line["measured_latency_ms"], line.get("difference_latency_ms", "")) == ("(56.7)", "")
    assert line["measured_ap"] == "47.9" and line["difference_ap"] == "-0.1"
    assert found.counts[INCOMPARABLE] == 2  # with GroundingDINO's AP


def test_the_interval_and_the_difference_stand_beside_the_number():
    record = whole_nano(ap=0.482)
    record = dataclasses.replace(
        record,
        accuracy=dataclasses.replace(record.accuracy, ap_low=0.473, ap_high=0.491),
        latency=Latency(2.43, ci_low_ms=2.4, ci_high_ms=2.5, cuda_graph=True, artifact_sha256=SHA),
    )
    line = line_of(answer_table(answer("2", [record], NOTHING)), "RF-DETR N")
    assert (line["published_ap"], line["measured_ap"]) == ("48.0", "48.2")
    assert (line["interval_ap"], line["difference_ap"]) == ("[47.3, 49.1]", "+0.2")
    assert line["interval_latency_ms"] == "[2.40, 2.50]"
    assert line["difference_latency_ms"] == "+0.1" and line["measured_latency_ms"] == "2.43"


def test_the_verdict_says_what_the_counts_say():
    total = len(list(cells("2")))
    for records, word, counts in (
        ([], "Open.", (0, 0)),
        ([whole_nano()], "As far as it was measured, yes.", (7, 0)),
        ([whole_nano(ap=0.4)], "Not in every number.", (6, 1)),
    ):
        found = answer("2", records, EVERYTHING)
        last = verdict_lines(found)[-1]
        assert last.startswith(f"Does Table 2 hold? {word} Of {total} printed numbers, ")
        assert (found.counts[REPRODUCED], found.counts[DIFFERS]) == counts
        assert f"{counts[0]} are reproduced" in last
        assert answer_table(found).notes[-1] == last
    assert (
        "Nothing says whether its APs and its latencies hold."
        in verdict_lines(answer("2", [counted("rfdetr", "nano", 30_467_000, 31.934)], NOTHING))[-1]
    )


def test_a_whole_table_that_holds_is_a_yes():
    records = [
        dataclasses.replace(
            counted(family, "S", None, gflops),
            cost=Cost(10_000_000, 1e9 * gflops, counter=counter),
        )
        for family, counter, gflops in (
            ("dfine", "calflops", 25.2),
            ("dfine", "flopcountermode", 25.5),
            ("lwdetr", "calflops", 22.9),
            ("lwdetr", "flopcountermode", 31.8),
            ("yolo11", "calflops", 23.9),
            ("yolo11", "flopcountermode", 21.6),
        )
    ]
    found = answer("9", records, EVERYTHING)
    assert found.counts == {REPRODUCED: 6, INCOMPARABLE: 3}  # three are reported, not counted
    assert found.verdict() == "as far as measured"
    assert {row.state for row in found.rows} == {"2 of 3 reproduced"}


def test_of_several_counters_one_line_and_with_counters_all():
    records = [
        dataclasses.replace(
            counted("dfine", "S", 10_200_000, gflops),
            cost=Cost(10_200_000, 1e9 * gflops, counter=counter, form="evaluated"),
        )
        for counter, gflops in (("flopcountermode", 25.7), ("calflops", 25.2))
    ]
    found = answer("2", records, NOTHING)
    line = line_of(answer_table(found), "D-FINE S")
    assert (line["measured_gflops"], line["difference_gflops"]) == ("25.2", "=")
    rows = [
        row for row in answer_table(found, counters=True).rows if row["model"].text == "D-FINE S"
    ]
    assert [row["state"].text for row in rows[1:]] == [
        "counted by flopcountermode evaluated",
        "counted by calflops evaluated",
    ]
    assert [row["difference_gflops"].text for row in rows] == ["=", "+0.5", "="]


def test_where_no_counter_agrees_the_nearest_is_shown():
    records = [
        dataclasses.replace(
            counted("dfine", "S", 10_200_000, gflops), cost=Cost(10_200_000, 1e9 * gflops)
        )
        for gflops in (29.0, 25.4, 20.0)
    ]
    line = line_of(answer_table(answer("2", records, NOTHING)), "D-FINE S")
    assert (line["measured_gflops"], line["difference_gflops"]) == ("25.4", "+0.2")


def test_wide_has_a_line_for_each_further_file():
    other = measured(ap=0.47, sha=OTHER_SHA, ms=9.0, protocol=Protocol("sustained", buffer_ms=0.0))
    found = answer("2", [whole_nano(), other], NOTHING)
    plain = [row for row in answer_table(found).rows if row["model"].text == "RF-DETR N"]
    wide = [row for row in answer_table(found, wide=True).rows if row["model"].text == "RF-DETR N"]
    assert len(plain) == 1 and len(wide) == 3
    assert plain[0]["state"].text == "differs: AP"  # one of two files does not reproduce the AP
    assert {row["file"].text for row in wide[1:]} == {SHA[:12], OTHER_SHA[:12]}
    assert any("sustained" in row["state"].text for row in wide[1:])


def test_what_never_can_be_measured_is_called_so():
    found = answer("3", [], EVERYTHING)
    assert row_of(found, "MaskDINO R50").state == INCOMPARABLE
    assert row_of(found, "YOLOv8 N").state == NOT_MEASURED
    assert any("MaskDINO has no installable package" in note for note in answer_table(found).notes)


def test_json_holds_numbers_booleans_and_null():
    record = whole_nano(ap=0.482)
    (table,) = json.loads(render(build_tables("2", [record], "json"), "json"))["tables"]
    assert all(set(row) == set(COLUMNS) for row in table["rows"])
    for row in table["rows"]:
        assert isinstance(row["value"], float) and isinstance(row["shown"], bool)
        for key in ("low", "high", "published", "difference"):
            assert row[key] is None or isinstance(row[key], float)
        assert row["model"] and row["source"] in ("paper", "here", "computed")
    (ap,) = [row for row in table["rows"] if (row["source"], row["metric"]) == ("here", "ap")]
    assert (ap["value"], ap["published"], ap["difference"]) == (48.2, 48.0, 0.2)
    assert (ap["low"], ap["unit"], ap["state"]) == (None, "%", "reproduced")
    assert (ap["record"], ap["file"], ap["device"]) == (record.id, SHA, "Tesla T4")
