"""SIGINT and SIGTERM in training: the state is saved at the step that is complete, and the run goes
on from there bit for bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.spec.errors import Interrupted, run_main
from rfdetr_repro.train import processes
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = [signal.SIGINT, signal.SIGTERM]
# no checkpoint before the last step
SLOW = Recipe(TINY, replace(TRAIN, steps=6, accumulate=2, checkpoint_every=500), SPACE)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def whole_run(
    split: CocoSplit, folder: Path, recipe: Recipe = SLOW, **more: Any
) -> dict[str, torch.Tensor]:
    Trainer(recipe, split, folder).run(**more)
    return read_tensors(folder / STATE)[0]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, EMA, model file and log, but for the seconds."""
    for name in (STATE, MODEL):
        ours = read_tensors(one / name)[0]
        theirs = read_tensors(other / name)[0]
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[key], theirs[key]) for key in ours
        )
    rows = [[{**row, "seconds": 0} for row in read_log(folder)] for folder in (one, other)]
    assert rows[0] == rows[1] and rows[0]


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGHUP])
def test_a_signal_saves_at_the_step_that_is_complete(
    split: CocoSplit, tmp_path: Path, number: int
) -> None:
    whole_run(split, tmp_path / "whole")
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(Interrupted) as caught:
        Trainer(SLOW, split, tmp_path / "cut").run(
            lambda step, parts: send(number) if step == 4 else None
        )
    told = (
        f"{signal.Signals(number).name} at step 4 of 6: the state is saved; run the same command "
        f"again to continue"
    )
    assert str(caught.value) == told and caught.value.exit_code == 128 + number
    assert [signal.getsignal(one) for one in SIGNALS] == before
    resumed = Trainer(SLOW, split, tmp_path / "cut")
    assert resumed.state.step == 4
    resumed.run()
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def interrupted_in(trainer: Trainer, name: str, step: int) -> None:
    """The signal comes when ``name`` of the trainer is called in ``step`` (a pass: for the second
    time); the call is made.
    """
    plain = getattr(trainer, name)
    calls = [0]

    def work(*arguments: Any) -> Any:
        calls[0] += trainer.state.step == step
        if calls[0] == (2 if name == "add_gradients" else 1):
            send(signal.SIGTERM)
        return plain(*arguments)

    setattr(trainer, name, work)


@pytest.mark.parametrize(("place", "saved"), [("add_gradients", 3), ("update", 4)])
def test_a_signal_between_micro_batches_or_in_an_update(
    split: CocoSplit, tmp_path: Path, place: str, saved: int
) -> None:
    """Half the gradients of a step are given up; an update is finished first."""
    whole_run(split, tmp_path / "whole")
    trainer = Trainer(SLOW, split, tmp_path / "cut")
    interrupted_in(trainer, place, step=3)
    with pytest.raises(Interrupted, match=f"SIGTERM at step {saved} of 6"):
        trainer.run()
    Trainer(SLOW, split, tmp_path / "cut").run()
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("step", [2, 6])
def test_an_evaluation_given_up_is_made_first_when_the_run_goes_on(
    split: CocoSplit, tmp_path: Path, step: int
) -> None:
    recipe = replace(SLOW, train=replace(SLOW.train, evaluate_every=2, patience=5))

    def rows(detector: object) -> list[dict]:
        return [{"split": "val", "ap": float(detector.class_embed.bias.detach().double().sum())}]  # type: ignore[attr-defined]

    whole_run(split, tmp_path / "whole", recipe, evaluate=rows)
    trainer = Trainer(recipe, split, tmp_path / "cut")

    def interrupted(detector: object) -> list[dict]:
        if trainer.state.step == step:
            send(signal.SIGINT)
        return rows(detector)

    with pytest.raises(
        Interrupted,
        match=f"SIGINT at step {step} of 6, without its evaluation: the state is saved",
    ):
        trainer.run(evaluate=interrupted)
    resumed = Trainer(recipe, split, tmp_path / "cut")
    assert (resumed.state.step, resumed.state.evaluation_due) == (step, True)
    resumed.run(evaluate=rows)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_signal_at_the_very_end_is_not_lost(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a flow of several stages does not begin the next."""
    plain = Trainer.export
    monkeypatch.setattr(Trainer, "export", lambda self: (send(signal.SIGTERM), plain(self))[1])
    with pytest.raises(
        Interrupted, match="SIGTERM when the training was complete: its model is saved"
    ):
        Trainer(SLOW, split, tmp_path).run()
    assert (tmp_path / MODEL).exists() and Trainer(SLOW, split, tmp_path).finished


def test_other_threads_and_ignored_signals_are_left_alone(split: CocoSplit, tmp_path: Path) -> None:
    """Python sets handlers in the main thread only; a command behind "&" has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Trainer(SLOW, split, tmp_path / "ignored").run(lambda step, parts: send(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    thread = threading.Thread(target=Trainer(SLOW, split, tmp_path / "thread").run)
    thread.start()
    thread.join()
    assert_same_run(tmp_path / "ignored", tmp_path / "thread")


@pytest.mark.slow
def test_processes_are_ended_by_the_first_one(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes to all of them, as from a batch system; the others leave it to the first,
    which saves.
    """
    train(TrainRequest(SLOW, split, tmp_path / "whole", processes=2))
    started: list[subprocess.Popen[bytes]] = []
    start = processes._start
    step = Trainer.train_step
    monkeypatch.setattr(processes, "_start", lambda: started.append(start()) or started[-1])

    def to_all(trainer: Trainer, batches: list) -> dict[str, float]:
        if trainer.state.step == 3:
            for pid in (started[0].pid, os.getpid()):
                os.kill(pid, signal.SIGTERM)
        return step(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", to_all)
        with pytest.raises(Interrupted, match="SIGTERM at step 3 of 6: the state is saved"):
            train(TrainRequest(SLOW, split, tmp_path / "cut", processes=2))
    assert started[0].poll() is not None
    train(TrainRequest(SLOW, split, tmp_path / "cut"))
    assert read_tensors(tmp_path / "cut" / STATE)[1]["processes"] == "2"
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_says_it_in_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: object) -> int:
        raise Interrupted(number, "at step 83 of 200: the state is saved")

    assert run_main(main) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    name = signal.Signals(number).name
    assert (
        capsys.readouterr().err == f"interrupted by {name} at step 83 of 200: the state is saved\n"
    )


SCRIPT = """
    import os, signal, sys
    from rfdetr_repro.spec.errors import run_main
    from rfdetr_repro.train import __main__ as command
    from rfdetr_repro.train.trainer import Trainer

    step = Trainer.train_step
    def until(self, batches):
        if self.state.step == 2:
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        return step(self, batches)
    if sys.argv[1] != "none":
        Trainer.train_step = until
    raise SystemExit(run_main(command.main, sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.parity), signal.SIGTERM]
)
def test_the_training_command_ends_with_the_code_of_its_signal(
    folder: Path, tmp_path: Path, number: int
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "OMP_NUM_THREADS": "1",
    }
    given = [
        "--data",
        str(folder),
        "--out",
        str(tmp_path),
        "--fixed",
        "--steps",
        "4",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]

    def command(name: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", textwrap.dedent(SCRIPT), name, *given]
        return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)

    done = command(signal.Signals(number).name)
    assert done.returncode == 128 + number, done.stderr
    told = (
        f"interrupted by {signal.Signals(number).name} at step 2 of 4: the state is saved; run the "
        f"same command again to continue"
    )
    assert done.stderr.splitlines()[-1] == told and "Traceback" not in done.stderr
    assert not (tmp_path / MODEL).exists()
    resumed = command("none")
    assert resumed.returncode == 0 and (tmp_path / MODEL).exists(), resumed.stderr


def signal_at(step: int, number: int) -> Callable[[Trainer, list], dict[str, float]]:
    plain = Trainer.train_step

    def until(self: Trainer, batches: list) -> dict[str, float]:
        if self.state.step == step:
            send(number)
        return plain(self, batches)

    return until


def test_inside_the_whole_flow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfdetr_repro.reproduce.run import Reproduction
    from rfdetr_repro.spec.campaign import EMBEDDED

    campaign = replace(
        EMBEDDED, preset=TINY, weights=None, space=SPACE, train=SLOW.train, data=folder
    )
    monkeypatch.setattr(Trainer, "train_step", signal_at(3, signal.SIGTERM))
    with pytest.raises(Interrupted, match="SIGTERM at step 3 of 6: the state is saved"):
        Reproduction(campaign, tmp_path / "run", "test").run()
    (state,) = (tmp_path / "run").rglob(STATE)
    assert read_tensors(state)[1]["step"] == "3"
    assert not list((tmp_path / "run").rglob(MODEL)) and not list(
        (tmp_path / "run").rglob("*.onnx")
    )


def test_inside_fine_tuning(
    folder: Path,
    split: CocoSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rfdetr_repro.search import finetune

    whole_run(split, tmp_path / "supernet", replace(SLOW, train=replace(TRAIN, steps=1)))
    monkeypatch.setattr(Trainer, "train_step", signal_at(2, signal.SIGINT))
    run = ["--run", str(tmp_path / "supernet"), "--data", str(folder)]
    out = ["--out", str(tmp_path / "tuned")]
    given = [
        *run,
        *out,
        "--arch",
        "r64-p16-w1-d1-q7",
        "--steps",
        "4",
        "--processes",
        "1",
        "--set",
        "batch_size=2",
    ]
    assert run_main(finetune.main, given) == 130
    assert "interrupted by SIGINT at step 2 of 4: the state is saved" in capsys.readouterr().err
    assert (
        read_tensors(tmp_path / "tuned" / STATE)[1]["step"] == "2"
        and not (tmp_path / "tuned" / MODEL).exists()
    )
