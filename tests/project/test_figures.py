"""Tables that pages quote say what the Records of the repository give today."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from rfdetr_repro.records.record import Record
from rfdetr_repro.records.samples import Series, load_samples
from rfdetr_repro.records.statistics import compare_series
from rfdetr_repro.records.store import Store
from rfdetr_repro.tables.campaign import campaign_tables
from rfdetr_repro.tables.data_sets import data_sets_tables
from rfdetr_repro.tables.rivals import rivals_tables

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


@cache
def records(name: str) -> list[Record]:
    return Store(RESULTS / f"{name}.jsonl").read()


def quoted(page: str, head: str) -> list[list[list[str]]]:
    """The tables of ``page`` whose first line begins with ``head``: rows of cells without
    emphasis.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(rf"^{re.escape(head)}.*\n\|[-|: ]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE)
    assert blocks, f"{page} has no table that begins with {head}"
    return [
        [
            [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]
            for line in block.splitlines()
        ]
        for block in blocks
    ]


def three(value: float) -> str:
    """Three significant digits: "9.48", "31.4", "145"."""
    return f"{value:#.3g}".rstrip(".")


def span(low: float | None, high: float | None, digits: str = "") -> str:
    """An interval in brackets behind a space, or nothing if there is none."""
    if low is None or high is None:
        return ""
    low_text, high_text = (format(end, digits) if digits else three(end) for end in (low, high))
    return f" ({low_text} to {high_text})"


def test_the_frontier_of_the_default_run() -> None:
    own = []
    for row in campaign_tables(records("embedded"))[0].rows:
        cell = {name: value.text for name, value in row.items()}
        own.append(
            [
                f"`{cell['arch']}`",
                f"{cell['val_ap']} {cell['val_ci']} / {cell['val_ap50']}",
                f"{cell['test_ap']} {cell['test_ci']} / {cell['test_ap50']}",
                f"{cell['val_mask_ap']} {cell['val_mask_ci']}",
                f"{cell['buffered_ms']} {cell['buffered_ci']}",
                cell["modelled_ms"],
                cell["sustained_ms"],
                f"`{cell['sha256']}`",
            ]
        )
    assert quoted("docs/results.md", "| architecture | val AP") == [own]
    short = [
        [arch, val.split(" / ")[0], test.split(" / ")[0], ms] for arch, val, test, _, ms, *_ in own
    ]
    [rows] = quoted("README.md", "| architecture | val AP")
    assert len(rows) == 4 and [row for row in short if row in rows] == rows


def test_rivals_that_were_trained_alike() -> None:
    own = {}
    for table in rivals_tables(records("rivals")):
        for row in table.rows:
            cell = {name: value.text for name, value in row.items()}
            if "rival" in cell:
                slower = "none"
                if "slower_ms" in cell:
                    slower = f"{cell['slower_ms']} ms, {cell['slower_difference']}"
                own[cell["rival"], cell["rival_ms"], cell["rival_ap"]] = [
                    f"`{cell['arch']}`",
                    cell["our_ms"],
                    cell["our_ap"],
                    f"{cell['difference']} ({cell['ci']})",
                    slower,
                    cell["verdict"].removesuffix(" (--archs)"),
                ]
    [rows] = quoted("docs/train_rival.md", "| data set | rival | ms | AP |")
    assert len(rows) == len(own)
    for _, rival, ms, ap, *rest in rows:
        assert rest == own[rival, ms, ap]


def test_a_search_for_each_of_many_data_sets() -> None:
    _, means, _ = data_sets_tables(records("rf100"))
    own = [
        [row["value"].text, row["ci"].text, row["signs"].text if "signs" in row else ""]
        for row in means.rows
    ][:5]
    [rows] = quoted("docs/rf100.md", "| mean over ten data sets")
    assert [row[1:] for row in rows] == [
        [f"{value} {interval}".replace("+0.0 [+0.0", "0.0 [0.0"), wins]
        for value, interval, wins in own
    ]
    each, _, _ = data_sets_tables(records("rf100_real"))
    [rows] = quoted("docs/rf100.md", "| data set | steps of the supernet")
    for row, line in zip(each.rows, rows, strict=True):
        assert line[3:] == [
            row[name].text for name in ("nas_ms", "nas_ap", "nas+fine-tuning_ap", "tuned")
        ]


def samples(record: Record) -> Series:
    assert record.latency is not None and record.latency.samples_sha256 is not None
    return load_samples(RESULTS, record.latency.samples_sha256).counted


def test_latencies_of_rivals_with_random_weights() -> None:
    own = {}
    for record in records("rivals_latency"):
        latency, protocol, artifact = record.latency, record.protocol, record.artifact
        assert latency is not None and protocol is not None and artifact is not None
        first = next(
            one
            for one in records("rivals_latency")
            if one.model.name == "YOLO26" and one.protocol == protocol
        )
        slower = compare_series(samples(record), samples(first))
        ends = slower.interval_ms or (None, None)
        size = (artifact.size_bytes or 0) / 1e6
        own[f"{record.model.name} {record.model.size}", protocol.threads] = [
            three(latency.median_ms) + span(latency.ci_low_ms, latency.ci_high_ms),
            three(slower.difference_ms) + span(*ends) if record is not first else "",
            f"{latency.images_per_s:.1f}",
            f"{(latency.peak_memory_bytes or 0) / 1e6:.0f}",
            f"{size:.1f}" if size < 100 else f"{size:.0f}",
        ]
    tables = quoted("docs/rivals.md", "| model | px | median ms")
    for threads, rows in zip((2, 1), tables, strict=True):
        for model, _px, *rest in rows:
            assert rest == own[model, threads][: len(rest)], (model, threads)
    assert sum(map(len, tables)) == len(own)


def test_latencies_on_a_gpu() -> None:
    own = {}
    for record in records("h200"):
        latency, protocol, artifact = record.latency, record.protocol, record.artifact
        if latency and artifact and protocol and protocol.mode == "sustained":
            name = record.model.name.replace("seg-", "Seg-").title()
            own[name, artifact.runtime, artifact.precision] = f"{latency.median_ms:.2f}" + span(
                latency.ci_low_ms, latency.ci_high_ms, ".2f"
            )
    [rows] = quoted("docs/gpu.md", "| model | float32 | bfloat16 | float16 |")
    for name, *cells in rows:
        graph = "torch-cuda-graph"
        assert cells == [own[name, graph, kind] for kind in ("fp32", "bf16", "fp16")], name
