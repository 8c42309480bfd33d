"""Which Records stand beside which printed rows: by model, architecture, data, precision, wait,
counter; never merged.
"""

from __future__ import annotations

import dataclasses

import pytest
from samples_records import NOTHING, OTHER_SHA, SHA, T4, counted, measured
from samples_run import run_records

from rfdetr_repro.paper.cells import Row, cells, preset_name, slots, table_rows
from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.record import Accuracy, ArtifactId, Cost, DataId, Latency, ModelId, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.format import MEASURED, Cell, Table
from rfdetr_repro.tables.join import Measured
from rfdetr_repro.tables.published import computed_gflops, paper_table

NANO = Arch(384, 16, 2, 2, 300)
MEDIUM = Arch(576, 16, 2, 4, 300)


def row(table: str, label: str) -> Row:
    (found,) = [each for each in table_rows(table) if each.label == label]
    return found


def texts(record: Record | list[Record], table: str, label: str) -> list[dict[str, str]]:
    lines = Measured(record if isinstance(record, list) else [record]).lines(row(table, label))
    return [{column: cell.text for column, cell in line.cells.items()} for line in lines]


def filled(table: Table) -> dict[str, Cell]:
    """The one row that a Record fills."""
    (found,) = [each for each in table.rows if "record" in each]
    return found


def measured_cells(table: str, records: list[Record]) -> list[str]:
    shown = paper_table(table, records, NOTHING)
    return [
        cell.text
        for each in shown.rows
        for key, cell in each.items()
        if cell.state == MEASURED and key.startswith("measured_")
    ]


@pytest.mark.parametrize(
    "stranger",
    [
        measured(data=DataId("embedded", "val")),
        measured(data=DataId("my-folder", "val")),
        measured(data=DataId("coco-val2017", "val", num_images=500)),
        measured(model=ModelId("yolov5", "x", size="N")),
        measured(model=ModelId("rfdetr", "x", task="segment", size="N")),
        measured(model=ModelId("rfdetr", "x", size="Q")),
        measured(model=ModelId("rfdetr", "x", size="pico", arch=NANO)),
        measured(model=ModelId("rfdetr", "x", size="N", arch=MEDIUM)),
        measured(model=ModelId("rfdetr", "x", arch=NANO)),  # widths unknown
        # a narrow model of the same Arch
        measured(model=ModelId("rfdetr", "x", arch=NANO), cost=Cost(3_000_000, 2e8)),
        measured(model=ModelId("rfdetr", "x", size="N", variant="nas+fine-tuning")),
        measured(source="search"),
        measured(source="engine"),
    ],
)
def test_what_does_not_match_does_not_join(stranger):
    assert measured_cells("2", [stranger]) == []


def test_embedded_records_never_reach_a_row():
    for name in TABLES:
        assert measured_cells(name, run_records()) == [], name


def test_a_part_of_coco_is_named_in_a_note():
    notes = paper_table(
        "2", [measured(data=DataId("coco-val2017", "val", num_images=500))], NOTHING
    ).notes
    assert "Left out: 1 Record of a part of COCO val2017." in notes
    assert (
        measured_cells("2", [measured(data=DataId("coco-val2017", "val", num_images=5000))]) != []
    )


def test_an_architecture_without_a_size_joins_if_its_parameters_fit():
    exported = measured(
        model=ModelId("rfdetr", "rfdetr-r384", arch=NANO), cost=Cost(26_864_000, 31.75e9)
    )
    assert texts(exported, "2", "RF-DETR N nas") == [
        {"latency_ms": "2.35", "ap": "47.9", "ap50": "67.0"}
    ]
    assert texts(exported, "2", "RF-DETR S nas") == []


def test_two_files_for_one_cell_are_two_lines():
    lines = Measured([measured(), measured(sha=OTHER_SHA, ms=3.0)]).lines(row("2", "RF-DETR N nas"))
    assert [{cell.artifact for cell in line.cells.values()} for line in lines] == [
        {SHA},
        {OTHER_SHA},
    ]
    same_numbers = Measured([measured(), measured(sha=OTHER_SHA)]).lines(row("2", "RF-DETR N nas"))
    assert (
        len(same_numbers) == 2
        and len({line.records[0].artifact.sha256 for line in same_numbers}) == 2
    )
    shown = paper_table("2", [measured(), measured(sha=OTHER_SHA, ms=3.0)], NOTHING)
    assert len(shown.rows) == len(table_rows("2")) + 1


def test_accuracy_and_latency_of_one_file_share_a_line_but_not_with_another_file():
    ap_only = measured(latency=None)
    ms_only = measured(ap=None, protocol=Protocol(buffer_ms=0.0))
    assert len(texts([ap_only, ms_only], "2", "RF-DETR N nas")) == 1
    assert (
        len(texts([ap_only, dataclasses.replace(ms_only, machine=None)], "2", "RF-DETR N nas")) == 2
    )
    assert len(texts([ap_only, measured(ap=None, sha=OTHER_SHA)], "2", "RF-DETR N nas")) == 2


def test_costs_join_by_family_size_and_task_on_any_data():
    record = counted("D-FINE", "s", 10_200_000, 25.21)
    assert (
        texts(record, "2", "D-FINE S")
        == texts(record, "4", "D-FINE S")
        == [{"params_m": "10.2", "gflops": "25.2"}]
    )
    assert (
        texts(counted("rfdetr", "nano", 33_577_000, 50.0, "segment"), "3", "RF-DETR-Seg N nas")
        != []
    )
    # mean of 100 architectures
    assert texts(counted("rfdetr", "nano", 30_467_000, 31.9), "17", "RF-DETR N nas") == []
    assert (
        texts(
            counted("rfdetr", "nano", 30_467_000, 31.9), "17", "RF-DETR N fixed architecture (coco)"
        )
        != []
    )


def test_counts_share_the_line_of_a_measurement_and_keep_their_own_record():
    engine = measured()
    count = counted("rfdetr", "nano", 30_467_000, 31.934)
    (line,) = Measured([engine, count]).lines(row("2", "RF-DETR N nas"))
    assert (line.cells["ap"].record, line.cells["params_m"].record) == (engine.id, count.id)
    shown = filled(paper_table("2", [engine, count], NOTHING))
    assert (
        engine.id in shown["record"].text
        and f"{count.id} (params_m gflops)" in shown["record"].text
    )
    assert (shown["difference_params_m"].text, shown["difference_gflops"].text) == ("=", "=")
    wrong = counted("rfdetr", "nano", 26_864_000, 31.754)
    shown = filled(paper_table("2", [wrong], NOTHING))
    assert (shown["difference_params_m"].text, shown["difference_gflops"].text) == ("-3.6", "-0.1")


def test_two_counters_are_two_lines_and_table_9_has_a_column_for_each():
    records = []
    for counter, gflops in (("FlopCounterMode", 25.5), ("calflops", 25.2), ("onnx", 24.9)):
        record = counted("dfine", "S", 10_200_000, gflops)
        records.append(
            dataclasses.replace(record, cost=Cost(10_200_000, 1e9 * gflops, counter=counter))
        )
    assert texts(records, "9", "D-FINE S") == [
        {"flopcountermode": "25.5", "calflops": "25.2", "onnx": "24.9"}
    ]
    assert [line["gflops"] for line in texts(records, "2", "D-FINE S")] == ["25.5", "25.2", "24.9"]
    # a counter without a name is in no column
    assert texts(counted("dfine", "S", 10_200_000, 25.5), "9", "D-FINE S") == []
    (line,) = Measured(records[:1]).lines(row("2", "D-FINE S"))
    shown = paper_table("2", records[:1], NOTHING)
    assert (
        any(each["state"].text == "counted by flopcountermode" for each in shown.rows)
        and len(line.records) == 1
    )


def test_table_1_joins_by_precision_and_wait():
    fp16 = measured("M")
    fp32 = measured("M", 0.548, 20.5, OTHER_SHA, "fp32")
    (line,) = Measured([fp16, fp32]).lines(row("1", "RF-DETR M"))
    assert {column: cell.artifact for column, cell in line.cells.items()} == {
        "buffered_fp16_ap": SHA,
        "buffered_fp16_latency_ms": SHA,
        "buffered_fp32_ap": OTHER_SHA,
        "buffered_fp32_latency_ms": OTHER_SHA,
    }
    for protocol in (Protocol("sustained", buffer_ms=0.0), Protocol(buffer_ms=100.0)):
        assert (
            "buffered_fp16_latency_ms"
            not in texts(measured("M", protocol=protocol), "1", "RF-DETR M")[0]
        )
    assert texts(measured("M", precision="int8"), "1", "RF-DETR M") == []


def test_the_naive_export_stands_in_its_own_column_only():
    model = ModelId("dfine", "d-fine", size="M", variant="naive FP16 export")
    naive = measured(model=model, ap=0.006)
    assert texts(naive, "1", "D-FINE M") == [{"ap_fp16_naive_export": "0.6"}]
    assert (
        texts(naive, "2", "D-FINE M") == []
        and texts(measured(model=ModelId("dfine", "d", size="M")), "1", "D-FINE M") != []
    )


def test_the_buffer_sweep_is_one_line_of_one_file():
    waits = [
        measured("M", 0.547, 4.4 + 0.1 * n, protocol=Protocol(buffer_ms=wait))
        for n, wait in enumerate((0, 200, 400, 800))
    ]
    (line,) = texts(waits, "v2_20", "RF-DETR M")
    assert line == {
        "ap": "54.7",
        **{
            f"latency_ms_buffer_{wait}": f"{4.4 + 0.1 * n:.2f}"
            for n, wait in enumerate((0, 200, 400, 800))
        },
    }
    assert len(texts([*waits, measured("M", sha=OTHER_SHA)], "v2_20", "RF-DETR M")) == 2
    assert texts(measured("M", precision="fp32"), "v2_20", "RF-DETR M") == []


def test_steps_of_table_5_share_latency_and_counts_but_not_training():
    arch = Arch(560, 14, 4, 3, 300)
    plain = measured(
        model=ModelId("rfdetr", "r", size=None, arch=arch), cost=Cost(32_175_000, 7e10)
    )
    steps = {
        label: texts(plain, "5", label)
        for label in ("+ DINOv2 Backbone step 3", "+ Weight Sharing NAS step 5")
    }
    assert [sorted(lines[0]) for lines in steps.values()] == [
        ["latency_ms"],
        ["ap", "ap50", "latency_ms"],
    ]
    third = dataclasses.replace(plain, model=dataclasses.replace(plain.model, variant="step 3"))
    assert "ap" in texts(third, "5", "+ DINOv2 Backbone step 3")[0]
    assert (
        texts(
            measured("M", model=ModelId("lwdetr", "lw", size="medium")), "5", "LW-DETR (M) M step 1"
        )[0]["ap"]
        == "47.9"
    )


def test_fine_tuning_is_a_difference_of_two_records():
    def of(variant: str, ap: float, **changes: object) -> Record:
        model = ModelId("rfdetr", "r", size="N", variant=variant)
        return measured("N", ap, sha=OTHER_SHA if variant == "nas" else SHA, model=model, **changes)

    before = of("nas", 0.480)
    after = of("nas+fine-tuning", 0.4834)
    (line,) = Measured([before, after]).lines(row("15", "RF-DETR N nas+fine-tuning"))
    assert (line.cells["ap"].text, line.cells["ap"].value) == ("+0.3", 0.34)
    assert (
        line.cells["ap"].record == f"{after.id} - {before.id}"
        and before.artifact.sha256 in line.cells["ap"].artifact
    )
    elsewhere = of("nas", 0.480, machine=dataclasses.replace(T4, gpu="Example GPU"))
    (line,) = Measured([elsewhere, after]).lines(row("15", "RF-DETR N nas+fine-tuning"))
    assert "ap" not in line.cells and "latency_ms" in line.cells


def test_table_11_is_the_gap_to_d_fine_at_similar_latency():
    def of(family: str, size: str, ap: float, ms: float) -> Record:
        sha = f"{100 * ap:.0f}" * 32
        return measured(size, ap, ms, sha, model=ModelId(family, family, size=size))

    records = [
        of("dfine", "S", 0.506, 3.5),
        of("rfdetr", "S", 0.529, 3.6),
        of("rfdetr", "L", 0.565, 6.8),
        of("dfine", "L", 0.572, 7.5),
    ]
    assert texts(records, "11", "D-FINE") == [{"s": "50.6", "l": "57.2"}]
    assert texts(records, "11", "RF-DETR (DINOv2-S)") == [{"s": "+2.3", "l": "-0.7"}]
    assert texts(records, "11", "RF-DETR (DINOv2-B)") == []


def test_latency_without_data_stands_beside_coco_rows_only():
    record = measured(ap=None, data=None, model=ModelId("dfine", "d", size="N", weights="random"))
    assert (
        texts(record, "2", "D-FINE N") == [{"latency_ms": "2.35"}]
        and texts(record, "4", "D-FINE N") == []
    )


def test_architectures_show_what_was_measured_of_them():
    exported = measured(cost=Cost(26_864_000, 31.75e9))
    assert texts(exported, "7", "RF-DETR N")[0] == {
        "params_m": "26.9",
        "gflops": "31.8",
        "latency_ms": "2.35",
        "ap": "47.9",
        "ap50": "67.0",
    }
    # the export is not the model whose parameters are printed
    assert "params_m" not in texts(exported, "2", "RF-DETR N nas")[0]


def test_every_printed_gflops_of_an_architecture_is_reproduced_by_arithmetic():
    rows = [
        each
        for name in TABLES
        for each in table_rows(name)
        if each.printed.get("gflops") and each.arch is not None
    ]
    assert len(rows) == 51
    for each in rows:
        assert f"{computed_gflops(each).value:.1f}" == each.printed["gflops"], (
            each.table,
            each.label,
        )
    assert (
        preset_name(row("3", "RF-DETR-Seg 2XL nas")) == "seg-2xlarge"
        and preset_name(row("2", "D-FINE S")) == ""
    )
    assert (
        computed_gflops(row("4", "RF-DETR N nas")) is None
        and computed_gflops(row("2", "D-FINE S")) is None
    )


def test_rows_and_slots_cover_every_number_of_the_csvs():
    for name in TABLES:
        for each in table_rows(name):
            assert {slot.column for slot in slots(name) if each.text(slot)} <= set(each.printed)
        assert len(list(cells(name))) > 0


def test_a_segmentation_record_shows_its_mask_accuracy():
    model = ModelId("rfdetr", "seg", "segment", "N")
    record = Record(
        "protocol",
        model,
        DataId("coco-val2017", "val"),
        ArtifactId(SHA, SHA, "tensorrt", "fp16", 1),
        None,
        Accuracy(0.5, artifact_sha256=SHA),
        Accuracy(0.403, artifact_sha256=SHA),
        Latency(3.4, artifact_sha256=SHA),
        Protocol(),
        T4,
    )
    assert texts(record, "3", "RF-DETR-Seg N nas") == [{"latency_ms": "3.40", "ap": "40.3"}]
