"""Own rows in a paper's table: what joins, what is refused and said, and where a row stands."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest
from samples_records import NOTHING, OTHER_SHA, SHA, measured
from samples_run import run_records, write_run

from rfdetr_repro.records.record import (
    Accuracy,
    ArtifactId,
    Cost,
    DataId,
    Latency,
    Machine,
    ModelId,
    Record,
)
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables import command as tables
from rfdetr_repro.tables.answer import AnsweredRow, answer
from rfdetr_repro.tables.answer_table import answer_table
from rfdetr_repro.tables.own import own_rows

COCO = DataId("coco-val2017", "val", "ab" * 32, 5000)
CPU = Machine("AMD EPYC", 2, 7.0, "Linux")
CPU_FILE = ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 1)


def mine(
    ap: float | None = 0.512, ms: float = 3.1, name: str = "mine", sha: str = SHA, **changes
) -> Record:
    """A Record as ``bench --model mine.onnx`` writes it."""
    accuracy = None if ap is None else Accuracy(ap, 0.69, artifact_sha256=sha)
    parts = {"model": ModelId("onnx", name), "data": COCO, "accuracy": accuracy, **changes}
    return measured(ap=ap, ms=ms, sha=sha, **parts)


def own(name: str, *records: Record) -> list[AnsweredRow]:
    return [row for row in answer(name, [], NOTHING, records).rows if row.own is not None]


def labels(name: str, *records: Record) -> list[str]:
    return [row.label for row in answer(name, [], NOTHING, records).rows]


def test_an_onnx_file_stands_in_the_table_with_its_interval():
    record = mine(
        accuracy=Accuracy(0.512, 0.69, ap_low=0.501, ap_high=0.523, artifact_sha256=SHA),
        latency=Latency(3.1, ci_low_ms=3.05, ci_high_ms=3.2, cuda_graph=False, artifact_sha256=SHA),
        cost=Cost(12_345_678, 30.2e9),
    )
    table = answer_table(answer("2", [], NOTHING, [record]), wide=True)
    (row,) = [row for row in table.rows if row["model"].text == "mine (own)"]
    shown = {key: cell.shown for key, cell in row.items()}
    assert (shown["measured_ap"], shown["interval_ap"]) == ("51.2", "[50.1, 52.3]")
    assert (shown["measured_latency_ms"], shown["interval_latency_ms"]) == ("3.10", "[3.05, 3.20]")
    assert (shown["measured_params_m"], shown["measured_gflops"]) == ("12.3", "30.2")
    assert shown["published_ap"] == shown["measured_ap75"] == "-" and shown["state"] == "own"
    assert (shown["file"], shown["record"]) == (SHA[:12], record.id)


def test_a_row_stands_behind_the_last_one_without_a_higher_ap():
    printed = labels("2")
    assert labels("2", mine(0.512)) == [*printed[:14], "mine", *printed[14:]]
    assert printed[13] == "RT-DETR R18" and printed[14] == "LW-DETR M"
    assert labels("2", mine(0.99))[-1] == "mine"
    # the first of the end-to-end detectors has AP 42.9
    assert labels("2", mine(0.1))[7:9] == ["mine", "LW-DETR T"]
    latency = Latency(9.0, cuda_graph=True, artifact_sha256=SHA, suppression_ms=0.4)
    with_nms = mine(0.43, latency=latency)
    assert labels("2", with_nms)[2:5] == ["YOLOv8 S", "mine", "YOLOv11 S"]
    assert labels("5", mine(0.53))[-1] == "mine"  # steps keep their order
    two = labels("2", mine(0.52, name="b", sha=OTHER_SHA), mine(0.515, name="a"))
    assert two.index("b") == two.index("a") + 1


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (mine(data=DataId("bccd", "val", None, 300)), "measured on bccd val, 300 images"),
        (mine(data=dataclasses.replace(COCO, num_images=500)), "500 images"),
        (mine(model=ModelId("onnx", "seg", "segment")), "task is segment"),
        (mine(source="search"), "its source is 'search'"),
        (mine(None, data=None, machine=CPU, artifact=CPU_FILE), "not timed like the table's"),
    ],
)
def test_what_is_not_the_tables_is_refused_and_said(record, says):
    found = answer("2", [], NOTHING, [record])
    assert not any(row.own for row in found.rows)
    (line,) = found.refused
    assert line.startswith(f"refused, {record.model.name}") and says in line
    assert line in answer_table(found).notes


def test_the_name_of_the_data_set_is_enough():
    assert own("2", mine(data=dataclasses.replace(COCO, split="test")))


def test_a_folder_of_coco_may_have_any_usual_name():
    for name in ("coco", "COCO2017", "ms-coco", "coco_val2017"):
        assert own("2", mine(data=DataId(name, "val", None, 5000))), name
    assert not own("2", mine(data=DataId("coco", "val", None, 150)))
    assert not own("2", mine(data=DataId("coco", "test", None, 5000)))


def test_a_latency_of_another_device_is_marked_and_never_pooled():
    (row,) = own("2", mine(ms=56.7, machine=CPU, artifact=CPU_FILE))
    assert row.numbers["latency_ms"].state == "cannot be compared"
    assert row.numbers["ap"].state == "own"
    notes = answer_table(answer("2", [], NOTHING, [mine(machine=CPU, artifact=CPU_FILE)])).notes
    assert any("is compared with nothing" in note and "AMD EPYC" in note for note in notes)
    sustained = mine(protocol=Protocol("sustained", buffer_ms=0.0))
    (row,) = own("2", sustained)
    assert "latency_ms" not in row.numbers and "ap" in row.numbers


def test_records_of_one_file_are_one_row_and_of_two_devices_two():
    waits = [mine(ms=3.0), mine(ms=2.0, protocol=Protocol("sustained", buffer_ms=0.0))]
    (row,) = own("2", *waits)
    assert row.numbers["latency_ms"].cell.value == 3.0
    two = own("2", mine(), mine(machine=CPU, artifact=CPU_FILE))
    assert len(two) == 2 and len({row.label for row in two}) == 2
    assert any("onnxruntime-cpu" in row.label for row in two)


def test_a_run_that_searched_other_data_joins_nothing():
    rows, refused = own_rows("2", run_records())
    assert rows == [] and len(refused) <= 4  # a line per reason, not per Record
    assert any("search" in line for line in refused)


def test_segmentation_tables_take_mask_ap():
    record = mine(
        model=ModelId("onnx", "seg", "segment"),
        mask_accuracy=Accuracy(0.41, artifact_sha256=SHA),
    )
    (row,) = own("3", record)
    assert row.numbers["ap"].cell.value == 41.0


def test_the_command(tmp_path, capsys):
    store = tmp_path / "mine.jsonl"
    Store(store).extend([mine(), mine(name="other", sha=OTHER_SHA, data=DataId("bccd", "val"))])
    assert run_main(tables.main, ["--table", "2", "--with", str(store), "--wide"]) == 0
    out = capsys.readouterr().out
    assert "mine (own)" in out and "refused, other (1 Record)" in out
    command = ["--table", "2", "--format", "csv", "--with", str(store)]
    assert run_main(tables.main, command) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = {row["metric"]: row for row in rows if row["source"] == "own"}
    assert (found["ap"]["model"], found["ap"]["value"], found["ap"]["unit"]) == (
        "mine",
        "51.2",
        "%",
    )
    assert (found["latency"]["value"], found["latency"]["device"]) == ("3.1", "Tesla T4")


def test_two_stores_and_a_run_folder(tmp_path, capsys):
    run = write_run(tmp_path / "run", pictures=False)
    for name, sha in (("a", SHA), ("b", OTHER_SHA)):
        Store(tmp_path / f"{name}.jsonl").extend([mine(name=name, sha=sha)])
    given = ["--with", str(tmp_path / "a.jsonl"), "--with", str(tmp_path / "b.jsonl")]
    assert run_main(tables.main, ["--table", "2", *given, "--with", str(run)]) == 0
    out = capsys.readouterr().out
    assert "a (own)" in out and "b (own)" in out and "refused, " in out


@pytest.mark.parametrize("table", ["2", "all"])
def test_where_nothing_joins_the_command_fails(table, tmp_path, capsys):
    store = tmp_path / "mine.jsonl"
    Store(store).extend([mine(data=DataId("bccd", "val", None, 300))])
    assert run_main(tables.main, ["--table", table, "--with", str(store)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "can join" in told.err


@pytest.mark.parametrize("arguments", [["--table", "frontier"], ["--scoreboard"], ["--table", "9"]])
def test_other_outputs_take_no_own_rows(arguments, tmp_path, capsys):
    store = tmp_path / "mine.jsonl"
    Store(store).extend([mine()])
    assert run_main(tables.main, [*arguments, "--with", str(store)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
