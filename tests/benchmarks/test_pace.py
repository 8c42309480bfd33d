"""The measurement of a training's pace runs, on any device, from every source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import pace

CPU = torch.device("cpu")


@pytest.mark.parametrize("source", pace.SOURCES)
def test_a_pace_is_measured_from_every_source(source: str, tmp_path: Path) -> None:
    split = pace.write_pictures(tmp_path / "data", images=3, height=30, width=40)
    assert len(split) == 3 and len(split.table.ids) == 3 * pace.OBJECTS
    trainer = pace.trainer_for(
        split, tmp_path / "run", CPU, size="pico", batch=1, precision="bf16", threads=2
    )
    found = pace.measure(trainer, source, steps=2, warm=1)
    assert found.images_per_s * found.step_ms == pytest.approx(1e3)
    assert found.loss > 0 and found.peak_bytes > 0 and found.waits is None
    assert (found.words, found.threads) == ("bfloat16", None if source == pace.MADE_UP else 2)
    assert trainer.state.step == 3


def test_the_parts_of_a_step_are_timed(tmp_path: Path) -> None:
    split = pace.write_pictures(tmp_path / "data", images=2, height=30, width=40)
    trainer = pace.trainer_for(split, tmp_path / "run", CPU, size="pico", batch=1)
    (batches, *_) = [next(pace.batches_of(trainer, pace.MADE_UP))]
    found = pace.parts_of_a_step(trainer, batches)
    names = ["copy", "backbone", "decoder", "matching", "matching and losses", "backward", "update"]
    assert list(found) == names and all(ms >= 0 for ms in found.values())


def test_waits_are_named_by_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    class Step:
        def train_step(self, batches: object) -> None:
            for _ in range(2):
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)

    found = pace.waits_of(Step(), [])
    assert len(found) == 2 and all(one.startswith("test_pace.py:") for one in found)
    assert modes == ["warn", 0]
