"""Rows that PyTorch alone runs: the artifact is a recipe, the row says the runtime, and other
backends refuse it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.card import Card
from rfdetr_repro.baselines.library import LibraryBaseline
from rfdetr_repro.bench import models
from rfdetr_repro.bench.command.run import main
from rfdetr_repro.bench.starred import ModuleSession
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError

QUERIES = 6
TOKENS = 4
SIDE = 8


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, QUERIES * (4 + TOKENS))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.linear(images.mean((2, 3))).reshape(len(images), QUERIES, 4 + TOKENS)
        return rows[..., :4].sigmoid(), rows[..., 4:]


class Tiny(LibraryBaseline):
    """Its library's model is the module that is run."""

    def module(self, size: Any, form: str = "deployed", checkpoint: Any = None) -> Any:
        torch.manual_seed(0)
        return Small().requires_grad_(False)


@pytest.fixture
def starred(monkeypatch: pytest.MonkeyPatch) -> str:
    known = catalog.entry("grounding-dino-t")
    card = Card("GroundingDINO", "MIT", "here", "none", torch_only=known.baseline.torch_only)
    size = replace(known.size, hw=(SIDE, SIDE))
    entry = catalog.Entry(Tiny(card, "none"), size)
    monkeypatch.setitem(catalog.entries(), "grounding-dino-t", entry)
    return "grounding-dino-t"


def test_the_recipe_runs_and_says_what_it_is(starred: str, tmp_path: Path) -> None:
    artifact = models.model_artifact(starred, tmp_path)
    assert (
        artifact.path.suffix == ".recipe"
        and models.model_artifact(starred, tmp_path).sha256 == artifact.sha256
    )
    manifest: Any = artifact.manifest
    assert (
        manifest.params == 3 * 48 + 48
        and manifest.flops == 2 * 3 * 48
        and "PyTorch" in manifest.packages["star"]
    )
    session = ModuleSession(artifact, threads=1)
    first, second = (
        session.run(np.full((1, 3, SIDE, SIDE), value, np.float32)) for value in (0.1, 0.9)
    )
    assert first.scores.shape == (1, QUERIES * TOKENS) and not np.allclose(
        first.scores, second.scores
    )
    assert (np.diff(first.scores[0]) <= 0).all() and session.artifact_id.runtime.startswith(
        "torch-"
    )


def test_the_threads_of_others_stay_as_they_were(starred: str, tmp_path: Path) -> None:
    """Also where the model fails."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        session = ModuleSession(models.model_artifact(starred, tmp_path), threads=2)
        seen = []
        session._module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        session.run(np.zeros((1, 3, SIDE, SIDE), np.float32))
        assert set(seen) == {2} and torch.get_num_threads() == 3
        session._module.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.run(np.zeros((1, 3, SIDE, SIDE), np.float32))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_it_is_measured_by_name_on_torch_only(starred: str, tmp_path: Path) -> None:
    arguments = [
        "--models",
        starred,
        "--samples",
        "2",
        "--builds",
        "1",
        "--buffer-ms",
        "0",
        "--out",
        str(tmp_path / "b.jsonl"),
    ]
    with pytest.raises(InputError, match="GroundingDINO T .*PyTorch only.*--backend torch"):
        main(arguments)
    main([*arguments, "--backend", "torch"])
    (record,) = Store(tmp_path / "b.jsonl").read()
    assert (
        record.artifact
        and record.artifact.runtime.startswith("torch-")
        and record.artifact.runtime.endswith("-eager")
    )
    assert record.model.weights == "random" and record.latency and record.accuracy is None


def test_the_tiny_model_of_the_library_runs() -> None:
    pytest.importorskip(
        "transformers.models.mm_grounding_dino", reason="transformers (>= 5) is not installed"
    )
    assert {catalog.entry(name).size.family for name in ("grounding-dino-t", "llmdet-t")} == {
        "groundingdino",
        "llmdet",
    }
    with torch.device("meta"):
        module = catalog.module("grounding-dino-t", "evaluated")
    assert sum(parameter.numel() for parameter in module.parameters()) == 172_250_628
