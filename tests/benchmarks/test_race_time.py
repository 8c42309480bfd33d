"""What a race saves: the table's parts, and the time of a search that was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.studies.race_time import Sessions, main, table
from benchmarks.studies.resampled_ap import in_numpy
from rfdetr_repro.evaluation.matches import THRESHOLDS, resampled_ap
from rfdetr_repro.search.plan import made_up_matches
from rfdetr_repro.spec.errors import InputError

FAST, MIDDLE, SLOW = "r64-p16-w1-d1-q10", "r96-p16-w1-d1-q10", "r128-p16-w1-d1-q10"


def row(strategy: str, cpu_s: float, ap: dict[str, float], **changes: Any) -> dict[str, Any]:
    whole = strategy == "exhaustive"
    return {
        "strategy": strategy,
        "seed": 0,
        "images": 100,
        "split_sha256": "a",
        "weights_sha256": "b",
        "cpu_s": cpu_s,
        "evaluations": 300 if whole else 120,
        "passes": 300 if whole else 150,
        "decisions_s": 0.5,
        "ap": ap,
        "latency_ms": {FAST: 1.0, MIDDLE: 2.0, SLOW: 4.0},
        **changes,
    }


def test_the_table_states_parts_of_the_exhaustive_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = {FAST: 0.2, MIDDLE: 0.3, SLOW: 0.5}
    rows = [
        row("exhaustive", 10.0, exact),
        row("race", 6.0, {FAST: 0.2, SLOW: 0.5}),
        row("exhaustive", 20.0, exact),
    ]
    out = tmp_path / "times.jsonl"
    out.write_text("".join(json.dumps(one) + "\n" for one in rows))
    main(["--out", str(out)])
    # 0.2 x 1 + 0.3 x 2 + 0.5 x 0.2 ms, against 0.2 x 3 + 0.5 x 0.2 ms; 6 s of 15 s
    assert "40.0% | 50.0% | 40.0% (6.0 s) | 0.5 s | 77.78% |" in capsys.readouterr().out
    with pytest.raises(InputError, match="needs an exhaustive search and a race"):
        table(rows[:1])


@pytest.mark.parametrize("strategy", ["exhaustive", "race"])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"split_sha256": "c"}, "images"),
        ({"weights_sha256": "c"}, "weights"),
        ({"latency_ms": {FAST: 1.0, SLOW: 4.5}}, "latencies"),
        ({"ap": {FAST: 0.2, SLOW: 0.50001}}, "AP"),
        ({"ap": {FAST: 0.2, MIDDLE: 0.3}}, "AP"),
        ({"split_sha256": "c", "weights_sha256": "c"}, "images, weights"),
    ],
)
def test_searches_that_cannot_be_compared_are_refused(
    tmp_path: Path, strategy: str, changes: dict[str, Any], told: str
) -> None:
    ap = {FAST: 0.2, SLOW: 0.5}
    rows = [row("exhaustive", 10.0, ap), row("race", 6.0, ap)]
    assert table(rows)
    out = tmp_path / "times.jsonl"
    changed = {**row(strategy, 8.0, ap, seed=3), **changes}
    out.write_text("".join(json.dumps(one) + "\n" for one in [*rows, changed]))
    with pytest.raises(InputError) as error:
        main(["--out", str(out)])
    assert f"in {told} ({strategy}, seed 3 in {out}); repeat both" in str(error.value)


class _Clock:
    """CPU time that the test advances."""

    def __init__(self, started: float) -> None:
        self.now = started

    def __call__(self) -> float:
        return self.now


def test_a_stopped_search_counts_each_backbone_once(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    clock = _Clock(2.0)
    for item in Sessions(path, clock).progress([1, 2, 3]):
        clock.now += item
        if item == 2:
            break  # as a kill: the second is not kept
    assert json.loads(path.read_text()) == [2.0, 1.0]
    clock = _Clock(5.0)  # the start of the second process does not count again
    again = Sessions(path, clock)
    for item in again.progress([2, 3]):
        clock.now += 10 * item
    clock.now += 0.5
    assert again.total() == 2.0 + 1.0 + 20.0 + 30.0 + 0.5


def test_the_form_in_numpy_is_the_area_below_the_envelope() -> None:
    """Within 1/101 of COCO's AP, in every resample."""
    found, objects = made_up_matches(40, 30, 5)
    weights = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), 20)
    exact = resampled_ap(found, objects, weights, range(THRESHOLDS))
    assert exact.min() > 0.05
    np.testing.assert_allclose(in_numpy(found, objects, weights), exact, atol=1 / 101)
