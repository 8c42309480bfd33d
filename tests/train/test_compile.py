"""A training step that torch.compile compiled gives the losses and gradients of the eager step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.loader import training_batches
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.train.mask_points import PointDraws
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer

SHALLOW = replace(
    TINY,
    model=replace(
        TINY.model,
        vit_depth=1,
        feature_stages=(1,),
        global_blocks=(),
        decoder_layers=1,
        masks=False,
    ),
    arch=replace(TINY.arch, decoder_layers=1),
)
SIZES = [SHALLOW.arch.input_hw]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    folder = write_embedded(
        tmp_path_factory.mktemp("data"),
        EmbeddedConfig(64, train_images=4, val_images=1, test_images=1),
        workers=1,
    )
    return read_split(folder, "train")


@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.parity)]
)
def test_a_compiled_step_is_the_eager_one(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    """The first form does everything but generate the code, which takes minutes."""
    monkeypatch.setattr(Trainer, "compiler", compiler)
    found = {}
    for compiled in (False, True):
        recipe = Recipe(SHALLOW, replace(TRAIN, compile=compiled, precision="float32"))
        trainer = Trainer(recipe, split, tmp_path / str(compiled))
        (batches,) = training_batches(split, recipe.train, lambda step: SIZES, 0, 1, masks=False)
        torch._dynamo.utils.counters.clear()
        total, _ = trainer.loss(batches[0], SHALLOW.arch, PointDraws(3))
        total.backward()
        detector = trainer.state.detector
        gradients = {name: one.grad for name, one in detector.named_parameters()}
        found[compiled] = (total.detach(), gradients)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert graphs == (2 if compiled else 0)  # backbone and projector; selection and decoder
        assert not torch._dynamo.utils.counters["graph_break"]
    (eager, wanted), (total, gradients) = found[False], found[True]
    torch.testing.assert_close(total, eager, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        assert (gradient is None) == (wanted[name] is None), name
        if gradient is not None:
            largest = wanted[name].abs().max()
            torch.testing.assert_close(
                gradient, wanted[name], rtol=1e-3, atol=float(1e-4 * largest + 1e-9)
            )


def test_what_compiling_needs_is_said(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    recipe = Recipe(TINY, replace(TRAIN, compile=True))
    with pytest.raises(InputError, match="needs a C.. compiler"):
        Trainer(recipe, split, tmp_path)
    assert not list(tmp_path.iterdir())
