"""The sections of the report that follow from the Records and the training log: accuracy and
latency, what came after the search, training, the search space, and the paper's tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rfdetr_repro.paper.published import TABLES, published_records, published_rows
from rfdetr_repro.plots.figures import TRAINING_HEIGHT_IN
from rfdetr_repro.plots.knobs import draw_knobs, knobs_height_in
from rfdetr_repro.plots.pareto import draw_pareto, drawable_points, pareto_height_in
from rfdetr_repro.plots.sensitivity import draw_sensitivity, sensitivity_height_in
from rfdetr_repro.plots.training import draw_training
from rfdetr_repro.records.record import NEVER_TRAINED, Record
from rfdetr_repro.records.sensitivity import searched
from rfdetr_repro.spec.metrics import decimals, milliseconds, percent
from rfdetr_repro.tables.answer import answer
from rfdetr_repro.tables.answer_table import answer_table
from rfdetr_repro.tables.campaign import finetuning_tables, frontier_tables
from rfdetr_repro.tables.family import family_table
from rfdetr_repro.tables.format import Cell, Column, Table
from rfdetr_repro.tables.join import Measured
from rfdetr_repro.tables.missing import Here
from rfdetr_repro.tables.modelled import modelled_tables
from rfdetr_repro.tables.parts import parts_tables
from rfdetr_repro.tables.scoreboard import DIFFERENT, REPRODUCED, narrow, scoreboard
from rfdetr_repro.tables.sensitivity import sensitivity_tables

from .blocks import Block, Drawing, Explorer, Grid, Heading, Paragraph, Section
from .explorer.data import explorable
from .run import Run

MOST_ROWS = 100  # of one table in a report
FINETUNE = "python -m rfdetr_repro.finetune --model RUN --arch KEY --data DIR --out OUT"
PARTS = "rfdetr-repro bench --model FILE --parts 1080x1920 --out RUN/records.jsonl"
FAMILY = "python -m rfdetr_repro.family --model RUN --data DIR"


def pareto(run: Run) -> Section:
    """The plot of AP against latency, which the HTML page lets the reader explore; belongs to the
    headline and has no heading of its own.
    """
    static = None
    absent = []
    if drawable_points(run.records):
        draw = partial(draw_pareto, records=run.records)
        height_in = pareto_height_in(run.records)
        static = Drawing(draw, height_in, "Plot of AP against latency")
    else:
        absent.append("AP and latency of one model, which a Pareto plot needs")
    if explorable(run.records):
        return Section(
            None, [Explorer(_comparable(run.records), _pick_folder(run), static)], absent
        )
    return Section(None, [static] if static else [], absent)


def _comparable(records: Sequence[Record]) -> list[Record]:
    """The Records, and the published ones on the same images as any of them."""
    names = {record.data.name for record in records if record.data is not None}
    known = {record.source for record in records}
    published = [
        record
        for record in published_records()
        if record.data is not None and record.data.name in names and record.source not in known
    ]
    return [*records, *published]


def _pick_folder(run: Run) -> str | None:
    """The folder to give to ``rfdetr-repro pick``; None where the Records are not the run's own."""
    own = run.folder / "records.jsonl"
    return str(run.folder) if run.records_path == own else None


def accuracy_and_latency(run: Run) -> Section:
    """The frontiers, and modelled latency next to measured latency."""
    section = Section(Heading("Accuracy and latency"))
    tables = frontier_tables(run.records)
    section.blocks += [Grid(limited(table, run)) for table in tables]
    section.blocks += [Grid(limited(table, run)) for table in modelled_tables(run.records)]
    if not tables:
        section.absent.append("Records of a search or of measured files")
    return section


def latency_parts(run: Run) -> Section:
    """Preprocessing, network and post-processing of frames of several sizes."""
    section = Section(Heading("From a frame to its detections"))
    tables = parts_tables(run.records)
    section.blocks += [Grid(limited(table, run)) for table in tables]
    if not tables:
        section.absent.append(f"The parts of a latency, from a frame to its detections: {PARTS}")
    return section


def other_records(run: Run) -> Section:
    """Records that no frontier takes: other latency modes, means over data sets, counts."""
    own = [
        record
        for record in run.records
        if record.published is None
        and record.source != "search"
        and (record.source != "protocol" or _unusual(record))
    ]
    columns = [
        Column("model", "model", right=False),
        Column("source", "source", right=False),
        Column("data", "data", right=False),
        Column("ap", "AP"),
        Column("mask_ap", "mask AP"),
        Column("mode", "mode", right=False),
        Column("ms", "median ms"),
        Column("params", "Params M"),
        Column("gflops", "GFLOPs"),
    ]
    table = Table("other", "Measurements outside the frontiers", columns)
    for record in own:
        boxes = record.accuracy
        masks = record.mask_accuracy
        cost = record.cost
        params, flops = (cost.params, cost.flops) if cost else (None, None)
        cells = {
            "model": record.model.arch.key if record.model.arch else record.model.name,
            "source": record.source,
            "data": f"{record.data.name} {record.data.split}" if record.data else "",
            "ap": percent(boxes.ap) if boxes else "",
            "mask_ap": percent(masks.ap) if masks else "",
            "mode": record.protocol.rhythm if record.protocol and record.latency else "",
            "ms": milliseconds(record.latency.median_ms) if record.latency else "",
            "params": decimals(params / 1e6, 2) if params is not None else "",
            "gflops": decimals(flops / 1e9, 1) if flops is not None else "",
        }
        table.add({key: Cell(text) for key, text in cells.items()})
    section = Section(Heading("Other measurements"))
    section.blocks += [Grid(limited(table.without_empty_columns(), run))] if own else []
    return section


def _unusual(record: Record) -> bool:
    return record.protocol is not None and not record.protocol.usual


def limited(table: Table, run: Run) -> Table:
    """The table itself, or of a long table the rows on the front, else the first ones, and a note
    that says how many were left out.
    """
    if len(table.rows) <= MOST_ROWS:
        return table
    lines = list(zip(table.rows, table.sections, strict=True))
    front = [line for line in lines if "front" in line[0] and line[0]["front"].text == "yes"]
    shown = (front or lines)[:MOST_ROWS]
    which = "those on the front" if front and len(front) <= MOST_ROWS else "the first"
    note = f"{len(shown):,} of {len(table.rows):,} rows are shown: {which}."
    if table.name in ("frontier", "sensitivity") and run.records_path:
        command = f"python -m rfdetr_repro.tables --table {table.name}"
        note += f" {command} --records {run.records_path} prints all of them."
    rows, sections = zip(*shown, strict=True)
    return Table(
        table.name, table.title, table.columns, list(rows), list(sections), [note, *table.notes]
    )


def after_search(run: Run) -> Section:
    """Fine-tuning, and patch sizes not used in training; after a search an absent one names the
    command that makes it.
    """
    section = Section(Heading("After the search"))
    tables = finetuning_tables(run.records)
    fresh = [
        record
        for record in run.records
        if record.model.variant == NEVER_TRAINED and record.accuracy is not None
    ]
    for table in tables:
        section.blocks += [Grid(limited(table, run)), *_compared_changes(table)]
    if fresh:
        section.blocks += _family(fresh, run)
    if any(record.source == "search" for record in run.records):
        if not tables:
            section.absent.append(f"Fine-tuning of a found architecture: {FINETUNE}")
        if not fresh:
            section.absent.append(f"Patch sizes not used in training: {FAMILY}")
    return section


def _compared_changes(table: Table) -> list[Block]:
    """Whether the changes in AP lie in the range that the paper prints; nothing where no change is
    known.
    """
    low, high = published_changes()
    found = _values(table, "change_ap")
    if not found:
        return []
    inside = all(low <= float(decimals(value, 1)) <= high for value in found)
    verdict = "lie within that range" if inside else "do not all lie within that range"
    return [
        Paragraph(
            f"The paper's Tables 15 and 16 print changes in AP from {_points(low)} to "
            f"{_points(high)} (COCO, published). The changes measured here, "
            f"{', '.join(map(_points, found))}, {verdict}."
        )
    ]


def _points(value: float) -> str:
    """A number of points with its sign."""
    return decimals(value, 1, signed=True)


def published_changes() -> tuple[float, float]:
    """Lowest and highest change in AP by fine-tuning in Tables 15 and 16."""
    rows = [
        row for name in ("15", "16") for row, _ in published_rows(name) if row["ap_kind"] == "delta"
    ]
    changes = [float(row["ap"]) for row in rows if row["ap"]]
    return min(changes), max(changes)


def _family(fresh: Sequence[Record], run: Run) -> list[Block]:
    trained = [
        record
        for record in run.records
        if record.source == "search" and record.model.variant is None
    ]
    table = family_table(fresh, trained)
    gaps = [abs(value) for value in _values(table, "gap")]
    blocks: list[Block] = [Grid(limited(table, run))]
    if gaps:
        blocks.append(
            Paragraph(
                f"The paper (v2, Appendix L) calls untrained patch sizes nearly identical in "
                f"accuracy to trained ones with as many tokens, without giving numbers. Here they "
                f"differ by at most {decimals(max(gaps), 1)} AP and by "
                f"{decimals(sum(gaps) / len(gaps), 1)} AP on average."
            )
        )
    return blocks


def _values(table: Table, column: str) -> list[float]:
    """Numbers of a column, in points; cells without one left out."""
    cells = [row[column] for row in table.rows if column in row]
    return [float(cell.value) for cell in cells if cell.value is not None]


def training(run: Run) -> Section:
    """Loss and AP50 over steps, from the training log."""
    section = Section(Heading("Training"))
    shown = [
        row
        for row in run.log
        if row.get("weights") != "raw"
        and any(row.get(key) is not None for key in ("loss", "ap50", "val_ap50", "test_ap50"))
    ]
    if not shown:
        section.absent.append("A training log")
        return section
    draw = partial(draw_training, rows=shown)
    section.blocks.append(
        Drawing(draw, TRAINING_HEIGHT_IN, "Plot of loss and AP50 over optimizer steps")
    )
    return section


def search_space(run: Run) -> Section:
    """AP and latency by each knob of the search space."""
    section = Section(Heading("The search space, knob by knob"))
    if not searched(run.records):
        section.absent.append("Records of a search")
        return section
    draw = partial(draw_knobs, records=run.records)
    section.blocks.append(
        Drawing(draw, knobs_height_in(run.records), "Plot of AP and latency against each knob")
    )
    tables = sensitivity_tables(run.records)
    if not tables:
        section.absent.append("A pair of configurations that differ in a single knob")
        return section
    paired = partial(draw_sensitivity, records=run.records)
    height_in = sensitivity_height_in(run.records)
    section.blocks.append(
        Drawing(paired, height_in, "Plot of the effect of one step of each knob, all else equal")
    )
    section.blocks += [Grid(limited(table, run)) for table in tables]
    return section


def paper(run: Run) -> Section:
    """Table 2 and the scoreboard, for a campaign and for a run that measured a published model."""
    section = Section(Heading("Comparison with the paper: Table 2", new_page=True))
    measured = Measured(run.records)
    here = Here.detect(run.records)
    counts, *_ = scoreboard(list(TABLES), measured, here)
    compared = any(
        row[state].value for row in counts.rows for state in (REPRODUCED, DIFFERENT) if state in row
    )
    if not (compared or run.summary.get("campaign")):
        section.absent.append("A measurement that can be compared with a number in the paper")
        return section
    section.blocks += [
        Paragraph(
            "Each row shows what the camera-ready prints (paper), what this run measured (here), "
            "and the difference. A measured Record joins a row only if family, size, task and data "
            "set agree, so no AP measured on composed images appears here."
        ),
        Grid(answer_table(answer("2", measured, here))),
        Heading("Scoreboard of the paper's tables", new_page=True),
        Paragraph(
            "Every number that the camera-ready prints in a table is counted once below. The "
            "command python -m rfdetr_repro.tables --scoreboard --format json lists all of them, "
            "each with the command that measures it or the reason why there is none."
        ),
        Grid(narrow(counts)),
    ]
    return section
