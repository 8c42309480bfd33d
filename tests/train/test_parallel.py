"""Several processes on one run: the same step as one process, the same resume, and one clear line
when one of them ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.train import command as train_command
from rfdetr_repro.train import parallel
from rfdetr_repro.train import processes as module
from rfdetr_repro.train.parallel import Ranks, join_torchrun
from rfdetr_repro.train.processes import default_processes, shared
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest
from rfdetr_repro.train.run import train as run_to_the_end
from rfdetr_repro.train.run_log import LOG, read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import Trainer

EXACT = replace(
    TRAIN, bfloat16=False, batch_size=3, accumulate=2, crop_probability=0.5, mask_bce_weight=5.0
)


def train(processes: int, progress: Any = None, **setup: Any) -> dict[str, torch.Tensor]:
    """The state that the finished run leaves."""
    with shared(processes, **setup):
        assert Ranks.current() == Ranks(0, processes)
        Trainer(**setup).run(progress)
    assert Ranks.current() == Ranks()
    return read_tensors(setup["folder"] / STATE)[0]


def test_two_processes_take_the_step_of_one(split: CocoSplit, tmp_path: Path) -> None:
    """Loss, every gradient (Adam's first moment after one step is 0.1 times it) and the logged
    losses, uneven shares.
    """
    recipe = Recipe(TINY, replace(EXACT, steps=1, clip_norm=1e9), SPACE)
    one, two = (train(n, recipe=recipe, split=split, folder=tmp_path / str(n)) for n in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith("exp_avg"):
            scale = max(1e-6, float(one[name].abs().max()))
            assert float((one[name] - two[name]).abs().max()) / scale < 1e-5, name
    logs = [next(read_log(tmp_path / str(n))) for n in (1, 2)]
    assert logs[0].keys() == logs[1].keys() and logs[0].pop("arch") == logs[1].pop("arch")
    assert all(
        logs[0][name] == pytest.approx(logs[1][name], rel=1e-5)
        for name in logs[0]
        if name != "seconds"
    )


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(split: CocoSplit, tmp_path: Path) -> None:
    setup = {"recipe": Recipe(TINY, EXACT, SPACE), "split": split}
    whole = train(2, **setup, folder=tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(step: int, parts: dict[str, float]) -> None:
        if step == 5:  # the last checkpoint is at step 3
            raise Killed

    with pytest.raises(Killed):
        train(2, kill, **setup, folder=tmp_path / "cut")
    assert Ranks.current() == Ranks()
    cut = train(2, **setup, folder=tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("backends", "fits"),
    [("cuda:nccl", False), ("cpu:gloo,cuda:nccl", True), ("cuda:nccl,cpu:gloo", True)],
)
def test_a_group_without_a_backend_for_the_cpu_is_refused(
    backends: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the group that a caller made, because NCCL needs GPUs."""
    monkeypatch.setattr(parallel.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(parallel.dist, "get_backend_config", lambda: backends)
    monkeypatch.setattr(parallel.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: 2)
    if fits:
        assert Ranks.current() == Ranks(1, 2)
        return
    with pytest.raises(
        InputError, match=r"no backend for tensors on the CPU \(cuda:nccl\)"
    ) as refused:
        Ranks.current()
    assert 'init_process_group("cpu:gloo,cuda:nccl")' in str(refused.value)


def test_what_stops_one_process_stops_the_run_with_its_reason(folder: Path, tmp_path: Path) -> None:
    """Every image of the set is broken on disk after the split was read, so the other process's
    loader fails.
    """
    split = read_split(folder, "train")
    _ = split.sha256
    good = split.load_image(0)
    whole = split.images
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    split.images = tuple(replace(info, path=broken) for info in whole)
    setup: dict[str, Any] = {
        "recipe": Recipe(TINY, EXACT, SPACE),
        "split": split,
        "folder": tmp_path / "run",
    }
    with pytest.raises(InputError, match="broken.png"), shared(2, **setup):
        split.cache_images()
        # rank 0 would go on; the other cannot
        split.decoded._kept = dict.fromkeys(range(len(whole)), good)
        Trainer(**setup).run()
    Image.fromarray(good).verify()
    assert Ranks.current() == Ranks() and not (tmp_path / "run" / STATE).exists()


def test_a_killed_process_is_reported(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = module._start
    monkeypatch.setattr(module, "_start", lambda: started.append(start()) or started[-1])

    def kill(step: int, parts: dict[str, float]) -> None:
        if step == 4:
            os.kill(started[0].pid, signal.SIGKILL)

    setup: dict[str, Any] = {
        "recipe": Recipe(TINY, EXACT, SPACE),
        "split": split,
        "folder": tmp_path / "run",
    }
    with pytest.raises(
        StatedFailure, match="a training process ended .exit code -9.; run the same command again"
    ):
        train(2, kill, **setup)
    resumed = Trainer(**setup)
    assert resumed.state.step == 3


def test_processes_end_with_their_parent(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that is killed closes the pipe; the child, here waiting for a process that never
    comes, ends.
    """
    place = tmp_path / "place"
    place.mkdir()
    child = module._start()
    trainer = {"recipe": Recipe(TINY, EXACT, SPACE), "split": split, "folder": tmp_path}
    module._send(
        child, {"rank": 1, "size": 2, "threads": 1, "place": str(place), "trainer": trainer}
    )
    module._await_ready(child)
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(timeout=600) == 1
    child.stdout.close()
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with (
        pytest.raises(StatedFailure, match="could not start .exit code 1."),
        shared(2, split=split),
    ):
        pass
    assert Ranks.current() == Ranks()


def test_shares_and_refusals(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Ranks(rank, 3).part(8) for rank in range(3)]
    assert [list(range(8))[part] for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [default_processes(batch) for batch in (1, 2, 4, 7, 64)] == [1, 1, 2, 3, 4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert default_processes(64) == 2
    monkeypatch.undo()
    setup: dict[str, Any] = {
        "recipe": Recipe(TINY, replace(EXACT, batch_size=1), SPACE),
        "split": split,
        "folder": tmp_path,
    }
    with pytest.raises(InputError, match="a batch of 1 cannot be split over 2 processes"):
        train(2, **setup)
    assert join_torchrun("cpu") == (torch.device("cpu"), Ranks())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match="WORLD_SIZE is set, but not RANK, MASTER_ADDR, MASTER_PORT"
    ):
        join_torchrun("cpu")


def test_ranks_on_gpus_wait_for_an_evaluation_of_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(parallel, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: given.update(device=device))
    monkeypatch.setattr(
        parallel.dist,
        "init_process_group",
        lambda backend, **rest: given.update(rest, backend=backend),
    )
    for name, value in {
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "RANK": "1",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert join_torchrun("cuda")[0] == given["device"] == torch.device("cuda", 1)
    assert given["backend"] == "cpu:gloo,cuda:nccl" and given["timeout"] >= timedelta(hours=12)


@pytest.mark.slow
def test_the_command_and_torchrun_train_alike(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes started by the command, then two by torchrun, which then finds what the command
    wrote and is done.
    """
    command = [
        "--data",
        str(folder),
        "--size",
        "pico",
        "--fixed",
        "--steps",
        "2",
        "--batch-size",
        "2",
    ]
    train_command.main([*command, "--out", str(tmp_path / "ours"), "--processes", "2"])
    assert "model: " in capsys.readouterr().out
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    arguments = [
        *launcher,
        "-m",
        "rfdetr_repro.train",
        *command,
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "theirs"),
    ]
    finished = subprocess.run(
        arguments, capture_output=True, text=True, env=environment, timeout=1800
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("model: ") == 1 and "2 processes" in finished.stdout
    ours, theirs = (read_tensors(tmp_path / name / STATE)[0] for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    assert (tmp_path / "theirs" / LOG).read_text().count('"loss"') == 1
    with pytest.raises(InputError, match="a batch of 2 cannot be split over 3 processes"):
        train_command.main(
            [
                *command[:-4],
                "--steps",
                "3",
                "--batch-size",
                "2",
                "--out",
                str(tmp_path / "no"),
                "--processes",
                "3",
            ]
        )


def test_a_resumed_run_keeps_its_processes(
    split: CocoSplit,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = {
        "recipe": Recipe(TINY, replace(EXACT, steps=3), SPACE),
        "split": split,
        "folder": tmp_path,
    }
    assert run_to_the_end(TrainRequest(**short, processes=2)).steps == 3
    assert Trainer(**short).before.processes == 2
    assert run_to_the_end(TrainRequest(**short)).steps == 3
    assert "is complete: nothing to train" in capsys.readouterr().err
    monkeypatch.setattr(Ranks, "current", lambda: Ranks(0, 2))  # under torchrun
    with pytest.raises(InputError, match="2 processes of one machine are for its CPU"):
        run_to_the_end(TrainRequest(**{**short, "folder": tmp_path / "other"}, processes=2))
