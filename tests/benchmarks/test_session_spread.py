"""The study of the spread between sessions and processes, by simulations with a known answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import session_spread
from benchmarks.studies.session_spread import main, measure, spread_of
from benchmarks.subjects import pico_artifact


def simulated(
    rng: np.random.Generator, processes: int, sessions: int, between: float, within: float
) -> np.ndarray:
    """Medians around 5 ms whose logarithms have these standard deviations."""
    of_process = rng.normal(0, between, (processes, 1))
    return 5 * np.exp(of_process + rng.normal(0, within, (processes, sessions)))


def test_both_spreads_are_found() -> None:
    found = spread_of(simulated(np.random.default_rng(0), 2000, 3, 0.02, 0.005))
    assert found.between_processes[0] == pytest.approx(2.0, rel=0.05)
    assert found.between_sessions[0] == pytest.approx(0.5, rel=0.05)
    alike = spread_of(simulated(np.random.default_rng(1), 2000, 3, 0.0, 0.005))
    assert alike.between_processes[0] < 0.1 and alike.between_processes[1] == 0.0


@pytest.mark.parametrize("between", [0.02, 0.005])
def test_intervals_cover_the_truth(between: float) -> None:
    rng = np.random.default_rng(2)
    trials = [spread_of(simulated(rng, 6, 3, between, 0.005)) for _ in range(600)]
    for name, truth in (("between_processes", 100 * between), ("between_sessions", 0.5)):
        intervals = [getattr(one, name) for one in trials]
        covered = np.mean([low <= truth <= high for _, low, high in intervals])
        assert 0.925 < covered < 0.985, name


@pytest.mark.slow
def test_sessions_of_other_processes_are_timed_in_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    medians = measure(pico_artifact(tmp_path), processes=2, sessions=2, rounds=2)
    assert medians.shape == (2, 2) and (medians > 0).all()
    monkeypatch.setattr(
        session_spread, "measure", lambda *_: simulated(np.random.default_rng(0), 3, 3, 0.02, 0.005)
    )
    main(["--processes", "3"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and printed[2].startswith("| pico r128-p16-w1-d2-q25 | ")
    with pytest.raises(SystemExit):
        main(["--processes", "1"])
