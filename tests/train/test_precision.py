"""What training steps compute in: the choice by device, PyTorch's settings afterwards, the types of
tensors, and where the precision is stated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.loader import training_batches
from rfdetr_repro.model import detector, selection
from rfdetr_repro.model.checkpoints.native import load_supernet, read_tensors, write_tensors
from rfdetr_repro.ops.device import products
from rfdetr_repro.records.record import ModelId, Record
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import PRECISIONS, TrainConfig
from rfdetr_repro.train import optim
from rfdetr_repro.train.mask_points import PointDraws
from rfdetr_repro.train.optim import precision
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

CUDA = torch.device("cuda")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    folder = write_embedded(
        tmp_path_factory.mktemp("data"),
        EmbeddedConfig(64, train_images=8, val_images=2, test_images=2),
        workers=1,
    )
    return read_split(folder, "train")


@pytest.mark.parametrize(
    ("asked", "capability", "words"),
    [
        ("auto", (9, 0), "bfloat16 backbone, TF32 decoder"),
        ("auto", (7, 5), "float32"),
        ("float32", (9, 0), "float32"),
        ("tf32", (8, 0), "TF32"),
        ("bf16", (9, 0), "bfloat16"),
        ("bf16", (7, 5), "bfloat16"),
    ],
)
def test_what_a_gpu_computes_in(
    asked: str, capability: tuple[int, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0)
    )
    found = precision(CUDA, TrainConfig(precision=asked))
    assert found.words == words
    assert found.tf32 == (capability >= (8, 0) and asked != "float32")


def test_tf32_needs_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="8.0 or more, not cpu"):
        precision(CPU, TrainConfig(precision="tf32"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(InputError, match="8.0 or more, not cuda"):
        precision(CUDA, TrainConfig(precision="tf32"))


def test_contradictions_are_refused() -> None:
    with pytest.raises(InputError, match="unknown precision 'half'"):
        TrainConfig(precision="half")
    for other in ({"bfloat16": False}, {"float16": True}):
        with pytest.raises(InputError, match="precision=bf16 and .* contradict"):
            TrainConfig(precision="bf16", **other)
    assert {TrainConfig(precision=one).precision for one in PRECISIONS} == set(PRECISIONS)


def settings() -> dict[str, object]:
    """PyTorch's settings of float32 products, by both interfaces; a getter that raises counts."""
    backends = torch.backends
    getters = {
        "matmul": lambda: backends.cuda.matmul.fp32_precision,
        "convolution": lambda: backends.cudnn.conv.fp32_precision,
        "recurrent": lambda: backends.cudnn.rnn.fp32_precision,
        "older matmul": lambda: backends.cuda.matmul.allow_tf32,
        "older convolution": lambda: backends.cudnn.allow_tf32,
        "word": torch.get_float32_matmul_precision,
        "CPU": lambda: backends.mkldnn.matmul.fp32_precision,
    }
    found: dict[str, object] = {}
    for name, getter in getters.items():
        try:
            found[name] = getter()
        except RuntimeError as error:
            found[name] = type(error)
    return found


@contextmanager
def kept_settings() -> Iterator[None]:
    """PyTorch's defaults before and after the block."""
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "none"
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.backends.cudnn.allow_tf32 = True


BEFORE = {
    "defaults": "pass",
    "highest": "torch.set_float32_matmul_precision('highest')",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "older on": "torch.backends.cuda.matmul.allow_tf32 = True",
    "older off": "torch.backends.cudnn.allow_tf32 = False",
    "newer on": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "newer off": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
}


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("before", BEFORE)
def test_settings_of_products_are_consistent_inside_and_restored(before: str, tf32: bool) -> None:
    with kept_settings():
        exec(BEFORE[before])
        earlier = settings()
        with products(CUDA, tf32):
            inside = settings()
        assert settings() == earlier
        with products(CPU, tf32):
            assert settings() == earlier
    assert (inside["matmul"] == "tf32", inside["convolution"] == "tf32") == (tf32, tf32)
    assert RuntimeError not in inside.values()


def one_loss(split: CocoSplit, folder: Path, asked: str) -> torch.Tensor:
    recipe = Recipe(TINY, replace(TRAIN, precision=asked))
    trainer = Trainer(recipe, split, folder)
    sizes = [TINY.arch.input_hw]
    (batches,) = training_batches(split, recipe.train, lambda step: sizes, 0, 1, masks=True)
    return trainer.loss(batches[0], TINY.arch, PointDraws(3))[0].detach()


def test_losses_and_boxes_are_float32_in_a_bfloat16_decoder(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes: list[torch.dtype] = []
    plain = selection.apply_deltas

    def watched(deltas: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        found = plain(deltas, references)
        boxes.extend((references.dtype, found.dtype))
        return found

    monkeypatch.setattr(selection, "apply_deltas", watched)
    monkeypatch.setattr(detector, "apply_deltas", watched)
    exact = one_loss(split, tmp_path / "exact", "float32")
    rounded = one_loss(split, tmp_path / "rounded", "bf16")
    assert set(boxes) == {torch.float32} and len(boxes) > 8
    assert rounded.dtype == torch.float32
    # 8 bits of each number: not equal, and not far away
    assert float(rounded) == pytest.approx(float(exact), rel=0.02) and rounded != exact


def _note(types: set[torch.dtype], module: object, given: object, out: torch.Tensor) -> None:
    types.add(out.dtype)


def test_the_decoder_computes_in_bfloat16_where_asked(split: CocoSplit, tmp_path: Path) -> None:
    found = {}
    for asked in ("float32", "bf16"):
        recipe = Recipe(TINY, replace(TRAIN, precision=asked, steps=2))
        trainer = Trainer(recipe, split, tmp_path / asked)
        model = trainer.state.detector
        types: set[torch.dtype] = set()
        for module in (
            model.backbone.blocks[0].fc1,
            model.decoder.layers[0].self_attn.out_proj,
            model.selection.class_embed,
            model.bbox_embed,
            model.mask_head.query_block.fc1,
        ):
            module.register_forward_hook(partial(_note, types))
        trainer.run()
        found[asked] = types
        assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    assert found["float32"] == {torch.float32}
    assert torch.bfloat16 in found["bf16"]


def test_the_precision_is_in_the_files_of_the_run_and_in_its_records(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "bfloat16_is_fast", lambda device: (False, "as said"))
    Trainer(Recipe(TINY, replace(TRAIN, steps=1)), split, tmp_path).run()
    _, metadata = read_tensors(tmp_path / STATE)
    assert (metadata["precision"], metadata["precisions"]) == ("None", '["float32"]')
    _, card, _ = load_supernet(tmp_path / MODEL)
    assert card.precision == "float32"
    model = ModelId("rfdetr", "x", trained_in=card.precision)
    record = Record.from_json(Record("search", model).to_json())
    assert record.model.trained_in == "float32"
    # as stored before Records stated it
    unknown = Record("search", replace(model, trained_in=None))
    assert "trained_in" not in unknown.to_json() and unknown.id == "50f1d5899b2a71ba"
    assert record.id != unknown.id


def test_a_run_resumed_in_another_precision_names_both(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(TINY, replace(TRAIN, steps=3, checkpoint_every=1))

    def stop(step: int, parts: object) -> None:
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(optim, "bfloat16_is_fast", lambda device: (False, "as said"))
    with pytest.raises(KeyboardInterrupt):
        Trainer(recipe, split, tmp_path).run(stop)
    tensors, metadata = read_tensors(tmp_path / STATE)
    monkeypatch.setattr(optim, "bfloat16_is_fast", lambda device: (True, "as said"))
    Trainer(recipe, split, tmp_path).run()
    named = "bfloat16 backbone, float32 decoder"
    assert load_supernet(tmp_path / MODEL)[1].precision == f"float32, then {named}"
    del metadata["precisions"]  # a state of an earlier version
    write_tensors(tmp_path / STATE, tensors, metadata)
    Trainer(recipe, split, tmp_path).run()
    assert load_supernet(tmp_path / MODEL)[1].precision == f"unknown, then {named}"
