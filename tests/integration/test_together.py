"""A campaign by two processes, of ``torchrun`` and of ``--processes``: the Records of the search
are those of one process, the first process alone prints and writes, and an end of any process ends
all and loses nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.records.store import Store
from rfdetr_repro.reproduce.command import main as reproduce
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN = """
base = "embedded"
name = "together"
data = "{data}"
engines = 6
most_engines = 6
candidates = 1
finetune_steps = 2

[space]
resolutions = [64]
patches = [8, 16]
windows = [1, 2]
decoder_layers = [0, 1]
queries = [5, 25]

[train]
steps = 3
batch_size = 2
evaluate_every = 0
checkpoint_every = 1
warmup_steps = 1

[buffered]
buffer_ms = 0.0
min_samples = 3
max_samples = 3

[sustained]
min_samples = 3
max_samples = 3
"""


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    data = write_embedded(
        folder / "data",
        EmbeddedConfig(96, train_images=6, val_images=6, test_images=2),
        workers=1,
    )
    path = folder / "together.toml"
    path.write_text(CAMPAIGN.format(data=data))
    return path


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUNBUFFERED": "1",
    }


def by_torchrun(*words: str) -> list[str]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return [sys.executable, "-m", *launcher, "rfdetr_repro.reproduce", *words]


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=900, check=False
    )


@pytest.mark.parity
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(
    toml: Path, tmp_path: Path
) -> None:
    """The line is printed once, by the first process; the other, which waits for it, ends."""
    out = tmp_path / "run"
    found = run(by_torchrun("--campaign", str(toml), "--out", str(out), "--processes", "2"))
    assert found.returncode != 0 and not out.exists() and found.stdout == ""
    lines = [line for line in found.stderr.splitlines() if line.startswith(("error", "interr"))]
    assert lines == [
        "error: --processes 2 under torchrun, which states the number of processes; leave "
        "--processes out"
    ]
    assert "exitcode  : 2 (pid" in found.stderr  # of the first process, in torchrun's own words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--processes", "3"), "a batch of 2 cannot be split over 3 processes"),
        (("--processes", "0"), "--processes"),
    ],
)
def test_processes_that_cannot_share_a_batch(
    toml: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        reproduce(["--campaign", str(toml), "--out", str(out), *words])
    assert not out.exists()


# -- a training and the passes of a search ---------------------------------------------------------


@pytest.fixture(scope="module")
def data(toml: Path) -> Path:
    return toml.parent / "data"


def by_program(folder: Path, data: Path, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Two processes of :mod:`together_program`, of which the second has the fault."""
    support = ROOT / "tests" / "support"
    program = str(support / "programs" / "together_program.py")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(ROOT), str(support)])
    return subprocess.run(
        [sys.executable, "-m", *launcher, program, str(folder), str(data), fault],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": path},
        timeout=900,
        check=False,
    )


def said(found: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of the processes on the standard error, without those of torchrun."""
    starts = ("error:", "failed:", "interrupted", "internal error")
    return [line for line in found.stderr.splitlines() if line.startswith(starts)]


def program() -> Any:
    sys.path.insert(0, str(ROOT / "tests" / "support" / "programs"))
    try:
        import together_program
    finally:
        sys.path.pop(0)
    return together_program


def results(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Id -> results of the search's Records, each of which was written once."""
    records = Store(folder / "records.jsonl").read()
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert len(lines) == len(records)
    return {one.id: (one.accuracy, one.mask_accuracy, one.latency) for one in records}


@pytest.fixture(scope="module")
def two_have_worked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes of torchrun, of which the first has printed."""
    folder = tmp_path_factory.mktemp("two")
    found = by_program(folder, data)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.count("done") == found.stdout.count("on cpu, 2 processes") == 1
    assert not said(found)
    return folder


@pytest.mark.slow
def test_two_processes_search_as_one(data: Path, two_have_worked: Path, tmp_path: Path) -> None:
    """One process searches what the two of torchrun have trained."""
    made = program()
    found = two_have_worked
    for name in (MODEL, STATE):
        shutil.copy(found / name, tmp_path)
    made.work(tmp_path, str(data), made.Together())
    expected = results(tmp_path)
    assert len(expected) == len(made.SPACE)
    assert len({accuracy.ap for accuracy, _, _ in expected.values()}) > 8  # no ties, no zeros
    assert results(found) == expected


@pytest.mark.parity
def test_processes_of_the_command_work_as_those_of_torchrun(
    data: Path, two_have_worked: Path, tmp_path: Path
) -> None:
    """The trainings are equal bit by bit, the Records of the search in every number."""
    made = program()
    made.work(tmp_path, str(data), made.Together(processes=2))
    two, one = (read_tensors(folder / STATE)[0] for folder in (two_have_worked, tmp_path))
    assert two.keys() == one.keys() and all(torch.equal(two[name], one[name]) for name in two)
    assert results(two_have_worked) == results(tmp_path)


@pytest.mark.parity
def test_a_process_that_dies_in_the_training_loses_no_step(data: Path, tmp_path: Path) -> None:
    """The run is resumed by one process."""
    made = program()
    found = by_program(tmp_path, data, "train")
    assert found.returncode != 0 and "done" not in found.stdout
    (line,) = said(found)
    assert "run the same command again to continue" in line
    assert "exitcode  : -9" in found.stderr  # of the second process, in torchrun's words
    assert int(read_tensors(tmp_path / STATE)[1]["step"]) == 2
    made.work(tmp_path, str(data), made.Together())
    assert int(read_tensors(tmp_path / STATE)[1]["step"]) == 4
    assert len(results(tmp_path)) == len(made.SPACE)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("search", "run the same command again to continue"),
        ("broken", "error: no such picture (000001.jpg); look for it"),
    ],
)
def test_a_process_that_ends_in_the_search_ends_all(
    data: Path, tmp_path: Path, fault: str, line: str
) -> None:
    found = by_program(tmp_path, data, fault)
    assert found.returncode != 0 and "done" not in found.stdout
    (only,) = said(found)
    assert line in only
