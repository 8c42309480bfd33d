"""Printed parameters and GFLOPs against counts: the comparison's own rules, and what a counter may
not do.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
import torch

from rfdetr_repro.bench import counters
from rfdetr_repro.bench.command import costs as command
from rfdetr_repro.paper.costs import (
    COMMAND,
    CONVENTIONS,
    REASONS,
    STATES,
    compare,
    cost_cells,
    to_csv,
    to_markdown,
)
from rfdetr_repro.paper.published import join_key, published_records
from rfdetr_repro.records.record import Cost, ModelId, Record
from rfdetr_repro.records.store import Store


@pytest.mark.parametrize(
    ("measured", "printed", "state"),
    [
        (31.94, "31.9", "reproduced"),
        (31.95, "32.0", "reproduced"),
        (42.89, "42", "cut"),
        (43.0, "42", "differs"),
        (10.2374, "10.2", "reproduced"),
        (0.05, "0.1", "reproduced"),
        (100.04, "100.0", "reproduced"),
    ],
)
def test_a_number_is_compared_at_its_printed_digit(
    measured: float, printed: str, state: str
) -> None:
    assert compare(measured, printed) == state


def cost(
    family: str, size: str, params: float, gflops: float, convention: tuple[str, str]
) -> Record:
    return Record(
        "cost",
        ModelId(family, family, size=size),
        cost=Cost(int(1e6 * params), 1e9 * gflops, None, *convention),
    )


def test_a_cell_takes_only_counts_of_its_own_convention() -> None:
    wrong = cost("lwdetr", "S", 14.6, 31.8, ("calflops", "evaluated"))
    right = cost("lwdetr", "S", 14.6, 31.0, CONVENTIONS["lwdetr"])
    states = {}
    for name, records in (("none", []), ("wrong", [wrong]), ("right", [wrong, right])):
        cells = [
            c for c in cost_cells(records) if (c.table, c.model, c.size) == ("2", "LW-DETR", "S")
        ]
        states[name] = {cell.column: cell.state for cell in cells}
    assert states["none"] == states["wrong"] == {"params_m": STATES[3], "gflops": STATES[3]}
    assert states["right"] == {"params_m": "reproduced", "gflops": "differs"}


def test_every_cell_that_is_not_reproduced_has_a_reason() -> None:
    cells = cost_cells([cost("rtdetr", "R18", 20.2, 61.5, CONVENTIONS["rtdetr"])])
    assert len(cells) == 133 and {cell.table for cell in cells} == {"2", "3", "5", "9", "12", "13"}
    assert all(cell.reason for cell in cells if cell.state != "reproduced")
    printed = {
        f"{join_key(r)[0]} {join_key(r)[1]}"
        for t in ("2", "3", "12", "13")
        for r in published_records(t)
    }
    families = {name.split()[0] for name in printed}
    assert {key[0] for key in REASONS} <= printed | families and {
        key.split()[0] for key in CONVENTIONS
    } <= families


def test_the_page_names_its_command_first_and_has_every_cell() -> None:
    cells = cost_cells([])
    page = to_markdown(cells).splitlines()
    assert (
        page[0] == f"<!-- {COMMAND} -->"
        and sum(line.startswith("| ") for line in page) == len(cells) + 1
    )
    assert len(list(csv.DictReader(io.StringIO(to_csv(cells))))) == len(cells)


def test_the_page_of_the_repository_follows_from_its_records() -> None:
    root = Path(__file__).resolve().parents[2]
    page = to_markdown(cost_cells(Store(root / "results/costs.jsonl").read()))
    assert page == (root / "docs/costs.md").read_text(encoding="utf-8"), f"run: {COMMAND}"


def test_a_shared_module_counts_once() -> None:
    head = torch.nn.Linear(4, 4)
    module = torch.nn.Module()
    module.first, module.second = torch.nn.Sequential(head), head
    counters._register_once(module)
    assert [name for name, _ in module.named_modules()] == [
        "",
        "first",
        "first.0",
    ] and module.second is head


def test_flopcountermode_counts_two_per_multiply_add_on_shapes_alone() -> None:
    count = counters.flopcountermode(
        torch.nn.Linear(8, 16, device="meta"), torch.empty(3, 8, device="meta")
    )
    assert count == (2 * 3 * 8 * 16, 3 * 8 * 16)


def test_calflops_counts_operators_and_activations_as_its_users_see_them() -> None:
    pytest.importorskip("calflops", reason="calflops is not installed")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = torch.nn.LayerNorm(8), torch.nn.Linear(8, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.relu(self.linear(self.norm(x * 2.0 + 1.0)))

    count = counters.calflops(Model().to("meta"), torch.empty(3, 8))
    assert count.flops == 5 * 24 + 2 * 3 * 8 * 16 + 48, (
        "normalisation, product, activation; no operators, nothing twice"
    )


def test_the_command_stores_counts_once_and_no_path(tmp_path, monkeypatch) -> None:
    out = tmp_path / "costs.jsonl"
    page = tmp_path / "costs.md"
    monkeypatch.setattr(sys, "argv", ["costs"])
    for _ in range(2):
        command.main(
            [
                "--models",
                "rfdetr-nano",
                "--counters",
                "shapes,flopcountermode",
                "--out",
                str(out),
                "--page",
                str(page),
            ]
        )
    records = Store(out).read()
    assert len(out.read_bytes().splitlines()) == len(
        records
    ) == 3 + 8 and page.read_text().startswith("<!-- python")
    by_form = {
        (r.cost.counter, r.cost.form): r.cost for r in records if r.cost and r.model.size == "N"
    }
    assert by_form["shapes", "deployed"].flops == by_form["flopcountermode", "deployed"].flops


def test_absent_calflops_is_one_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "calflops", None)
    with pytest.raises(counters.InputError, match="pip install calflops"):
        counters.calflops(torch.nn.Linear(1, 1), torch.empty(1, 1))
