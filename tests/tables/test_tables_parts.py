"""The table of the parts of a latency, and the Records that hold them, from numbers with known
shares.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rfdetr_repro.records.record import (
    ArtifactId,
    DataId,
    FrameTimes,
    Latency,
    Machine,
    ModelId,
    PartTime,
    Record,
)
from rfdetr_repro.records.store import Store
from rfdetr_repro.report.findings import latency_parts
from rfdetr_repro.report.run import Run
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables import command
from rfdetr_repro.tables.command import build_tables
from rfdetr_repro.tables.format import render
from rfdetr_repro.tables.parts import SYNTHETIC_NOTE

SHA = "a" * 64
VGA = FrameTimes(480, 640, PartTime(0.5, 0.45, 0.55), PartTime(9.0), PartTime(0.5))
UHD = FrameTimes(
    2160,
    3840,
    PartTime(8.0, 7.9, 8.1, "b" * 64),
    PartTime(10.0, 9.5, 10.5),
    PartTime(2.0, 1.9, 2.1),
    PartTime(81.5, 80.0, 83.0),
    64,
    1_690_000,
    "2026-11-28T08:00:00+00:00",
)


def record(*frames: FrameTimes, weights: str = "trained", mode: str = "buffered") -> Record:
    return Record(
        "protocol",
        ModelId("rfdetr", "RF-DETR", size="N", weights=weights),
        artifact=ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 1000),
        latency=Latency(10.0, num_samples=64, artifact_sha256=SHA, parts=frames or None),
        protocol=Protocol(mode, threads=1),
        machine=Machine("a processor", 2, 16.0, "Linux"),
    )


def test_a_record_holds_its_parts_and_keeps_its_id() -> None:
    whole = record(VGA, UHD)
    assert Record.from_json(whole.to_json()) == whole
    assert whole.id == record().id and "parts" not in json.loads(record().to_json())["latency"]
    altered = whole.to_json().replace("81.5", "82.5")
    with pytest.raises(InputError, match="altered"):
        Record.from_json(altered)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ((VGA, VGA), "of frames 480x640, 480x640 px"),
        ((replace(VGA, width=0),), "of frames 480x0 px"),
        ((replace(VGA, network=PartTime(0.0)),), "takes 0 ms"),
        ((replace(VGA, network=PartTime(-1.0)),), "latency -1.0 is not a finite positive number"),
        ((replace(VGA, network=PartTime(9.0, 9.5, 10.0)),), r"takes 9 ms, of \[9.5, 10\]"),
        ((replace(UHD, decoding=PartTime(float("nan"))),), "not a finite positive number"),
    ],
)
def test_impossible_parts_are_refused(frames: tuple[FrameTimes, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        record(*frames)


def test_the_table_gives_each_part_and_its_share_of_the_whole() -> None:
    (table,) = build_tables("parts", [record(VGA, UHD)])
    small, large = (
        {key: cell.plain for key, cell in row.items() if cell.plain is not None}
        for row in table.rows
    )
    assert small["frame"] == "480x640" and small["whole_ms"] == pytest.approx(10.0)
    assert (small["preprocessing_share"], small["network_share"]) == (5.0, 90.0)
    assert (large["preprocessing_share"], large["network_share"]) == (40.0, 50.0)
    assert (large["postprocessing_share"], large["decoding_ms"]) == (10.0, 81.5)
    assert (large["jpeg_mb"], large["samples"]) == (1.69, 64)
    assert large["preprocessing_ci"] == "[7.90, 8.10]" and "network_ci" not in small
    assert SYNTHETIC_NOTE not in table.notes  # a model without masks


def test_the_printed_table_says_what_it_measured() -> None:
    text = render(build_tables("parts", [record(VGA, UHD, weights="random")]), "text")
    lines = text.splitlines()
    assert lines[0] == "From a frame to its detections, on a processor"
    (line,) = [each for each in lines if "2160x3840" in each]
    assert " ".join(line.split()) == (
        "RF-DETR N random onnxruntime-cpu fp32 1 2160x3840 | 8.00 [7.90, 8.10] 40.0 | 10.0 "
        "[9.50, 10.5] 50.0 | 2.00 [1.90, 2.10] 10.0 | 20.0 | 81.5 [80.0, 83.0] 1.69 | 64"
    )
    (line,) = [each for each in lines if "480x640" in each]
    assert "0.500 [0.450, 0.550]" in line.replace("  ", " ")
    assert "not part of the whole" in text


def test_the_table_says_which_frames_are_synthetic() -> None:
    masks = replace(record(VGA), model=ModelId("rfdetr", "RF-DETR-Seg", "segment", "N"))
    (table,) = build_tables("parts", [masks])
    assert SYNTHETIC_NOTE in table.notes and "picture" not in [one.key for one in table.columns]
    on_data = replace(masks, data=DataId("cells", "val", "b" * 64, 40))
    (table,) = build_tables("parts", [on_data])
    assert SYNTHETIC_NOTE not in table.notes and table.rows[0]["picture"].text == "cells val"


def test_records_of_one_row_share_a_line_and_machines_have_tables_of_their_own() -> None:
    buffered, sustained = record(VGA), record(VGA, mode="sustained")
    elsewhere = replace(buffered, machine=Machine("another", 4, 16.0, "Linux"))
    on_data = replace(buffered, data=DataId("cells", "val", "b" * 64, 40))
    here, there = build_tables("parts", [buffered, sustained, on_data, elsewhere, record()])
    assert len(here.rows) == len(there.rows) == 1 and there.title.endswith("on another")


def test_records_without_parts_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "s.jsonl").append(record())
    assert run_main(command.main, ["--table", "parts", "--records", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "bench --parts 1080x1920" in captured.err and captured.err.count("\n") == 1


def test_the_report_shows_the_parts_that_a_run_holds(tmp_path: Path) -> None:
    with_parts = Run(tmp_path, [record(UHD)])
    (grid,) = latency_parts(with_parts).blocks
    assert grid.table.rows[0]["frame"].text == "2160x3840"
    section = latency_parts(Run(tmp_path, [record()]))
    assert not section.blocks and len(section.absent) == 1
