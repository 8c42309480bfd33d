"""The explorer: the page holds what the Records hold, and names what Python chooses."""

from __future__ import annotations

import json
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import Tab
from samples_explorer import (
    ARCHS,
    HOSTILE,
    LIST,
    answers,
    choose,
    data_of,
    decoded,
    measured,
    shown,
    written,
)
from samples_run import protocol_record, run_records, sha, write_run

from rfdetr_repro.paper.published import published_records
from rfdetr_repro.records.frames import flat
from rfdetr_repro.records.pareto import frontier
from rfdetr_repro.records.record import DataId, Machine, Record
from rfdetr_repro.report.blocks import Document, Explorer, Title
from rfdetr_repro.report.content import report
from rfdetr_repro.report.explorer.data import explorer_json
from rfdetr_repro.report.html import write_html
from rfdetr_repro.report.run import read_run
from rfdetr_repro.search.budget import Budget
from rfdetr_repro.search.pick import best_within, considered
from rfdetr_repro.search.pick_command import parser
from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.spec.metrics import decimals

SOURCES = Path(__file__).parents[2] / "rfdetr_repro" / "report" / "explorer"


def test_every_number_of_the_page_equals_that_of_the_record(tmp_path: Path) -> None:
    records = [*measured(), *published_records()]
    data = data_of(written(tmp_path, records))
    found = {path: decoded(data, path) for path in data["columns"]}
    for place, record in enumerate(records):
        fields = {path: value for path, value in flat(record).items() if path != "unverified"}
        held = {
            path: values[place]
            for path, values in found.items()
            if values[place] is not None and not path.startswith("shown.")
        }
        assert held == fields


def test_a_name_cannot_end_the_script_that_holds_it() -> None:
    record = replace(protocol_record(ARCHS[0]), command=HOSTILE)
    text = explorer_json([record], HOSTILE)
    assert "<" not in text and ">" not in text and text.isascii()
    assert json.loads(text)["columns"]["command"] == {"same": HOSTILE}
    assert shlex.split(json.loads(text)["run"]) == [HOSTILE]


def test_of_a_run_the_page_holds_its_records_and_published_ones_on_the_same_images(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path)
    blocks = report(read_run(folder)).blocks
    (found,) = [block for block in blocks if isinstance(block, Explorer)]
    assert list(found.records) == run_records() and found.run == str(folder)
    assert found.static is not None
    on_coco = replace(protocol_record(ARCHS[0]), data=DataId("coco-val2017", "val"))
    store = tmp_path / "other.jsonl"
    store.write_text(on_coco.to_json() + "\n")
    (found,) = [
        block for block in report(read_run(folder, store)).blocks if isinstance(block, Explorer)
    ]
    assert found.run is None  # the folder's own Records are others
    names = {record.data.name for record in found.records if record.data}
    assert names == {"coco-val2017"} and len(found.records) > 100


@pytest.mark.parametrize(
    ("mode", "quantile", "metric"),
    [
        ("buffered", "median", "ap"),
        ("sustained", "median", "ap50"),
        ("buffered", "p90", "mask_ap"),
    ],
)
def test_the_slider_names_what_pick_chooses(
    mode: str, quantile: str, metric: str, tab: Tab, page: Path
) -> None:
    records = measured()
    tab.open(page, "#explore:")
    choose(tab, x=f"{mode}.{quantile}", y=metric)
    found = set()
    for place in range(0, 1001, 125):
        choose(tab, slider=place)
        ms = float(tab.run("document.querySelector('[data-part=budget]').value"))
        budget = Budget(ms, quantile, mode, metric)
        (first, *_) = answers(tab)
        try:
            chosen = best_within(considered(records, budget), budget).record
        except StatedFailure as failure:
            assert not first["fits"] and not first["command"]
            assert re.search(r"nearest is (\S+)", str(failure))[1] in first["words"]  # type: ignore[index]
            continue
        assert (first["id"], first["fits"]) == (chosen.id, True)
        words = shlex.split(first["command"])
        assert words[:2] == ["rfdetr-repro", "pick"]
        read = parser().parse_args([".", *words[3:]])  # the folder itself is elsewhere
        assert words[2] == "runs/mine" and read.budget_ms == ms
        assert (read.mode, read.quantile or "median", read.metric) == (mode, quantile, metric)
        found.add(chosen.id)
    assert len(found) >= 3 and not tab.faults


def test_a_typed_budget_is_the_budget_to_the_last_digit(tab: Tab, page: Path) -> None:
    """A ceiling that equals a latency admits the file; the next smaller number does not."""
    records = measured()
    budget = Budget(1000.0)
    best = best_within(considered(records, budget), budget)
    tab.open(page, "#explore:x=buffered.median")
    choose(tab, budget=best.latency.median_ms)
    assert answers(tab)[0]["id"] == best.record.id
    choose(tab, budget=best.latency.median_ms - 1e-9)
    below = answers(tab)
    assert below[0]["id"] != best.record.id
    for wrong in ("", "0", "-3", "1e6", "1e999"):  # pick refuses them too
        choose(tab, budget=wrong)
        assert answers(tab) == below


def test_of_equals_the_faster_then_the_first(tab: Tab, tmp_path: Path) -> None:
    first, second, third = map(protocol_record, ARCHS[:3])
    assert first.latency and first.accuracy
    times = (5.0, 4.0, 4.0)
    records = [
        replace(
            record,
            accuracy=replace(record.accuracy, ap=0.25),
            latency=replace(record.latency, median_ms=ms, ci_low_ms=None, ci_high_ms=None),
        )
        for record, ms in zip((first, second, third), times, strict=True)
    ]
    budget = Budget(6.0)
    tab.open(written(tmp_path, records), "#explore:budget=6")
    chosen = best_within(considered(records, budget), budget).record
    assert answers(tab)[0]["id"] == chosen.id == records[1].id


def test_machines_and_data_sets_have_answers_of_their_own(tab: Tab, tmp_path: Path) -> None:
    other = Machine("Other CPU", 4, 8.0, "Linux")
    records = [protocol_record(arch) for arch in ARCHS[:6]]
    records += [replace(protocol_record(arch), machine=other) for arch in ARCHS[:9]]
    tab.open(written(tmp_path, records), "#explore:budget=50")
    found = answers(tab)
    assert len(found) == 2 and not any(one["command"] for one in found)  # pick refuses both
    assert "9 comparable" in found[0]["words"] and "6 comparable" in found[1]["words"]
    choose(tab, machine="Other CPU")
    assert len(answers(tab)) == 1 and tab.run(f"{LIST}.length") == 9


def test_a_front_of_throughput_may_join_batches(tab: Tab, tmp_path: Path) -> None:
    records = []
    for number, arch in enumerate(ARCHS[:12]):
        record = protocol_record(arch, mode="sustained")
        protocol = replace(record.protocol, batch=1 if number % 2 else 8)
        latency = replace(record.latency, images_per_s=100.0 + 7 * (number * 5 % 12))
        records.append(replace(record, protocol=protocol, latency=latency))
    tab.open(written(tmp_path, records), "#explore:x=throughput&front=1")
    assert sorted(shown(tab)) == sorted(one.id for one in frontier(records, "throughput"))
    assert not any("pick" in one["command"] for one in answers(tab) if "batch 8" in one["words"])


def test_a_page_opens_with_what_it_is_about(tab: Tab, tmp_path: Path) -> None:
    records = [*measured(), *published_records()]
    for first, words in ((False, "embedded val"), (True, "coco-val2017 val")):
        explorer = Explorer(records, published_first=first)
        page = write_html(Document("t", "f", [Title("t"), explorer]), tmp_path / "page.html")
        tab.open(page, "#explore:")
        assert tab.run("document.querySelector('[data-state=data]').value") == words
        assert words in answers(tab)[0]["words"]


def test_data_sets_of_one_name_are_not_compared(tab: Tab, tmp_path: Path) -> None:
    def renewed(record: Record) -> Record:
        return replace(record, data=DataId("embedded", "val", "f" * 64, 300))

    records = [protocol_record(arch) for arch in ARCHS[:8]]
    records += [renewed(protocol_record(arch)) for arch in ARCHS[4:8]]
    tab.open(written(tmp_path, records), "#explore:budget=50")
    found = answers(tab)
    assert len(found) == 2 and not any(one["command"] for one in found)


def test_fronts_are_those_of_python_within_one_checkpoint_and_machine(
    tab: Tab, tmp_path: Path
) -> None:
    def other(record: Record) -> Record:
        return replace(record, model=replace(record.model, checkpoint_sha256=sha("other")))

    records = [protocol_record(arch) for arch in ARCHS]
    groups = [records[:40], [other(record) for record in records[30:]]]
    tab.open(written(tmp_path, [*groups[0], *groups[1]]), "#explore:front=1")
    expected = [record.id for group in groups for record in frontier(group)]
    assert sorted(shown(tab)) == sorted(expected)
    assert len(expected) > len(frontier(records))  # one pooled front would have been shorter


def test_filters_leave_what_they_say(tab: Tab, page: Path) -> None:
    records = measured()
    tab.open(page, "#explore:x=buffered.median&data=embedded+test")
    wanted = [
        record
        for record in records
        if record.data and record.data.split == "test" and record.protocol
        if record.protocol.mode == "buffered"
    ]
    assert sorted(shown(tab)) == sorted(record.id for record in wanted)
    choose(tab, search=ARCHS[0].key)
    assert shown(tab) == [one.id for one in wanted if one.model.arch == ARCHS[0]]
    tab.open(page, "#explore:x=sustained.median&origins=modelled")
    assert len(shown(tab)) == len([one for one in records if one.source == "search"])


def test_the_list_sorts_numbers_as_numbers_and_absent_ones_last(tab: Tab, page: Path) -> None:
    records = {record.id: record for record in measured()}
    tab.open(page, "#explore:")
    heads = "document.querySelectorAll('[data-part=list] th button')"
    for column in ("x", "params"):
        head = f"document.querySelector('[data-part=list] th[data-key={column}] button')"
        for direction in ("descending", "ascending"):
            tab.run(f"{head}.click()")
            assert tab.run(f"{head}.parentElement.getAttribute('aria-sort')") == direction
            tab.run("document.querySelector('[data-step=\"-1\"]').click()")
            ordered = [records[one] for one in shown(tab)]
            values = [value_of(record, column) for record in ordered]
            present = [value for value in values if value is not None]
            assert present == sorted(present, reverse=direction == "descending")
            assert values[: len(present)] == present
    assert tab.run(f"{heads}.length") >= 6


def value_of(record: Record, column: str) -> float | None:
    if column == "params":
        return record.cost.params if record.cost else None
    return record.latency.median_ms if record.latency else None


def computed(tab: Tab, expression: str) -> Any:
    source = (SOURCES / "data.js").read_text()
    return tab.run(f"(() => {{ {source}\nreturn {expression}; }})()")


def test_numbers_are_rounded_as_in_python(tab: Tab) -> None:
    source = random.Random(1)
    values = [0.0, 0.05, 0.15, 0.25, 1.005, 47.25, 2.675, 99.95, 99.94999, 1e-9, 123456.5]
    values += [round(source.uniform(0, 100), source.randint(1, 6)) for _ in range(500)]
    tab.open(SOURCES / "explorer.html")
    for digits in (0, 1, 2):
        wanted = [decimals(value, digits) for value in values]
        assert computed(tab, f"{values}.map((value) => decimals(value, {digits}))") == wanted


@pytest.mark.parametrize("seed", range(5))
def test_a_front_is_that_of_python(seed: int, tab: Tab) -> None:
    """With many ties: coordinates from few numbers."""
    source = random.Random(seed)
    records = []
    for number in range(60):
        record = protocol_record(ARCHS[number % len(ARCHS)])
        latency = replace(
            record.latency, median_ms=float(source.randint(1, 12)), ci_low_ms=None, ci_high_ms=None
        )
        accuracy = replace(record.accuracy, ap=source.randint(0, 12) / 16)
        records.append(replace(record, latency=latency, accuracy=accuracy, seed=number))
    points = [
        {"record": place, "x": one.as_latency().ms, "y": one.as_accuracy().ap}
        for place, one in enumerate(records)
    ]
    tab.open(SOURCES / "explorer.html")
    found = computed(tab, f"paretoFront({json.dumps(points)}, {{}}).map((one) => one.record)")
    assert [records[place].seed for place in found] == [one.seed for one in frontier(records)]
