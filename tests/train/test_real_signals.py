"""A signal from outside to a training command that runs as a user starts it: the state is saved at
once, the step is named, and the run that goes on equals one that was never interrupted.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8


def command(data: Path, out: Path) -> list[str]:
    given = f"--fixed --shape 48x48 --steps {STEPS} --batch-size 2 --device cpu"
    program = [sys.executable, "-m", "rfdetr_repro", "train"]
    return [*program, "--data", str(data), "--out", str(out), *given.split(), "--processes", "1"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def started(data: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(data, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finished(data: Path, out: Path) -> None:
    done = subprocess.run(
        command(data, out),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finished(folder, out)
    return out


def cut_by(number: int, data: Path, out: Path) -> int:
    """Sends the signal after the line of the third step; returns the step that is saved."""
    with started(data, out) as running:
        assert running.stdout is not None and running.stderr is not None
        for line in running.stdout:
            if re.match(rf"\s*3\s+{STEPS} ", line):
                running.send_signal(number)
                break
        running.stdout.read()
        said = running.stderr.read()
    assert running.returncode == 128 + number, said
    found = re.fullmatch(
        rf"interrupted by {signal.Signals(number).name} at step (\d+) of {STEPS}: the state is "
        rf"saved; run the same command again to continue\n",
        said,
    )
    assert found, said
    saved = int(found[1])
    assert 3 <= saved < STEPS and read_tensors(out / STATE)[1]["step"] == str(saved)
    assert not (out / MODEL).exists()
    return saved


def assert_equal(out: Path, whole: Path) -> None:
    for name in (STATE, MODEL):
        ours, theirs = (read_tensors(run / name)[0] for run in (out, whole))
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    logs = [[{**row, "seconds": 0} for row in read_log(run)] for run in (out, whole)]
    assert logs[0] == logs[1] and logs[0]


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_no_step(folder: Path, tmp_path: Path, whole: Path, number: int) -> None:
    out = tmp_path / "cut"
    cut_by(number, folder, out)
    finished(folder, out)
    assert_equal(out, whole)
