"""Frontier: hand-made cases, brute force on random ones, and what must never share a front."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from samples_run import protocol_record, run_records, search_record

from rfdetr_repro.paper.published import published_records
from rfdetr_repro.records.pareto import (
    METRICS,
    confirmed_points,
    frontier,
    frontiers,
    measured_front,
)
from rfdetr_repro.records.record import Accuracy, ArtifactId, Cost, DataId, Latency, ModelId, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.campaign import frontier_tables


def point(ms: float | None, ap: float | None, name: str = "x", **changes: object) -> Record:
    parts: dict = {
        "data": DataId("embedded", "val"),
        "accuracy": None if ap is None else Accuracy(ap),
        "latency": None if ms is None else Latency(ms, "modelled"),
        "cost": Cost(params=round(1000 * (ms or 1))),
    }
    return Record("search", ModelId("rfdetr", name), **{**parts, **changes})


def shape(records: list[Record]) -> list[tuple[float, float]]:
    return [(record.latency.median_ms, record.accuracy.ap) for record in records]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(1, 0.1)], [(1, 0.1)]),
        ([(1, 0.1), (2, 0.2)], [(1, 0.1), (2, 0.2)]),
        ([(2, 0.2), (1, 0.1)], [(1, 0.1), (2, 0.2)]),
        ([(1, 0.2), (2, 0.1)], [(1, 0.2)]),
        ([(1, 0.1), (1, 0.2)], [(1, 0.2)]),
        ([(1, 0.1), (2, 0.1)], [(1, 0.1)]),
        ([(3, 0.3), (1, 0.1), (2, 0.05), (3, 0.2), (4, 0.3)], [(1, 0.1), (3, 0.3)]),
    ],
)
def test_hand_made_fronts(points, expected):
    assert shape(frontier([point(*values) for values in points])) == expected


def test_of_equal_points_the_first_stays():
    front = frontier([point(1, 0.1, "first"), point(1, 0.1, "second")])
    assert [record.model.name for record in front] == ["first"]


def test_against_brute_force():
    rng = random.Random(0)
    for _ in range(200):
        grid = rng.choice([3, 10, 1000])  # a coarse grid makes ties
        points = [
            (rng.randint(1, grid), rng.randint(0, grid) / grid) for _ in range(rng.randint(0, 25))
        ]
        expected = {
            (x, y)
            for x, y in points
            if not any((a <= x and b >= y) and (a < x or b > y) for a, b in points)
        }
        assert shape(frontier([point(*values) for values in points])) == sorted(expected)


def test_the_direction_belongs_to_the_metric():
    records = [point(1, 0.3), point(2, 0.1)]
    assert shape(frontier(records, x="params")) == [(1, 0.3)]
    assert METRICS["latency"].lower_is_better and not METRICS["ap"].lower_is_better
    with pytest.raises(InputError, match="unknown metric"):
        frontier(records, y="accuracy")


def test_records_without_the_metric_are_left_out():
    assert frontier([point(1, None), point(None, 0.3)]) == []
    assert shape(frontier([point(1, None), point(None, 0.3), point(5, 0.1)])) == [(5, 0.1)]


@pytest.mark.parametrize(
    "other",
    [
        point(2, 0.2, latency=Latency(2.0)),
        point(
            2,
            0.2,
            artifact=ArtifactId("a", "a", "onnxruntime-cpu", "fp32", 1),
            latency=Latency(2.0),
        ),
        point(2, 0.2, data=DataId("embedded", "test")),
        point(2, 0.2, data=DataId("coco-val2017", "val")),
        protocol_record(Arch(128, 16, 1, 2, 25)),
    ],
)
def test_a_front_never_mixes_backends_or_images(other):
    records = [point(1, 0.1), other]
    with pytest.raises(InputError, match="cannot mix"):
        frontier(records)
    assert [len(front) for front in frontiers(records).values()] == [1, 1]


def test_buffered_and_sustained_latency_are_not_one_front():
    arch = Arch(128, 16, 1, 2, 25)
    assert len(frontiers([protocol_record(arch), protocol_record(arch, mode="sustained")])) == 2


def test_published_rows_front_by_backend():
    fronts = frontiers(published_records("2"))
    assert {key[0] for key in fronts} == {"published tensorrt-fp16", "published pytorch"}
    names = [
        (record.model.name, record.model.size)
        for record in fronts["published tensorrt-fp16", "coco-val2017 val"]
    ]
    assert names == [
        ("LW-DETR", "T"),
        ("RF-DETR", "N"),
        ("RF-DETR", "S"),
        ("RF-DETR", "M"),
        ("D-FINE", "M"),
        ("RF-DETR", "2XL"),
    ]


def test_confirmed_points_join_the_records_of_one_file():
    records = run_records()
    points = confirmed_points(records)
    assert (
        len(points)
        == len(frontier([record for record in records if record.source == "search"]))
        > 3
    )
    for item in points:
        assert item.val.accuracy.ap > item.test.accuracy.ap
        assert item.buffered is item.val and item.sustained.protocol.mode == "sustained"
        assert {part.artifact.sha256 for part in (item.val, item.test, item.sustained)} == {
            item.sha256
        }
    assert [item.val.latency.median_ms for item in points] == sorted(
        item.val.latency.median_ms for item in points
    )


def test_confirmed_points_take_what_is_there():
    arch = Arch(128, 16, 1, 2, 25)
    (only,) = confirmed_points([search_record(arch), protocol_record(arch, "test")])
    assert (
        only.val is None
        and only.sustained is None
        and only.buffered is only.test
        and only.any is only.test
    )
    assert confirmed_points([search_record(arch)]) == []


def test_a_cuda_graph_is_another_point_and_another_front() -> None:
    plain = protocol_record(Arch(128, 16, 1, 2, 25), "val")
    graph = replace(
        plain,
        latency=replace(plain.latency, cuda_graph=True, median_ms=plain.latency.median_ms / 2),
    )
    assert [point.val for point in confirmed_points([plain, graph])] == [graph, plain]
    assert len(frontiers([plain, graph])) == 2


def test_precisions_and_numbers_of_threads_of_one_file_are_points_of_their_own() -> None:
    """PyTorch computes one file in several precisions, and ``bench --threads 1,2`` times one file
    with several numbers of threads: the last Record must not take the place of the others.
    """
    one = protocol_record(Arch(128, 16, 1, 2, 25), "val")
    half = replace(one, artifact=replace(one.artifact, precision="bf16"))
    two = replace(one, protocol=replace(one.protocol, threads=one.protocol.threads + 1))
    assert len(confirmed_points([one, half, two])) == 3
    titles = [table.title for table in frontier_tables([one, half, two])]
    assert len(titles) == 3 and len(set(titles)) == 3
    gpu = replace(one, machine=replace(one.machine, gpu="a GPU"))
    other = replace(gpu, protocol=replace(gpu.protocol, threads=one.protocol.threads + 1))
    assert len(confirmed_points([gpu, other])) == 1, "a GPU's latency hardly depends on them"


def test_records_of_unusual_protocols_are_no_confirmed_points() -> None:
    usual = protocol_record(Arch(128, 16, 1, 2, 25), "val")
    others = [Protocol("paced", fps=30.0), Protocol(flush_l2=True), Protocol(spin_ms=10.0)]
    slow = [
        replace(usual, protocol=other, latency=replace(usual.latency, median_ms=99.0))
        for other in others
    ]
    (point,) = confirmed_points([usual, *slow])
    assert point.val == usual


def test_a_file_that_was_timed_in_one_mode_only_keeps_its_accuracy() -> None:
    arch = Arch(128, 16, 1, 2, 25)
    on_val = protocol_record(arch, mode="sustained")
    on_test = protocol_record(arch, "test", mode="sustained")
    (point,) = confirmed_points([on_val, on_test])
    assert (
        point.on("val") == on_val
        and point.on("test") == on_test
        and point.sustained == on_val
        and point.buffered is None
    )
    (table,) = frontier_tables([on_val, on_test])
    (row,) = table.rows
    assert row["val_ap"].value == pytest.approx(100 * on_val.accuracy.ap, abs=1e-3)
    assert row["test_ap"].value == pytest.approx(100 * on_test.accuracy.ap, abs=1e-3)
    assert row["front"].text == "yes" and "by sustained measurement" in " ".join(table.notes)
    (alone,) = confirmed_points([on_test])
    assert alone.on("val") is None and alone.on("test") == on_test and alone.any == on_test
    assert measured_front([alone]) == set()


def test_two_searches_are_two_tables() -> None:
    """Their supernets differ: one's frontier says nothing of the other's, confirmed or modelled."""
    archs = [Arch(128, 16, 1, 2, queries) for queries in (10, 25)]
    for make in (search_record, protocol_record):
        own = [make(arch) for arch in archs]
        others = [replace(one, model=replace(one.model, checkpoint_sha256="e" * 64)) for one in own]
        if make is protocol_record:  # other weights are another file
            sha = "d" * 64
            others = [
                replace(
                    one,
                    artifact=replace(one.artifact, sha256=sha[:-1] + str(number)),
                    accuracy=replace(one.accuracy, artifact_sha256=sha[:-1] + str(number)),
                    mask_accuracy=None,
                    latency=replace(one.latency, artifact_sha256=sha[:-1] + str(number)),
                )
                for number, one in enumerate(others)
            ]
        tables = frontier_tables([*own, *others])
        assert len(tables) == 2 and {"checkpoint" in table.title for table in tables} == {True}
        assert [len(table.rows) for table in tables] == [
            len(table.rows) for table in frontier_tables(own)
        ] * 2
        assert "checkpoint" not in frontier_tables(own)[0].title


def test_other_peoples_models_stand_beside_those_of_one_search() -> None:
    own = protocol_record(Arch(128, 16, 1, 2, 25))
    foreign = protocol_record(Arch(128, 16, 1, 2, 10))
    foreign = replace(foreign, model=ModelId("yolov8", "YOLOv8 n"))
    (table,) = frontier_tables([own, foreign])
    assert len(table.rows) == 2


def test_waits_are_told_apart() -> None:
    record = protocol_record(Arch(128, 16, 1, 2, 25))
    short = replace(record, protocol=Protocol(buffer_ms=50.0))
    assert len(frontiers([record, short])) == 2


def of_another_supernet(record: Record, number: int) -> Record:
    """The same architecture with the weights of another supernet: another file."""
    sha = "d" * 63 + str(number)
    parts = {
        name: replace(getattr(record, name), artifact_sha256=sha)
        for name in ("accuracy", "mask_accuracy", "latency")
        if getattr(record, name) is not None
    }
    return replace(
        record,
        model=replace(record.model, checkpoint_sha256="e" * 64),
        artifact=replace(record.artifact, sha256=sha),
        **parts,
    )


def fronts(records: list[Record]) -> list[tuple[str, str, str]]:
    """(title, section, architecture) of every row on a front."""
    return [
        (table.title, section, row["arch"].text)
        for table in frontier_tables(records)
        for row, section in zip(table.rows, table.sections, strict=True)
        if row["front"].text == "yes"
    ]


def test_no_front_holds_two_checkpoints() -> None:
    """The better supernet does not push the other's models off their front."""
    archs = [Arch(128, 16, 1, 2, queries) for queries in (10, 25)]
    own = [protocol_record(arch) for arch in archs]
    better = [of_another_supernet(record, number) for number, record in enumerate(own)]
    better = [
        replace(one, latency=replace(one.latency, median_ms=one.latency.median_ms / 2))
        for one in better
    ]
    alone = {(arch, "") for _, _, arch in fronts(own)}
    found = fronts([*own, *better])
    titles = {title for title, _, _ in found}
    assert len(titles) == 2 and all("checkpoint" in title for title in titles)
    for title in titles:
        assert {(arch, "") for other, _, arch in found if other == title} == alone


def test_a_supernet_that_is_not_known_stands_alone() -> None:
    known = protocol_record(Arch(128, 16, 1, 2, 25))
    unknown = of_another_supernet(protocol_record(Arch(128, 16, 1, 2, 10)), 1)
    unknown = replace(unknown, model=replace(unknown.model, checkpoint_sha256=None))
    assert len(frontier_tables([known, unknown])) == 2


def test_other_peoples_models_have_a_front_of_their_own() -> None:
    """A faster and better detector takes nothing off the supernet's front; both have a heading."""
    own = protocol_record(Arch(128, 16, 1, 2, 25))
    foreign = of_another_supernet(protocol_record(Arch(128, 16, 1, 2, 10)), 2)
    foreign = replace(
        foreign,
        model=ModelId("yolov8", "YOLOv8 n"),
        accuracy=replace(foreign.accuracy, ap=0.99),
        latency=replace(foreign.latency, median_ms=0.1, ci_low_ms=None, ci_high_ms=None),
    )
    found = fronts([own, foreign])
    assert {arch for _, _, arch in found} == {own.model.arch.key, "YOLOv8 n"}
    sections = {section for _, section, _ in found}
    assert sections == {f"of the supernet {own.model.checkpoint_sha256[:8]}", "other models"}


def test_two_data_sets_of_one_name_are_two_tables() -> None:
    one = protocol_record(Arch(128, 16, 1, 2, 25))
    two = protocol_record(Arch(128, 16, 1, 2, 10))
    two = replace(two, data=replace(two.data, sha256="c" * 64))
    tables = frontier_tables([one, two])
    assert len(tables) == 2 and all("annotations" in table.title for table in tables)
    assert len(frontiers([one, two])) == 2
    with pytest.raises(InputError, match="one front cannot mix"):
        frontier([one, two])
    # the same file on both
    again = replace(one, data=two.data)
    assert len(confirmed_points([one, again])) == 2


def test_devices_and_backends_are_told_apart() -> None:
    one = protocol_record(Arch(128, 16, 1, 2, 25))
    elsewhere = replace(one, machine=replace(one.machine, cpu="another processor"))
    other = replace(one, artifact=replace(one.artifact, runtime="openvino"))
    assert len(frontier_tables([one, elsewhere, other])) == 3
