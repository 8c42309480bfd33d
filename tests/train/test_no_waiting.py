"""A step on a GPU waits for the GPU once per pass, in the matcher, and learns later whether its
numbers were finite. Here the waits are counted, on the CPU and on PyTorch's device without data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ARCH, SPACE, TINY, TRAIN, images_for, tiny_detector
from torch.utils._python_dispatch import TorchDispatchMode

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.transforms import Target
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.train import loop, mask_points, matcher, parallel
from rfdetr_repro.train.callbacks import TrainingCallback, TrainingStep
from rfdetr_repro.train.losses import detection_losses
from rfdetr_repro.train.mask_points import PointDraws
from rfdetr_repro.train.parallel import Ranks
from rfdetr_repro.train.parts import LossParts
from rfdetr_repro.train.processes import shared
from rfdetr_repro.train.progress import TrainingDisplay
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import Trainer

META = torch.device("meta")
READS = ("item", "tolist", "numpy", "__float__", "__int__", "__bool__", "cpu")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    folder = write_embedded(
        tmp_path_factory.mktemp("data"),
        EmbeddedConfig(64, train_images=8, val_images=2, test_images=2),
        workers=1,
    )
    return read_split(folder, "train")


def recipe(**changes: Any) -> Recipe:
    return Recipe(TINY, replace(TRAIN, dense_weight=0.0, **changes), SPACE)


def as_on_a_gpu(trainer: Trainer) -> Trainer:
    trainer.reads_later = True
    return trainer


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the program asks for the value of a tensor, by method."""
    counts: Counter[str] = Counter()

    def counted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def method(tensor: torch.Tensor, *rest: Any, **named: Any) -> Any:
            counts[name] += 1
            return plain(tensor, *rest, **named)

        return method

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    return counts


def test_the_run_equals_that_of_a_trainer_that_reads_at_once(
    split: CocoSplit, tmp_path: Path
) -> None:
    for name, prepare in (("now", lambda one: one), ("later", as_on_a_gpu)):
        prepare(Trainer(recipe(), split, tmp_path / name)).run()
    now, later = (read_tensors(tmp_path / name / STATE)[0] for name in ("now", "later"))
    assert now.keys() == later.keys()
    assert all(torch.equal(now[name], later[name]) for name in now)
    rows = [
        [{**row, "seconds": 0} for row in read_log(tmp_path / name)] for name in ("now", "later")
    ]
    assert rows[0] == rows[1] and rows[0][-1]["step"] == 6 and rows[0][-1]["grad_norm"] > 0


def test_steps_read_nothing_but_the_costs(
    split: CocoSplit, tmp_path: Path, reads: Counter[str]
) -> None:
    trainer = as_on_a_gpu(Trainer(recipe(steps=12, checkpoint_every=12), split, tmp_path))
    stream = trainer._batches(evaluated=False)
    per_step = []
    for _ in range(9):
        batches = next(stream)
        reads.clear()
        parts = trainer.train_step(batches)
        per_step.append(dict(reads))
        assert isinstance(parts, LossParts) and not parts.is_read
    stream.close()
    # cpu and numpy: the matcher's costs; tolist: of the step before, which are there already, and
    # of no step in the first
    assert per_step[0] == {"cpu": 1, "numpy": 1}
    assert per_step[1:] == [{"cpu": 1, "numpy": 1, "tolist": 1}] * 8
    reads.clear()
    assert parts["loss"] > 0 and parts["grad_norm"] > 0 and len(parts) == 17
    assert reads == {"tolist": 1} and parts.is_read


def test_steps_of_two_processes_read_nothing_more(
    split: CocoSplit, tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hosts exchange is read, and lies on no device; with an array of objects per pass and
    one of used parameters per step.
    """
    plain = Ranks.sum
    exchanged: list[int] = []
    counts: list[dict[str, int]] = []
    step = Trainer.train_step

    def summed(self: Ranks, values: Any) -> list[float]:
        before = reads.copy()
        exchanged.append(len(values))
        found = plain(self, values)
        reads.clear()
        reads.update(before)
        return found

    def counted(self: Trainer, batches: Any) -> Any:
        reads.clear()
        parts = step(self, batches)
        counts.append(dict(reads))
        return parts

    monkeypatch.setattr(Ranks, "sum", summed)
    monkeypatch.setattr(Trainer, "train_step", counted)
    config = recipe(steps=4, checkpoint_every=4)
    setup: dict[str, Any] = {"recipe": config, "split": split, "folder": tmp_path}
    with shared(2, **setup):
        trainer = as_on_a_gpu(Trainer(**setup))
        trainer.run()
    assert counts == [{"cpu": 1, "numpy": 1}] + [{"cpu": 1, "numpy": 1, "tolist": 1}] * 3
    parameters = sum(len(group["params"]) for group in trainer.state.optimizer.param_groups)
    assert exchanged == [1, parameters] * 4


def test_the_exchange_of_gradients_asks_a_device_for_no_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the device without data a value cannot be read."""
    devices: list[str] = []

    def exchange(tensor: torch.Tensor) -> None:  # with a rank that uses the second parameter
        devices.append(tensor.device.type)
        if tensor.device.type == "cpu":
            tensor += torch.tensor([0.0, 1.0, 0.0], dtype=tensor.dtype)

    monkeypatch.setattr(parallel.dist, "all_reduce", exchange)
    ranks = Ranks(0, 2)
    parameters = [torch.empty(2, 3, device=META, requires_grad=True) for _ in range(3)]
    parameters[0].grad = torch.empty(2, 3, device=META)
    ranks.sum_gradients(parameters)
    assert [one.grad is not None for one in parameters] == [True, True, False]
    LossParts.of({"loss": torch.empty((), device=META)}, ranks, META)
    assert devices == ["cpu", "meta", "meta"]


class Counting(TorchDispatchMode):
    """Copies from the CPU to the device without data."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0

    def __torch_dispatch__(
        self, op: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = op(*args, **(kwargs or {}))
        given = args[0] if args else None
        if (
            isinstance(result, torch.Tensor)
            and result.device.type == "meta"
            and isinstance(given, torch.Tensor)
            and given.device.type == "cpu"
        ):
            self.copies += 1
        return result


def test_a_pass_asks_for_no_value_but_the_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device without data a value cannot be read, nor a number of elements that follows
    from values; and no copy to the device is made that the program would wait for.
    """
    waits = []
    sends = []

    def on_host(costs: torch.Tensor) -> np.ndarray:
        waits.append(tuple(costs.shape))
        return np.random.default_rng(0).random(tuple(costs.shape))

    def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        sends.append(tensor.shape)
        return tensor.to(device)

    monkeypatch.setattr(matcher, "_on_host", on_host)
    monkeypatch.setattr(matcher, "sent", sent)
    monkeypatch.setattr(mask_points, "sent", sent)
    detector = tiny_detector().to(META)
    images = images_for(ARCH, 2).to(META)
    targets = [
        Target(
            torch.empty(count, 4, device=META),
            torch.empty(count, dtype=torch.long, device=META),
            torch.empty(count, 64, 64, dtype=torch.bool, device=META),
            count,
        )
        for count in (3, 2)
    ]
    with Counting() as counting:
        maps = detector.features(images, 16, 1)
        outputs = detector.training_outputs(maps, (64, 64), ARCH)
        total, parts = detection_losses(outputs, targets, 3, TRAIN, PointDraws(0))
        total.backward()
    assert len(waits) == 1 and waits[0][0] == 5  # once for all stages and images
    assert counting.copies == len(sends) > 0
    assert all(part.device == META for part in parts.values()) and len(parts) == 15


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_ends_the_next(
    split: CocoSplit, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = as_on_a_gpu(Trainer(recipe(steps=9, checkpoint_every=2), split, tmp_path))
    plain = Trainer.loss
    weights: dict[int, list[torch.Tensor]] = {}

    def broken(self: Trainer, *rest: Any) -> Any:
        step = self.state.step
        weights[step] = [one.detach().clone() for one in self.state.detector.parameters()]
        total, parts = plain(self, *rest)
        if step == 4 and what == "loss":
            total = total + torch.inf
        if step == 4 and what == "gradient":
            total = total + (self.state.detector.class_embed.bias * 0).sqrt().sum()
        return total, parts

    monkeypatch.setattr(Trainer, "loss", broken)
    with pytest.raises(StatedFailure, match=f"{what} is not finite at step 4 with .*in images"):
        trainer.run()
    assert sorted(weights) == [0, 1, 2, 3, 4, 5]
    assert all(torch.equal(*pair) for pair in zip(weights[4], weights[5], strict=True))
    assert not all(torch.equal(*pair) for pair in zip(weights[3], weights[4], strict=True))
    resumed = Trainer(recipe(steps=9, checkpoint_every=2), split, tmp_path)
    assert resumed.state.step == 4
    kept = resumed.state.detector.parameters()
    assert all(torch.equal(*pair) for pair in zip(kept, weights[4], strict=True))


@pytest.mark.parametrize("every", [1, 5])
def test_nothing_is_saved_before_the_numbers_are_known(
    split: CocoSplit, tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is the last before a checkpoint, or the last of all."""
    trainer = as_on_a_gpu(Trainer(recipe(steps=5, checkpoint_every=every), split, tmp_path))
    plain = Trainer.loss

    def broken(self: Trainer, *rest: Any) -> Any:
        total, parts = plain(self, *rest)
        return (total * torch.nan if self.state.step == 4 else total), parts

    monkeypatch.setattr(Trainer, "loss", broken)
    with pytest.raises(StatedFailure, match="not finite at step 4"):
        trainer.run()
    if every == 1:
        assert Trainer(recipe(steps=5, checkpoint_every=1), split, tmp_path).state.step == 4
    else:
        assert not (tmp_path / STATE).exists()


class Silent(TrainingCallback):
    """Looks at no number."""

    def __init__(self) -> None:
        self.steps: list[TrainingStep] = []

    def on_step(self, step: TrainingStep) -> None:
        self.steps.append(step)


def test_observers_wait_only_for_what_they_read(
    split: CocoSplit, tmp_path: Path, reads: Counter[str]
) -> None:
    config = recipe(steps=40, checkpoint_every=40)
    trainer = as_on_a_gpu(Trainer(config, split, tmp_path))
    silent = Silent()
    at_lines: list[int] = []

    class Display(TrainingDisplay):
        def _print(self, step: TrainingStep) -> None:
            at_lines.append(step.step)
            super()._print(step)

    trainer.run(callbacks=[silent, Display(evaluated=False)])
    assert at_lines[0] == 1 and len(at_lines) == 21
    # costs of each step, and one read of each step's numbers by Unread and by a line of the table
    assert reads["cpu"] <= 40 + 20 and reads["item"] == 0
    losses = silent.steps[7].losses
    assert losses["loss"] == pytest.approx(sum(losses.values()) - losses["loss"], rel=1e-5)
    assert "loss" not in silent.steps[7].details and silent.steps[7].details["grad_norm"] > 0


def test_parts_of_several_types_are_copied_once(reads: Counter[str]) -> None:
    tensors = {"loss": torch.tensor(1.5), "layer1/l1": torch.tensor(0.1, dtype=torch.float64)}
    parts = LossParts.of(tensors, Ranks(), torch.device("cpu"))
    more = parts.also("grad_norm", torch.tensor(2.0))
    assert "grad_norm" in more and "grad_norm" not in parts and next(iter(more)) == "loss"
    assert not reads and not more.is_read
    assert dict(more) == {"loss": 1.5, "layer1/l1": 0.1, "grad_norm": 2.0}
    assert reads["tolist"] == 1 and repr(parts) == "{'loss': 1.5, 'layer1/l1': 0.1}"


@pytest.mark.parametrize("free", [True, False])
def test_processes_make_the_batches_of_a_run_on_a_gpu(
    split: CocoSplit,
    tmp_path: Path,
    free: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the shared memory holds no batch, threads do, and that is said."""
    made: list[Any] = []
    monkeypatch.setattr(loop, "batches_by_processes", lambda *given, **more: made.append(given))
    monkeypatch.setattr(loop, "training_batches", lambda *given, **more: made.append(more))
    monkeypatch.setattr(loop, "default_threads", lambda processes: 16)
    monkeypatch.setattr(loop, "fitting_processes", lambda asked, size: asked if free else 0)
    for threads in (None, 3):
        trainer = Trainer(recipe(steps=9), split, tmp_path, loader_threads=threads)
        trainer.device = torch.device("cuda")
        trainer.state.step = 4
        with caplog.at_level("WARNING"):
            trainer._made_batches()
    if free:
        assert [(steps, count) for _, _, steps, count in made] == [
            (range(4, 9), 15),
            (range(4, 9), 3),
        ]
    else:
        assert [one["making"].threads for one in made] == [16, 3]
        assert all(one["making"].pinned and one["stop_step"] == 9 for one in made)
        assert "larger --shm-size" in caplog.text
