"""The paper's latency experiments: their models, waits and precisions, and that their Records reach
the published rows.
"""

from __future__ import annotations

from dataclasses import replace

from samples_record import SHA, fixed_record

from rfdetr_repro.bench.command.arguments import parser
from rfdetr_repro.bench.command.checks import check
from rfdetr_repro.bench.command.precisions import precisions
from rfdetr_repro.bench.command.protocols import protocols_of
from rfdetr_repro.paper.campaigns import campaign_models
from rfdetr_repro.paper.published import BUFFERS_MS
from rfdetr_repro.records.record import ArtifactId, DataId, ModelId, Record
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.published import Here, paper_table

NAMES = ["rfdetr-nano", "rfdetr-medium", "dfine-m", "dfine-s", "lwdetr-m", "rtdetr-r18", "yolo11-m"]


def test_models_are_those_of_the_table() -> None:
    for campaign in ("table1", "buffer-sweep"):
        found, missing = campaign_models(campaign, NAMES)
        assert found == [
            "yolo11-m",
            "rtdetr-r18",
            "lwdetr-m",
            "dfine-m",
            "rfdetr-medium",
        ] and missing == ["YOLOv8 M"]


def settings(*arguments: str) -> list[Protocol]:
    args = parser().parse_args(arguments)
    check(args)
    return protocols_of(args)


def test_protocols_of_the_campaigns() -> None:
    assert [(p.mode, p.buffer_ms) for p in settings("--campaign", "buffer-sweep")] == [
        ("buffered", ms) for ms in BUFFERS_MS
    ]
    (protocol,) = settings("--campaign", "table1")
    assert (protocol.mode, protocol.buffer_ms, protocol.builds) == ("buffered", 200.0, 4)
    assert precisions(parser().parse_args(["--campaign", "table1"])) == ["fp32", "fp16"]
    assert precisions(parser().parse_args(["--campaign", "buffer-sweep"])) == []
    assert all(
        protocol.timeout_s > protocol.min_samples * protocol.buffer_ms / 1e3
        for protocol in settings("--campaign", "buffer-sweep", "--formal")
    )


def test_modes() -> None:
    buffered, sustained, paced = settings(
        "--onnx", "m", "--protocol", "all", "--seconds", "--fps", "60"
    )
    assert (buffered.buffer_ms, sustained.buffer_ms, paced.buffer_ms) == (200.0, 0.0, 0.0)
    assert (sustained.min_time_s, sustained.settle_s, paced.fps, paced.min_samples) == (
        60.0,
        30.0,
        60.0,
        600,
    )
    (quick,) = settings("--onnx", "m", "--protocol", "paced", "--quick")
    assert (quick.fps, quick.min_samples, quick.max_samples, quick.builds) == (30.0, 32, 32, 2)
    formal = settings("--onnx", "m", "--protocol", "both", "--formal", "--builds", "1")
    assert (
        [p.builds for p in formal] == [4, 4]
        and formal[0].min_samples == 200
        and formal[1].min_time_s == 600
    )
    short = settings("--onnx", "m", "--protocol", "sustained")[0]
    assert short.min_time_s == short.settle_s == 0 and short.scope == "engine"
    on_gpu = settings("--onnx", "m", "--protocol", "sustained", "--backend", "tensorrt")[0]
    # clock and temperature take their time
    assert (on_gpu.min_time_s, on_gpu.settle_s) == (60.0, 30.0)
    assert (
        settings(
            "--onnx", "m", "--protocol", "sustained", "--backend", "tensorrt", "--seconds", "0"
        )[0].min_time_s
        == 0
    )
    kept_up = settings(
        "--onnx", "m", "--protocol", "both", "--spin-ms", "20", "--backend", "tensorrt"
    )
    assert [protocol.spin_ms for protocol in kept_up] == [20.0, 0.0]  # only one of them waits


def measured(precision: str, protocol: Protocol, ms: float) -> Record:
    record = fixed_record(
        model=ModelId("dfine", "dfine-m", size="m"),
        data=DataId("coco-val2017", "val"),
        artifact=ArtifactId(SHA, SHA, "onnxruntime-cpu", precision, 1),
        protocol=protocol,
        accuracy=None,
    )
    return replace(record, latency=replace(record.latency, median_ms=ms))


def cells(table: str, records: list[Record], columns: list[str]) -> list[list[str]]:
    """Texts of the measured columns, one list for each line beside D-FINE's row."""
    rows = [
        row for row in paper_table(table, records, Here(True, frozenset())).rows if "model" in row
    ]
    return [
        [row[f"measured_{column}"].text for column in columns]
        for row in rows
        if row["model"].text == "D-FINE"
    ]


def test_their_records_stand_beside_the_published_rows() -> None:
    (protocol,) = settings("--campaign", "table1")
    records = [measured("fp32", protocol, 30.0), measured("fp16", protocol, 20.0)]
    assert cells("1", records, ["buffered_fp32_latency_ms", "buffered_fp16_latency_ms"]) == [
        ["30.0", "20.0"]
    ]
    sweep = [
        measured("fp16", protocol, 10.0 + i)
        for i, protocol in enumerate(settings("--campaign", "buffer-sweep"))
    ]
    columns = [f"latency_ms_buffer_{ms:g}" for ms in BUFFERS_MS]
    assert cells("v2_20", sweep, columns) == [["10.0", "11.0", "12.0", "13.0"]]
