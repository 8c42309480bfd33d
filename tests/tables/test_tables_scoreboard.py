"""The scoreboard: every printed number is counted once, and its state is what the Records and the
machine say.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections import Counter

import pytest
from samples_records import EVERYTHING, NOTHING, OTHER_SHA, T4, counted, measured

from rfdetr_repro.paper.published import CSV_FOLDER, TABLES
from rfdetr_repro.records.record import ArtifactId, DataId, Latency, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables import command as tables
from rfdetr_repro.tables.format import FORMATS, render
from rfdetr_repro.tables.join import Line
from rfdetr_repro.tables.scoreboard import (
    BOTH,
    DATA,
    DIFFERENT,
    LETTERS,
    NEEDS_GPU,
    NOT_RUN,
    PACKAGE,
    PUBLISHED_ONLY,
    REPRODUCED,
    STATES,
    WEIGHTS,
    CellState,
    cell_states,
    scoreboard,
)

LABELS = {
    "version",
    "note",
    "source",
    "section",
    "model",
    "variant",
    "size",
    "latency_backend",
    "ap_kind",
    "backbone",
    "ap_precision",
    "step",
    "relationship",
    "method",
    "kind",
    "rfdetr_config_check",
    "derived_spatial_locations_per_side",
    "derived_grid_resolution",
}


def numbers_in(name: str) -> int:
    """Numbers of the camera-ready in a table's CSV, counted without the package."""
    stem = f"table{int(name):02d}" if name.isdigit() else name.replace("_", "_table")
    with open(CSV_FOLDER / f"{stem}.csv", encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["version"] != "v1"]
    return sum(
        bool(re.fullmatch(r"[+-]?[\d.]+", row[key])) for row in rows for key in row.keys() - LABELS
    )


def states_of(
    records: list[Record], table: str, label: str, here=EVERYTHING
) -> dict[str, CellState]:
    found = {
        each.slot.column: each
        for each in cell_states([table], records, here)
        if each.row.label == label
    }
    assert found
    return found


def test_every_number_of_the_csvs_is_one_cell():
    counted_cells = {name: len(cell_states([name], [], NOTHING)) for name in TABLES}
    assert counted_cells == {name: numbers_in(name) for name in TABLES}
    assert sum(counted_cells.values()) == 1523


@pytest.mark.parametrize(
    "here", [NOTHING, EVERYTHING, dataclasses.replace(NOTHING, packages=frozenset())]
)
@pytest.mark.parametrize(
    "records", [[], [measured(), counted("rfdetr", "nano", 30_467_000, 31.934)]]
)
def test_the_columns_add_up(here, records):
    summary = scoreboard(list(TABLES), records, here)[0]
    total = summary.rows[-1]
    assert total["title"].text == "total" and total["cells"].value == 1523
    for row in summary.rows:
        assert sum(row[state].value for state in STATES) == row["cells"].value
    for key in ("cells", *STATES, "elsewhere", "computed"):
        assert sum(row[key].value for row in summary.rows[:-1]) == total[key].value
    # Tables 2 and 17 print nano's GFLOPs once, 15 twice
    assert total["computed"].value == (51 if not records else 51 - 4)


def test_a_latency_counts_only_if_measured_as_printed():
    def state(**changes: object) -> CellState:
        return states_of([measured(**changes)], "2", "RF-DETR N nas")["latency_ms"]

    assert state().state == REPRODUCED and state().measured.record == measured().id
    assert state(ms=2.44).state == REPRODUCED and state(ms=2.46).state == DIFFERENT
    others = [
        {"machine": dataclasses.replace(T4, gpu="NVIDIA T400")},
        {"machine": dataclasses.replace(T4, gpu=None)},
        {"protocol": Protocol("sustained", buffer_ms=0.0)},
        {"protocol": Protocol(buffer_ms=0.0)},
        {"protocol": Protocol(flush_l2=True)},
        {"protocol": Protocol(spin_ms=20.0)},
        {"latency": Latency(2.3456, cuda_graph=False, artifact_sha256="5e" * 32)},
        {"latency": Latency(2.3456, artifact_sha256="5e" * 32)},  # not known whether with a graph
        {"precision": "fp32"},
        {"artifact": ArtifactId("5e" * 32, "5e" * 32, "onnxruntime-cpu", "fp16", 1)},
    ]
    for changes in others:
        assert state(**changes).state == NOT_RUN and state(**changes).elsewhere, changes
    assert state(machine=dataclasses.replace(T4, gpu="NVIDIA T4")).state == REPRODUCED


def test_accuracy_tolerance_and_disagreeing_files():
    def state(*aps: float) -> str:
        records = [
            measured(ap=ap, sha=sha) for ap, sha in zip(aps, ("5e" * 32, OTHER_SHA), strict=False)
        ]
        return states_of(records, "2", "RF-DETR N nas")["ap"].state

    assert [state(ap) for ap in (0.480, 0.4824, 0.4776, 0.4826, 0.4774)] == [REPRODUCED] * 3 + [
        DIFFERENT
    ] * 2
    assert state(0.48, 0.47) == DIFFERENT  # one of two files does not reproduce it


def test_counts_have_to_agree_to_the_printed_digit():
    def state(params: int, gflops: float) -> tuple[str, str]:
        found = states_of([counted("rfdetr", "nano", params, gflops)], "2", "RF-DETR N nas")
        return found["params_m"].state, found["gflops"].state

    assert state(30_467_000, 31.934) == (REPRODUCED, REPRODUCED)
    assert state(30_449_000, 31.951) == (DIFFERENT, DIFFERENT)
    both = [
        counted("rfdetr", "nano", 30_467_000, 31.934),
        counted("rfdetr", "nano", 30_467_000, 31.7),
    ]
    # counters differ; one agrees
    assert states_of(both, "2", "RF-DETR N nas")["gflops"].state == REPRODUCED
    whole = states_of([counted("rtdetr", "R50", 42_400_000, 136.4)], "12", "RT-DETR R50")
    # printed without decimals
    assert whole["params_m"].state == whole["gflops"].state == REPRODUCED


def test_what_is_missing_decides_the_state():
    def states(**changes: object) -> dict[str, str]:
        here = dataclasses.replace(EVERYTHING, **changes)
        return {column: each.state for column, each in states_of([], "2", "D-FINE S", here).items()}

    coco = frozenset({"coco-val2017"})
    assert set(states().values()) == {NOT_RUN}
    assert (states(weights=False)["ap"], states(data=frozenset())["ap"]) == (WEIGHTS, DATA)
    nothing = states(weights=False, data=frozenset(), gpu_name="NVIDIA H100")
    assert (nothing["ap"], nothing["latency_ms"], nothing["gflops"]) == (BOTH, NEEDS_GPU, NOT_RUN)
    assert states(packages=frozenset(), data=coco)["gflops"] == PACKAGE
    assert {each.state for each in states_of([], "3", "MaskDINO R50").values()} == {PUBLISHED_ONLY}
    assert states_of([], "1", "YOLOv8 M")["reported_ap"].state == PUBLISHED_ONLY
    assert {each.state for each in states_of([], "7", "RF-DETR N", NOTHING).values()} == {BOTH}


def test_differences_and_the_buffer_sweep_are_judged():
    def tuned(ap: float) -> list[Record]:
        pair = [
            measured("N", 0.48, model=dataclasses.replace(measured().model, variant="nas")),
            measured("N", ap, sha=OTHER_SHA),
        ]
        pair[1] = dataclasses.replace(
            pair[1], model=dataclasses.replace(pair[1].model, variant="nas+fine-tuning")
        )
        return pair

    label = "RF-DETR N nas+fine-tuning"
    assert states_of(tuned(0.4825), "15", label)["ap"].state == REPRODUCED  # printed +0.4
    assert states_of(tuned(0.48), "15", label)["ap"].state == DIFFERENT
    waits = [
        measured("M", 0.547, ms, protocol=Protocol(buffer_ms=wait))
        for ms, wait in ((4.7, 0.0), (4.9, 400.0))
    ]
    found = states_of(waits, "v2_20", "RF-DETR M")
    assert [found[f"latency_ms_buffer_{wait}"].state for wait in (0, 200, 400)] == [
        REPRODUCED,
        NOT_RUN,
        DIFFERENT,
    ]


def test_every_open_cell_names_its_command_or_its_reason():
    *_, cells = scoreboard(list(TABLES), [], NOTHING)
    assert len(cells.rows) == 1523
    for row in cells.rows:
        command = row["command"].text
        only = row["state"].text == PUBLISHED_ONLY
        # that a command can run is checked in test_tables_commands.py
        assert bool(command) != only, row
        assert row["why"].text or row["state"].text == NOT_RUN
        assert "NAME" not in command
    key = ("table", "row", "column")
    shown = {tuple(row[name].text for name in key): row["command"].text for row in cells.rows}
    tensorrt = "--backend tensorrt --precision fp16"
    seg = shown["3", "RF-DETR-Seg N nas", "latency_ms"]
    dfine = shown["2", "D-FINE N", "latency_ms"]
    assert seg == f"python -m rfdetr_repro.bench --models rfdetr-seg-nano {tensorrt} --cuda-graph"
    # the authors use no graph there
    assert dfine == f"python -m rfdetr_repro.bench --models dfine-n {tensorrt}"


def test_cells_that_no_command_fills_are_published_only():
    """Open-vocabulary models have random weights only, so cost, and latency with COCO's class names
    as their prompt, but no AP; no Record is of step 3 or 4 alone.
    """
    for table, label in (("10", "GroundingDINO T class index names"), ("4", "LLMDet T")):
        states = {column: each.state for column, each in states_of([], table, label).items()}
        assert {states[name] for name in ("ap", "ap_l", "latency_ms")} == {
            PUBLISHED_ONLY
        } and states["params_m"] == NOT_RUN
    steps = {
        each.row.identity.model.variant: each.state
        for each in cell_states(["5"], [], EVERYTHING)
        if each.slot.metric == "ap"
    }
    assert [steps[f"step {step}"] for step in range(1, 11)] == [
        NOT_RUN,
        *3 * [PUBLISHED_ONLY],
        *6 * [NOT_RUN],
    ]
    no_weights = dataclasses.replace(EVERYTHING, weights=False)
    waits = {
        each.row.identity.model.variant: each.state
        for each in cell_states(["5"], [], no_weights)
        if each.slot.metric == "ms"
    }
    # cut from a supernet; built by its name
    assert (waits["step 6"], waits["step 10"]) == (WEIGHTS, NOT_RUN)


def test_rt_detr_m_is_the_r18_of_the_other_tables():
    found = states_of([counted("rtdetr", "R18", 36_000_000, 100.0)], "4", "RT-DETR M")
    assert found["params_m"].state == found["gflops"].state == REPRODUCED


def test_without_records_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    command = ["--scoreboard", "--table", "9", "--format", "csv"]
    assert run_main(tables.main, [*command, "--records", "empty.jsonl"]) == 0
    told = capsys.readouterr()
    assert (
        told.err.count("\n") == 1
        and "no Records were read from empty.jsonl" in told.err
        and "--records" in told.err
    )
    assert told.out.startswith("table,row,column,published,measured,state")
    # those of the package, and of results/ of the current folder
    assert (
        run_main(tables.main, ["--scoreboard", "--table", "9"]) == 0 and not capsys.readouterr().err
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("table", ["all", "2", "7", "v2_17"])
def test_the_scoreboard_prints_in_every_format(form, table, capsys, tmp_path):
    store = tmp_path / "records.jsonl"
    Store(store).extend([measured(), counted("rfdetr", "nano", 30_467_000, 31.934)])
    assert (
        run_main(
            tables.main,
            ["--scoreboard", "--table", table, "--format", form, "--records", str(store)],
        )
        == 0
    )
    text = capsys.readouterr().out
    count = 1523 if table == "all" else numbers_in(table)
    if form == "json":
        summary, *_, cells = json.loads(text)["tables"]
        assert summary["rows"][-1]["cells"] == count == len(cells["rows"])
        assert {row["state"] for row in cells["rows"]} <= set(STATES)
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == count and {row["state"] for row in rows} <= set(STATES)
        assert all(math.isfinite(float(row["published"])) for row in rows)
    else:
        assert (
            f"{count:,} published cells" in text.replace("\\", "")
            and "total" in text
            and "What would measure the rest" in text
        )


def test_the_grid_of_one_table_has_a_letter_per_cell():
    _, grid, _, _ = scoreboard(["2"], [measured()], NOTHING)
    row = next(row for row in grid.rows if row["row"].text == "RF-DETR N nas")
    assert [row[key].text for key in ("params_m", "latency_ms", "ap", "ap75")] == [
        "·",
        "=",
        "=",
        "b",
    ]
    assert sum(len(row) - 1 for row in grid.rows) == numbers_in("2") and len(
        set(LETTERS.values())
    ) == len(STATES)
    assert render([grid], "text").count("\n") > len(grid.rows)


def counted_calls(monkeypatch: pytest.MonkeyPatch, *methods: tuple[type, str]) -> Counter[str]:
    """Counts from now on how often each method is called."""
    calls: Counter[str] = Counter()

    def counting(inner, name: str):
        def call(*arguments):
            calls[name] += 1
            return inner(*arguments)

        return call

    for owner, name in methods:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), name))
    return calls


def test_a_large_store_is_read_once_and_each_record_compared_with_few_lines(
    tmp_path, capsys, monkeypatch
) -> None:
    """Work is counted, not timed: machines are shared."""
    lines = [
        measured(ms=2 + n / 1e4, data=DataId("coco-val2017", "val", f"{n:064x}"))
        for n in range(1000)
    ]
    others = [
        dataclasses.replace(record, model=dataclasses.replace(record.model, size="unlisted"))
        for record in lines
    ]
    store = tmp_path / "records.jsonl"
    Store(store).extend([*lines, *others])
    calls = counted_calls(monkeypatch, (Record, "from_json"), (Line, "takes"))
    assert run_main(tables.main, ["--table", "2", "--format", "csv", "--records", str(store)]) == 0
    assert calls["from_json"] == len(lines) + len(others)
    assert calls["takes"] <= 5 * len(lines)
    shown = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["record"] for row in shown if row["record"]} == {record.id for record in lines}
