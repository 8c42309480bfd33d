"""Published numbers: complete, in the right units, from the right version, and equal to our presets
where both speak.
"""

from __future__ import annotations

import csv

import pytest

from rfdetr_repro.paper.published import (
    CSV_FOLDER,
    TABLES,
    join_key,
    published_records,
    published_table,
)
from rfdetr_repro.records.record import DataId, ModelId, Record
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PAPER_SPACE, PRESETS

SIZES = {"N": "nano", "S": "small", "M": "medium", "L": "large", "XL": "xlarge", "2XL": "2xlarge"}


def one(table: str, name: str, size: str | None, variant: str | None = None) -> Record:
    (record,) = [
        record
        for record in published_records(table)
        if (record.model.name, record.model.size) == (name, size)
        and variant in (None, record.model.variant)
    ]
    return record


def test_table_2_by_hand():
    assert len(published_records(2)) == 18
    nano = one("2", "RF-DETR", "N")
    assert nano.source == "paper:table2:row9" and nano.model.weights == "published"
    assert (nano.accuracy.ap, nano.accuracy.ap50, nano.accuracy.ap_l) == (0.48, 0.67, 0.7)
    assert (nano.latency.median_ms, nano.latency.method, nano.cost.params, nano.cost.flops) == (
        2.3,
        "published",
        30_500_000,
        31.9e9,
    )
    assert nano.published.table == "2" and "Table 2" in nano.published.citation
    grounding = one("2", "GroundingDINO", "T")
    assert (
        grounding.accuracy.ap == 0.582
        and grounding.accuracy.ap50 is None
        and grounding.published.latency_backend == "pytorch"
    )


def test_segmentation_rows_hold_mask_ap():
    record = one("3", "RF-DETR-Seg", "2XL")
    assert record.accuracy is None and record.mask_accuracy.ap == 0.499
    assert record.model.task == "segment" and record.model.family == "rfdetr"


def test_a_changed_row_is_the_camera_ready_one():
    def nano(version: str) -> list[float]:
        rows = [
            record
            for record in published_records("17", version)
            if record.model.size == "N" and record.model.variant == "nas"
        ]
        return [record.accuracy.ap for record in rows]

    assert (nano("v2"), nano("v1"), nano("all")) == ([0.578], [0.576], [0.576, 0.578])
    assert len(published_records("17")) == 18 and len(published_records("17", "all")) == 28
    with pytest.raises(InputError, match="unknown version"):
        published_records("17", "v3")


def test_rows_with_several_measurements_give_one_record_each():
    first = {
        record.model.variant: record
        for record in published_records("1")
        if record.model.name == "D-FINE"
    }
    assert list(first) == ["author-reported", "buffered FP32", "buffered FP16", "naive FP16 export"]
    assert (
        first["naive FP16 export"].accuracy.ap == 0.005
        and first["naive FP16 export"].latency is None
    )
    buffers = [
        record.latency.median_ms
        for record in published_records("v2_20")
        if record.model.name == "RF-DETR"
    ]
    assert buffers == [4.7, 4.4, 4.4, 4.4]


def test_differences_are_quoted_not_turned_into_accuracies():
    delta = one("15", "RF-DETR", "N", "nas+fine-tuning")
    assert delta.accuracy is None and "ap +0.4" in delta.published.note
    assert one("16", "RF-DETR-Seg", "S", "nas+fine-tuning").mask_accuracy is None
    gaps = [record for record in published_records("11") if record.accuracy is None]
    assert len(gaps) == 2 and "XL -1.1" in gaps[0].published.note


def test_every_row_of_every_record_table_is_there_once():
    records = published_records(version="all")
    assert len({record.id for record in records}) == len(records) > 200
    for name, info in TABLES.items():
        shown = published_table(name, "all")
        rows = {record.published.row for record in records if record.published.table == name}
        assert rows == (set(shown.row_numbers) if info.records else set()), name
    assert all(Record.from_json(record.to_json()) == record for record in records)


@pytest.mark.parametrize(("table", "prefix"), [("7", ""), ("8", "seg-")])
def test_presets_agree_with_the_paper(table, prefix):
    archs = {record.model.size: record.model.arch for record in published_records(table)}
    assert {size: archs[size] for size in SIZES} == {
        size: PRESETS[prefix + name].arch for size, name in SIZES.items()
    }


def test_the_search_space_agrees_with_the_paper():
    rows = {row["knob"]: row for row in published_table("nas_search_space").rows}
    assert int(rows["total_configurations"]["search_values"]) == PAPER_SPACE.grid_points()
    assert (
        tuple(map(int, rows["image_resolution"]["search_values"].split()))
        == PAPER_SPACE.resolutions
    )
    assert tuple(map(int, rows["patch_size"]["training_values"].split())) == PAPER_SPACE.patches


def test_plain_tables_keep_their_text_and_sources():
    flops = published_table(9)
    assert flops.columns[:5] == ("model", "size", "reported", "calflops", "flopcountermode")
    assert len(flops.rows) == len(flops.sources) == 3 and all(
        "arXiv 2511.09554" in source for source in flops.sources
    )
    assert published_table("hyperparameters").rows[0]["rf_detr"] == "1e-4"


@pytest.mark.parametrize("call", [published_table, published_records])
@pytest.mark.parametrize("name", ["18", "../secrets", "", "table02"])
def test_an_unknown_table_lists_what_there_is(call, name):
    with pytest.raises(InputError, match="choose one of"):
        call(name)


def test_every_csv_row_names_its_source():
    for path in CSV_FOLDER.glob("*.csv"):
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert rows, path.name
        assert all(row["source"] and None not in row for row in rows), path.name


def test_measured_and_published_spellings_join():
    coco = DataId("coco-val2017", "val")
    pairs = [
        (ModelId("rfdetr", "ours", size="nano"), one("2", "RF-DETR", "N")),
        (ModelId("YOLOv11", "yolo", size="m"), one("2", "YOLOv11", "M")),
        (ModelId("yolo11", "yolo", size="x"), one("12", "YOLOv11", "XL")),
        (ModelId("lw-detr", "lw", size="tiny"), one("2", "LW-DETR", "T")),
        (ModelId("dfine", "dfine", size="s"), one("2", "D-FINE", "S")),
        (ModelId("rfdetr", "seg", "segment", size="2xlarge"), one("3", "RF-DETR-Seg", "2XL")),
    ]
    for model, published in pairs:
        assert join_key(Record("protocol-like", model, coco)) == join_key(published)
    assert join_key(
        Record("x", ModelId("rfdetr", "o", size="N"), DataId("embedded", "val"))
    ) != join_key(one("2", "RF-DETR", "N"))
    assert join_key(one("4", "LW-DETR", "N"))[:3] == join_key(one("2", "LW-DETR", "T"))[:3]
