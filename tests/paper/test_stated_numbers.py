"""The sentences of the paper that state a number: recomputed by pandas from the CSVs themselves,
and from tables in which a cell was changed.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pandas
import pytest

from rfdetr_repro.paper.published import CSV_FOLDER, PublishedTable, published_table
from rfdetr_repro.paper.stated import NO, NOT_RECOMPUTED, WITHIN, YES, Statement, statements
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.tables.stated import stated_table


def found() -> dict[tuple[str, str], Statement]:
    return {(one.claim, one.version): one for one in statements()}


def cell(table: str, column: str, version: str = "v2", **keys: str) -> float:
    """A cell as pandas reads it; fails unless the row is unique."""
    frame = pandas.read_csv(CSV_FOLDER / f"{table}.csv", dtype=str, keep_default_na=False)
    chosen = frame[frame["version"].str.split("+").map(lambda names: version in names)]
    for key, text in keys.items():
        chosen = chosen[chosen[key] == text]
    (value,) = chosen[column]
    return float(value)


def test_differences_and_ratios_are_those_that_pandas_computes():
    ours = found()

    def value(claim: str, version: str = "v1+v2") -> list[float]:
        return [float(answer.value) for answer in ours[claim, version].answers]

    nano = cell("table02", "ap", model="RF-DETR", size="N")
    tiny = cell("table02", "ap", model="LW-DETR", size="T")
    assert value("RF-DETR nano beats LW-DETR tiny on COCO") == pytest.approx([nano - tiny] * 2)
    slow = cell("table04", "latency_ms", model="GroundingDINO")
    fast = cell("table04", "latency_ms", model="RF-DETR", size="2XL", variant="nas+fine-tuning")
    claim = "RF-DETR 2XL is how many times as fast as GroundingDINO tiny on RF100-VL"
    assert value(claim) == pytest.approx([slow / fast] * 2)
    tuned = [
        cell("table14", "ap", version, model="RF-DETR", size="XL", variant="nas+fine-tuning")
        - cell("table14", "ap", version, model="RF-DETR", size="XL", variant="nas")
        for version in ("v1", "v2")
    ]
    claim = "fine-tuning RF-DETR x-large on RF100-VL adds"
    assert value(claim) == pytest.approx(tuned)
    assert "v1 Table 14: 63.1 - 62.7; v2 Table 14: 63.0 - 62.6" == ours[claim, "v1+v2"].how
    flops = [cell("table09", name, model="LW-DETR") for name in ("flopcountermode", "reported")]
    claim = "LW-DETR FLOPs against its reported count"
    assert value(claim) == pytest.approx([flops[0] / flops[1]] * 2)
    grid = pandas.read_csv(CSV_FOLDER / "nas_search_space.csv", dtype=str).set_index("knob")
    counts = grid["count_used_in_paper_arithmetic"].drop("total_configurations").astype(int)
    assert value("number of evaluated configurations", "v2") == [counts.prod()]


def test_what_agrees_and_what_does_not():
    ours = found()
    assert ours["DINOv2 over CAEv2 (Table 6)", "v1+v2"].agrees == NO
    assert ours["RF-DETR x-large beats D-FINE on RF100-VL", "v1"].agrees == YES
    # 62.6 - 62.2 may be anything from 0.3 to 0.5
    rounded = ours["RF-DETR x-large beats D-FINE on RF100-VL", "v2"]
    assert rounded.agrees == WITHIN and rounded.recomputed == "0.4"
    (answer,) = rounded.answers
    assert (answer.low, answer.high) == (Decimal("0.3"), Decimal("0.5"))
    lost = ours["D-FINE reports LW-DETR latency faster than LW-DETR reports", "v1+v2"]
    assert lost.agrees == NOT_RECOMPUTED and lost.note and not lost.recomputed
    others = [one for one in statements() if one.agrees == YES]
    assert len(others) == len(ours) - 3


def changed(table: str, column: str, text: str, **keys: str):
    """A reader of tables in which one cell holds another text."""

    def read(name: str, version: str) -> PublishedTable:
        shown = published_table(name, version)
        if name != table:
            return shown
        rows = tuple(
            {**row, column: text} if all(row[key] == keys[key] for key in keys) else row
            for row in shown.rows
        )
        return replace(shown, rows=rows)

    return read


@pytest.mark.parametrize(
    ("claim", "table", "column", "text", "keys", "agrees"),
    [
        (
            "RF-DETR nano beats D-FINE nano on COCO",
            "2",
            "ap",
            "48.2",
            {"model": "RF-DETR", "size": "N"},
            NO,
        ),
        (
            "RF-DETR nano beats D-FINE nano on COCO",
            "2",
            "ap",
            "48.1",
            {"model": "RF-DETR", "size": "N"},
            WITHIN,
        ),
        # the difference stays 2.0, but the latencies are no longer equal
        (
            "final model over LW-DETR at equal latency",
            "5",
            "latency_ms",
            "4.5",
            {"step": "10"},
            NO,
        ),
        (
            "RF-DETR-Seg nano against YOLOv11-Seg x-large, speed",
            "13",
            "ap",
            "40.3",
            {"model": "YOLOv11", "size": "XL"},
            NO,
        ),
        (
            "first real-time detector over 60 AP on COCO",
            "2",
            "ap",
            "60.0",
            {"model": "RF-DETR", "size": "2XL"},
            WITHIN,
        ),
        (
            "search cost",
            "claims",
            "stated_value",
            "~9000",
            {"claim": "search cost"},
            NO,
        ),
    ],
)
def test_a_changed_cell_changes_the_answer(claim, table, column, text, keys, agrees):
    before = {one.claim: one.agrees for one in statements()}
    after = {one.claim: one.agrees for one in statements(changed(table, column, text, **keys))}
    assert before[claim] == YES and after[claim] == agrees


@pytest.mark.parametrize(
    ("column", "text", "said"),
    [
        ("cells", "2:ap:model=RF-DETR; 2:ap:model=D-FINE,size=N", "4 rows of 2"),
        ("cells", "2:ap:model=RF-DETR,size=Q; 200", "0 rows of 2"),
        ("cells", "2:app:model=RF-DETR,size=N; 200", "no column app"),
        ("cells", "2:ap", "of 1 numbers"),
        ("cells", "2:ap; 200", "does not name a cell"),
        ("cells", "2:model:model=RF-DETR,size=N; 200", "not a printed number"),
        ("operation", "sum", "unknown arithmetic"),
        ("operation", "", "neither arithmetic nor a reason"),
        ("stated_value", "five", "not a stated number"),
        ("condition", "smaller", "unknown condition"),
    ],
)
def test_a_row_that_cannot_be_computed_is_named(column, text, said):
    claim = "RF-DETR nano beats D-FINE nano on COCO"
    with pytest.raises(InputError, match=said) as error:
        statements(changed("claims", column, text, claim=claim))
    assert claim in str(error.value)


def test_the_table_explains_each_answer_that_occurs():
    table = stated_table(statements())
    assert len(table.rows) == len(statements())
    assert [note.partition(":")[0] for note in table.notes] == [YES, WITHIN, NO, NOT_RECOMPUTED]
    assert all(row["how"].text or row["note"].text for row in table.rows)
