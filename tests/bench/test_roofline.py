"""The roofline figure of a benchmark run, and what it says about files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfdetr_repro.report.roofline import rows_of
from rfdetr_repro.report.roofline_command import main
from rfdetr_repro.spec.errors import run_main

ROW = {
    "ours_ms": 0.05,
    "grid_sample_ms": 1.0,
    "limit_ms": 0.03,
    "gathered_bytes": 2457600,
    "value_bytes": 589824,
}


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps({"benchmarks": [{"extra_info": row} for row in rows]}))
    return path


def test_draws_the_rows_that_have_a_limit(tmp_path: Path) -> None:
    larger = {**ROW, "value_bytes": 10**7, "torch_ms_deform_attn_ms": 0.4}
    file = written(tmp_path / "operators.json", [larger, {"threads": 2}, ROW])
    assert [row["value_bytes"] for row in rows_of(file)] == [589824, 10**7]
    assert run_main(main, [str(file), "--out", str(tmp_path / "roofline.png")]) == 0
    assert (tmp_path / "roofline.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        "[" * 200_000,
        '{"benchmarks": [{"extra_info": {"threads": 2}}]}',
        json.dumps({"benchmarks": [{"extra_info": {**ROW, "ours_ms": "fast"}}]}),
        json.dumps({"benchmarks": [{"extra_info": {**ROW, "limit_ms": -1}}]}),
        json.dumps({"benchmarks": [{"extra_info": {**ROW, "value_bytes": [1]}}]}),
    ],
)
def test_says_what_is_wrong_with_a_file(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "operators.json"
    if content is not None:
        file.write_text(content)
    assert run_main(main, [str(file), "--out", str(tmp_path / "roofline.png")]) == 2
    error = capsys.readouterr().err
    assert (
        "operators.json" in error
        and error.count("\n") == 1
        and not (tmp_path / "roofline.png").exists()
    )
