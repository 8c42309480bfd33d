"""The program of the page on training runs as it stands there, on a small model and data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCH, tiny_detector

import rfdetr_repro
from rfdetr_repro.api.rfdetr import RFDETR
from rfdetr_repro.model.checkpoints.native import ModelCard, read_tensors, save_detector
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def program() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def small(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Runs the program with a tiny model in place of nano, five steps and 8 images."""
    weights = tmp_path / "start.safetensors"
    detector = tiny_detector(masks=False, num_classes=18)
    names = tuple(f"class {index}" for index in range(18))
    card = ModelCard(detector.config, ARCH, names, tuple(range(18)))
    save_detector(weights, detector.state_dict(), card)

    class Small(RFDETR):
        def __init__(self, size: str, weights: str) -> None:
            assert (size, weights) == ("nano", "rf-detr-nano.pth")
            super().__init__(tmp_path / "start.safetensors", device="cpu")

        def train(self, dataset_dir: str, **words: Any) -> Path:  # type: ignore[override]
            words |= {"epochs": 1, "output_dir": tmp_path / "run", "auto_batch_target_effective": 2}
            return super().train(folder, multi_scale=False, **words)

    monkeypatch.setattr(rfdetr_repro, "RFDETR", Small, raising=False)

    def run(**more: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"__name__": "page", **more}
        exec(compile(program().replace("IMAGES = 140", "IMAGES = 8"), str(PAGE), "exec"), found)
        return found

    return run


def test_the_program_of_the_page(
    small: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = read_tensors(tmp_path / "start.safetensors")[0]
    found = small()
    said = capsys.readouterr().out
    assert re.search(r"complete at step 5; steepest step: [1-5]", said)
    assert "batch size 2, chosen for CPU" in said
    trained = read_tensors(tmp_path / "run" / MODEL)[0]
    for name, value in trained.items():
        if name.startswith("backbone."):
            assert torch.equal(value, start[name]), name
    recipe = read_tensors(tmp_path / "run" / STATE)[1]["recipe"]
    assert '"augment": "darker 0.6"' in recipe and "crowded_first" in recipe
    assert [row for row in read_log(tmp_path / "run") if row.get("split") == "val"]
    assert (tmp_path / "run" / "training" / "batch-1.png").exists()
    assert found["model"].trained


def test_the_page_shows_what_is_printed() -> None:
    """The table of the page has the columns of the display, and its lines fit 80 characters."""
    from rfdetr_repro.train.progress import DROPPED, HEADS

    text = PAGE.read_text()
    (shown,) = re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert all(len(line) <= 80 for line in shown.splitlines())
    head = next(line for line in shown.splitlines() if line.startswith("step "))
    assert head.split() == [
        "step",
        "of",
        "epoch",
        "loss",
        *(
            HEADS.get(name, name)
            for name in ("class", "l1", "giou", "mask_bce", "mask_dice", "dense")
        ),
        "lr",
        "img/s",
        "mem",
        "left",
    ]
    assert f"in this order: {', '.join(DROPPED)}" in " ".join(text.split())


def test_callbacks_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    from rfdetr_repro.api.fine_tuning import observers
    from rfdetr_repro.spec.errors import InputError

    assert observers(None) == observers({}) == []
    with pytest.raises(InputError, match="function is no TrainingCallback; subclass"):
        observers([lambda step: None])
