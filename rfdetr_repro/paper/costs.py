"""Every parameter and GFLOPs cell of Tables 2, 3, 5, 9, 12 and 13 compared with cost Records:
reproduced to the printed digit, or the reason why not.

The paper mixes conventions: RF-DETR and LW-DETR are counted by PyTorch's FlopCounterMode on the
authors' evaluation forward, D-FINE prints what its authors report (calflops, deployed form),
RT-DETR what its authors report (counter unknown), Table 5 leaves attention out. ``CONVENTIONS``
lists the convention of each family, and a cell is compared only with a Record of the same
convention. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import NamedTuple

from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.csv_text import to_csv as as_csv
from rfdetr_repro.spec.metrics import decimals_of, rounds_to

from .published import join_key, published_records, published_table

TABLES = ("2", "3", "5", "9", "12", "13")
STATES = ("reproduced", "cut", "differs", "not counted here")
_MEANINGS = (
    "equal to the printed digit, rounded",
    "equal if further digits are cut off instead of rounded",
    "counted, not equal, for the reason given",
    "no count of this convention here, for the reason given",
)
COMMAND = "python -m rfdetr_repro.bench.costs --page docs/costs.md"
CONVENTIONS = {
    "rfdetr": ("shapes", "evaluated"),
    "lwdetr": ("flopcountermode", "evaluated"),
    "dfine": ("calflops", "deployed"),
    # its authors report 7 G without a decimal: the paper counted this size itself
    "dfine N": ("flopcountermode", "deployed"),
    "rtdetr": ("flopcountermode", "evaluated"),
    # what its authors print; deployed: normalisation folded into the convolutions
    "yolov8": ("ultralytics", "deployed"),
    "yolo11": ("ultralytics", "deployed"),
    "groundingdino": ("flopcountermode", "evaluated"),
}
NO_ATTENTION = "evaluated without attention"
LW_DETR_M = range(1, 3)  # steps of Table 5 that are LW-DETR M; the rest are RF-DETR
_YOLO = (
    "needs ultralytics (AGPL-3.0) in the user's own environment, named by RFDETR_ULTRALYTICS_PYTHON"
)
_YOLO_OLDER = (
    "presumably its authors' older counter: their present one and FlopCounterMode agree on the "
    "number here"
)
REASONS = {
    ("yolov8", ""): _YOLO,
    ("yolo11", ""): _YOLO,
    ("fastinst", ""): "has no installable package: research code on detectron2",
    ("maskdino", ""): "has no installable package: research code on detectron2",
    ("rtdetr", "gflops"): "prints the RT-DETR authors' own number, whose counter is not documented",
    ("rtdetr R18", ""): "prints the numbers of RT-DETR-R50-m (rtdetr-r50m here), not those of R18",
    (
        "groundingdino",
        "params_m",
    ): "the paper counted mmdetection's program; which 0.7 M of it transformers' port lacks is "
    "not known",
    (
        "groundingdino",
        "gflops",
    ): "the number of text tokens behind it is not stated; 195 (COCO's 80 names) is assumed here",
}


class CostCell(NamedTuple):
    """One printed number and its count.

    ``row`` is the 0-based line of the table's CSV; ``measured`` is in the unit of the column
    (millions, or 10^9 operations), unrounded.
    """

    table: str
    row: int
    model: str
    size: str
    column: str
    published: str
    measured: float | None
    counter: str
    state: str  # an item of STATES; "cut": equal if further digits are cut off instead of rounded
    reason: str  # why it is not "reproduced"
    record_id: str


_Found = dict[tuple[str | None, ...], Record]


def cost_cells(records: Iterable[Record]) -> list[CostCell]:
    """The cells of all tables, compared with the cost Records (``source`` "cost") among
    ``records``.
    """
    found: _Found = {}
    for record in records:
        if record.source == "cost" and record.cost:
            key = (
                *join_key(record)[:3],
                record.model.variant,
                record.cost.counter,
                record.cost.form,
            )
            found[key] = record
    return [*_standard(found), *_ablation(found), *_counters(found)]


def to_csv(cells: Iterable[CostCell]) -> str:
    """The cells as CSV with a header."""
    return as_csv([CostCell._fields, *cells])


def to_markdown(cells: Sequence[CostCell]) -> str:
    """The cells as a page: the command that makes the page, the number of cells in each state, and
    every cell.
    """
    numbers = [sum(cell.state == state for cell in cells) for state in STATES]
    counts = ", ".join(
        f"{number} {'differ' if state == 'differs' and number != 1 else state}"
        for number, state in zip(numbers, STATES, strict=True)
    )
    lines = [
        f"<!-- {COMMAND} -->",
        "# Parameters and GFLOPs of the paper's tables",
        "",
        f"{len(cells)} printed cells: {counts}.",
        "",
    ]
    lines += [f"- {state}: {meaning}" for state, meaning in zip(STATES, _MEANINGS, strict=True)]
    lines += [
        "",
        "Counted without trained weights (YOLO in its own package's process); 2 operations per "
        "multiply-add. The counter's form:",
    ]
    lines += [
        "`evaluated` is the authors' evaluation forward, `deployed` what they export. Every "
        "Record is in `results/costs.jsonl`.",
        "",
        "Each cell is compared with one count, by the counter and form that this project takes for "
        "the family. `rfdetr-repro",
        "tables` takes the count that comes nearest, by any counter and form, and has no state "
        '"cut"; so a cell may have another',
        "state there.",
        "",
    ]
    columns = (
        "Table",
        "Model",
        "Size",
        "Column",
        "Published",
        "Counted",
        "Counter",
        "State",
        "Why not reproduced",
    )
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for cell in cells:
        measured = "" if cell.measured is None else f"{cell.measured:.3f}"
        texts = (
            cell.table,
            cell.model,
            cell.size,
            cell.column,
            cell.published,
            measured,
            cell.counter,
            cell.state,
            cell.reason,
        )
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def _standard(found: _Found) -> Iterator[CostCell]:
    for table in ("2", "3", "12", "13"):
        printed = published_table(table)
        for row, values, record in zip(
            printed.row_numbers, printed.rows, published_records(table), strict=True
        ):
            family, size, task, _ = join_key(record)
            convention = CONVENTIONS.get(f"{family} {size}") or CONVENTIONS.get(family, ("", ""))
            counted = found.get((family, size, task, None, *convention))
            for column in ("params_m", "gflops"):
                if values[column]:
                    reason = (
                        REASONS.get((f"{family} {size}", ""))
                        or REASONS.get((family, column))
                        or REASONS.get((family, ""), "")
                    )
                    yield _cell(
                        (table, row, values["model"], size, column, values[column]), counted, reason
                    )


def _ablation(found: _Found) -> Iterator[CostCell]:
    printed = published_table("5")
    for row, values in zip(printed.row_numbers, printed.rows, strict=True):
        step = int(values["step"])
        if step in LW_DETR_M:
            counted = found.get(("lwdetr", "M", "detect", None, "flopcountermode", "deployed"))
            trained = found.get(("lwdetr", "M", "detect", None, "flopcountermode", "evaluated"))
        else:
            counted = trained = found.get(
                ("rfdetr", "", "detect", f"step {step}", "shapes", NO_ATTENTION)
            )
        yield _cell(("5", row, values["model"], "M", "params_m", values["params_m"]), trained, "")
        yield _cell(("5", row, values["model"], "M", "gflops", values["gflops"]), counted, "")


def _counters(found: _Found) -> Iterator[CostCell]:
    """Table 9: each model under three counters."""
    printed = published_table("9")
    for row, values in zip(printed.row_numbers, printed.rows, strict=True):
        family = {"D-FINE": "dfine", "LW-DETR": "lwdetr", "YOLO11": "yolo11"}[values["model"]]
        form = "evaluated" if family == "yolo11" else CONVENTIONS[family][1]
        for column in ("reported", "calflops", "flopcountermode"):
            counter = "" if column == "reported" else column
            counted = found.get((family, values["size"], "detect", None, counter, form))
            if column == "reported" and family in ("dfine", "yolo11"):
                # what its authors run
                counted = found.get((family, values["size"], "detect", None, *CONVENTIONS[family]))
            reason = (
                "its authors' own number, by a program they do not name"
                if column == "reported"
                else REASONS.get((family, ""), "")
            )
            yield _cell(
                ("9", row, values["model"], values["size"], column, values[column]), counted, reason
            )


def _cell(
    where: tuple[str, int, str, str, str, str], record: Record | None, reason: str
) -> CostCell:
    column, printed = where[4:]
    cost = record.cost if record else None
    value = None if cost is None else cost.params if column == "params_m" else cost.flops
    if record is None or cost is None or value is None:
        return CostCell(*where, None, "", "not counted here", reason or "no such Record", "")
    measured = value / (1e6 if column == "params_m" else 1e9)
    state = compare(measured, printed)
    counter = f"{cost.counter}, {cost.form}"
    if reason == _YOLO:
        reason = _YOLO_OLDER
    if state == "cut":
        reason = "printed with further digits cut off, not rounded"
    return CostCell(
        *where,
        round(measured, 6),
        counter,
        state,
        "" if state == "reproduced" else reason or "not explained",
        record.id,
    )


def compare(measured: float, printed: str) -> str:
    """The item of STATES for a number and its printed text."""
    if rounds_to(measured, printed):
        return "reproduced"
    digit = Decimal(1).scaleb(-decimals_of(printed))
    cut = Decimal(repr(measured)).quantize(digit, ROUND_DOWN)
    return "cut" if cut == Decimal(printed) else "differs"
