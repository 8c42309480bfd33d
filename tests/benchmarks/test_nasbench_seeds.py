"""The study of the benchmark's training seeds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.studies.nasbench_seeds import compared, front, lost, main
from rfdetr_repro.nasbench.bench import CHECKOUT
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.errors import InputError

SLOW, FAST, MIDDLE, TWIN = SearchSpace((96, 128), (16,), (1,), (1, 2), (10,))
LATENCY_MS = {SLOW: 4.0, FAST: 1.0, MIDDLE: 2.0, TWIN: 2.0}


def test_front_holds_what_no_faster_architecture_reaches() -> None:
    ap = {SLOW: 0.5, FAST: 0.1, MIDDLE: 0.2, TWIN: 0.4}
    assert front(ap, LATENCY_MS) == [FAST, TWIN, SLOW]
    assert front(ap | {SLOW: 0.4}, LATENCY_MS) == [FAST, TWIN]


def test_lost_is_the_area_that_the_other_choice_does_not_cover() -> None:
    used = {SLOW: 0.5, FAST: 0.1, MIDDLE: 0.2, TWIN: 0.4}
    chosen = {SLOW: 0.5, FAST: 0.1, MIDDLE: 0.4, TWIN: 0.2}  # takes the worse of the twins
    # widths 1, 2 and 0.2 (to 5 % beyond the slowest): 0.1 + 0.8 + 0.1 against 0.1 + 0.4 + 0.1
    assert lost(chosen, used, LATENCY_MS) == pytest.approx(0.4 / 1.0)
    assert lost(used, used, LATENCY_MS) == 0


def test_comparison_is_of_ranks() -> None:
    used = {SLOW: 0.5, FAST: 0.1, MIDDLE: 0.2, TWIN: 0.4}
    other = {arch: value**3 for arch, value in used.items()}
    same = compared(used, other, LATENCY_MS)
    assert (same.spearman, same.kendall, same.lost) == (1, 1, (0, 0))
    reversed_ = compared(used, {arch: -value for arch, value in used.items()}, LATENCY_MS)
    assert (reversed_.spearman, reversed_.kendall) == pytest.approx((-1, -1))


def test_the_page_quotes_the_comparison_of_the_parts_of_the_benchmark(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not CHECKOUT.is_dir():
        pytest.skip("needs results/nasbench of a checkout")
    main([])
    found: dict[tuple[str, str], list[str]] = {}  # of all architectures, then of the campaign's
    for line in capsys.readouterr().out.splitlines():
        if " on " in line and " and " in line:
            pair, spearman, _, chosen, reverse = (
                cell.strip() for cell in line.strip().strip("|").split("|")
            )
            first, second = pair.split(" and ")
            found.setdefault((first, second), []).extend([spearman, chosen, reverse])
    page = (Path(__file__).resolve().parents[2] / "docs/nasbench.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| seeds? (\d)(?: and (\d) on (\w+)|: (\w+) and (\w+)) \|(.*)\|$", page, re.M
    )
    assert len(rows) == 9
    for one, other, split, first, second, cells in rows:
        names = (
            (f"seed {one} on {split}", f"seed {other} on {split}")
            if other
            else (f"seed {one} on {first}", f"seed {one} on {second}")
        )
        assert [cell.strip() for cell in cells.split("|")] == found[names]


def test_a_folder_without_the_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part of the benchmark"):
        main(["--folder", str(tmp_path)])
