"""Upstream's keywords, methods and class names: followed with upstream's defaults, or refused with
what to use instead.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY

import rfdetr_repro
from rfdetr_repro.api import RFDETR
from rfdetr_repro.bench.accuracy import label_map
from rfdetr_repro.data.coco import ClassMap
from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import UNUSED
from rfdetr_repro.spec.presets import PRESETS
from rfdetr_repro.train.upstream_words import NEVER_STOPS, from_upstream, steps_per_epoch


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setitem(
        PRESETS, "tiny-boxes", replace(TINY, model=replace(TINY.model, masks=False))
    )


BASE = {"epochs": 10, "batch_size": 4, "grad_accum_steps": 4}


def recipe(images: int = 800, evaluated: bool = True, **words: Any) -> Any:
    return from_upstream(images, BASE, words, evaluated)


def test_defaults_are_upstreams() -> None:
    """Rates, average, sizes, evaluation after every epoch, the better of average and raw weights,
    no early stop.
    """
    train = recipe().train
    assert (train.steps, train.batch_size, train.accumulate) == (500, 4, 4)
    assert (train.lr, train.lr_encoder, train.weight_decay) == (1e-4, 1.5e-4, 1e-4)
    assert (train.layer_decay, train.component_decay, train.clip_norm) == (0.8, 0.7, 0.1)
    assert (train.ema_decay, train.ema_tau, train.warmup_steps, train.cooldown_share) == (
        0.993,
        100,
        0,
        0,
    )
    assert (
        train.multi_scale
        and train.evaluate_every == 50
        and train.patience == NEVER_STOPS > train.steps
    )
    assert recipe(lr=2e-4).train.lr_encoder == 1.5e-4  # a rate of its own


@pytest.mark.parametrize(
    ("images", "expected"), [(800, 50), (79, 5), (80, 5), (96, 6), (1, 5), (815, 50)]
)
def test_tiny_sets_are_drawn_repeatedly(images: int, expected: int) -> None:
    """rfdetr: fewer images than five effective batches -> five of them with replacement; else whole
    batches only.
    """
    assert steps_per_epoch(images, 16) == expected


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ({"warmup_epochs": 1.5}, {"warmup_steps": 75}),
        ({"eval_interval": 2}, {"evaluate_every": 100}),
        ({"checkpoint_interval": 3}, {"checkpoint_every": 150}),
        ({"early_stopping": True}, {"patience": 10}),
        ({"early_stopping": True, "early_stopping_patience": 4}, {"patience": 4}),
        ({"early_stopping_patience": 4}, {"patience": NEVER_STOPS}),
        ({"gradient_checkpointing": True}, {"checkpoint_activations": True}),
        (
            {"lr_vit_layer_decay": 0.9, "lr_component_decay": 0.6},
            {"layer_decay": 0.9, "component_decay": 0.6},
        ),
        (
            {"cls_loss_coef": 2.0, "mask_ce_loss_coef": 1.0},
            {"class_weight": 2.0, "mask_bce_weight": 1.0},
        ),
        ({"clip_max_norm": 0.5, "seed": 7}, {"clip_norm": 0.5, "seed": 7}),
        ({"seed": None}, {"seed": 0}),
        ({"freeze_encoder": True}, {"freeze": ("backbone",)}),
        ({"freeze": "decoder", "freeze_encoder": True}, {"freeze": ("backbone", "decoder")}),
        ({"multi_scale": False}, {"multi_scale": False}),
        ({"multi_scale": "off"}, {"multi_scale": False}),
        ({"multi_scale": "per-batch"}, {"multi_scale": True}),
        ({"amp": False}, {"bfloat16": False}),
        ({"amp_dtype": "fp16"}, {"bfloat16": False, "float16": True}),
        ({"amp": False, "amp_dtype": "bf16"}, {"bfloat16": False, "float16": False}),
        # our own words
        ({"evaluate_every": 7, "patience": 2}, {"evaluate_every": 7, "patience": 2}),
    ],
)
def test_words_become_settings(words: dict[str, Any], fields: dict[str, Any]) -> None:
    train = recipe(**words).train
    assert {name: getattr(train, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ({"use_ema": False}, "average"),
        ({"clearml": True}, "tensorboard"),
        ({"multi_scale": "per-sample"}, "one size per step"),
        ({"expanded_scales": False}, "multi_scale=False"),
        ({"lr_scheduler": "cosine"}, "cooldown_share"),
        ({"lr_drop": 5}, "cooldown_share"),
        ({"drop_path": 0.1}, "fixed"),
        ({"devices": 4}, "torchrun"),
        ({"aug_config": {}}, "flip_probability"),
        ({"warmup_epochs": "one"}, "number of epochs"),
        ({"learning_rate": 1}, "did you mean"),
        ({"weight_decy": 1}, "did you mean weight_decay"),
        ({"early_stoping": True}, "did you mean early_stopping"),
    ],
)
def test_what_cannot_be_followed_names_what_to_use(words: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        recipe(**words)


def test_without_a_val_split_the_last_average_is_the_model_and_that_is_said() -> None:
    asked = recipe(evaluated=False, eval_interval=1)
    assert (asked.train.evaluate_every, asked.train.patience) == (0, 0)
    assert any("no val split" in line for line in asked.lines)
    with pytest.raises(InputError, match="early_stopping needs a val split"):
        recipe(evaluated=False, early_stopping=True)


def test_differences_are_said() -> None:
    lines = "\n".join(recipe(40, num_workers=4, eval_max_dets=500).lines)
    assert "10 epochs of 5 steps of 4 x 4 images; 40 images are fewer than 5 steps" in lines
    assert (
        "crop" in lines
        and "without effect here: eval_max_dets" in lines
        and "tensorboard=True" in lines
    )
    assert "tensorboard" not in "\n".join(recipe(tensorboard=True, crop_probability=0.0).lines)
    assert "crop" not in "\n".join(recipe(crop_probability=0.0).lines)


def test_what_the_run_must_agree_with(small_sizes: None, tmp_path: Path) -> None:
    from samples_coco import random_document, write_folder

    folder = write_folder(tmp_path / "data", random_document(1, images=4), "train")
    model = RFDETR("tiny", device="cpu")
    for words, reason in (
        ({"device": "cuda"}, "this model is on cpu"),
        ({"class_names": ["other"]}, "class_names"),
        ({"group_detr": 99}, "query groups"),
        ({"resolution": 96, "shape": (96, 96)}, "shape and resolution"),
        ({"resolution": 97}, "nearest"),
    ):
        with pytest.raises(InputError, match=reason):
            model.train(folder, epochs=1, output_dir=tmp_path / "run", **words)
    assert not (tmp_path / "run").exists()


# -- classes and methods ---------------------------------------------------------------------------


def test_classes_by_upstreams_names() -> None:
    assert rfdetr_repro.RFDETRNano.__name__ == "RFDETRNano" and issubclass(
        rfdetr_repro.RFDETRSegMedium, RFDETR
    )
    assert (
        rfdetr_repro.RFDETRSegMedium.size == "seg-medium" and rfdetr_repro.RFDETRBase.size == "base"
    )
    with pytest.raises(AttributeError, match="RFDETRNano"):
        rfdetr_repro.RFDETRNanoo  # noqa: B018


def test_a_class_takes_upstreams_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rfdetr_repro.model.checkpoints import upstream

    monkeypatch.setitem(PRESETS, "nano", TINY)
    assert upstream.UPSTREAM_CLASSES["RFDETRNano"] == "nano"
    side = 2 * TINY.arch.patch * TINY.arch.windows
    model = rfdetr_repro.RFDETRNano(num_classes=2, resolution=side, device="cpu")
    assert model.card.arch.input_hw == (side, side) and model.detector.config.num_classes == 2
    # still the whole model, to be trained on
    assert model.detector.config.groups == TINY.model.groups
    model.save(tmp_path / "two.pth")
    again = RFDETR.from_checkpoint(tmp_path / "two.pth", device="cpu")
    assert (
        again.card.arch.input_hw == (side, side) and again.get_model_config()["resolution"] == side
    )
    with pytest.raises(InputError, match="did you mean num_classes"):
        rfdetr_repro.RFDETRNano(num_class=2)
    with pytest.raises(InputError, match="not a positive whole number"):
        rfdetr_repro.RFDETRNano(num_classes=0)


def test_methods_of_upstream(
    small_sizes: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = RFDETR("tiny-boxes", device="cpu")
    model.optimize_for_inference(compile=True, batch_size=1)
    assert "nothing to prepare" in capsys.readouterr().out
    with pytest.raises(InputError, match="precision fp16"):
        model.optimize_for_inference(dtype=torch.float16)
    model.remove_optimized_model()
    with pytest.raises(InputError, match="save"):
        model.deploy_to_roboflow("workspace", "project", 1)
    artifact = model.export(
        output_dir=tmp_path / "out", format="onnx", opset_version=17, simplify=False
    )
    assert (
        artifact.path == tmp_path / "out" / "inference_model.onnx"
        and artifact.manifest.contract == "upstream"
    )
    for words, hint in (
        ({"format": "tensorrt"}, "--to"),
        ({"dynamic_batch": True}, "batch"),
        ({"opset_version": 11}, "17"),
        ({"outputdir": "x"}, "did you mean output_dir"),
        ({"output_dir": "x"}, "both"),
    ):
        with pytest.raises(InputError, match=hint):
            model.export(tmp_path / "one.onnx", **words)


# -- classes of data and model ---------------------------------------------------------------------


class Split:
    """Stands in for a split: its classes and what it is called."""

    name = "data"
    split = "val"

    def __init__(self, names: tuple[str, ...], ids: tuple[int, ...]) -> None:
        self.classes = ClassMap(ids, names)


def card(names: tuple[str, ...], ids: tuple[int, ...]) -> ModelCard:
    return ModelCard(replace(TINY.model, num_classes=len(names)), TINY.arch, names, ids)


@pytest.mark.parametrize(
    ("names", "ids", "expected"),
    [
        (("cat", "dog"), (1, 2), [0, 1]),  # ids and names agree
        # upstream since 1.6: labels from 0, data from 1
        (("cat", "dog", UNUSED), (0, 1, 2), [0, 1, -1]),
        ((UNUSED, "cat", "dog"), (0, 1, 2), [-1, 0, 1]),
        (("dog", "cat"), (0, 1), [1, 0]),  # another order
        (("bird", "dog", "cat"), (0, 1, 2), [-1, 1, 0]),
        (("dog", "cat"), (1, 2), [1, 0]),  # the same ids with other names: names decide
    ],
)
def test_models_are_joined_to_data_by_name(
    names: tuple[str, ...], ids: tuple[int, ...], expected: list[int]
) -> None:
    found = label_map(card(names, ids), Split(("cat", "dog"), (1, 2)))  # type: ignore[arg-type]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("cat", "bird"), "its classes are cat, bird"),
        (("cat", "cat"), "its classes are cat"),
        (("Cat", "DOG"), "the model's name is 'Cat'"),
        (("class 0", "class 1"), "give labels"),
    ],
)
def test_classes_that_do_not_fit_are_refused_with_a_hint(names: tuple[str, ...], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        label_map(card(names, (0, 1)), Split(("cat", "dog"), (1, 2)))  # type: ignore[arg-type]
