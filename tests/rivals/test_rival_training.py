"""The training of a rival: the loss is transformers' own on this package's batches, a run that was
cut equals one that was not, bit for bit, and its files are what transformers and ONNX Runtime read.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("transformers.models.lw_detr", reason="transformers (>= 5) is missing")

from rfdetr_repro.baselines.baseline import Size
from rfdetr_repro.bench.accuracy import detect_split
from rfdetr_repro.data.coco import ClassMap, CocoSplit, read_split
from rfdetr_repro.data.formats.layouts import locate
from rfdetr_repro.data.loader import training_batches
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.data.transforms import Target
from rfdetr_repro.model.checkpoints.native import write_tensors
from rfdetr_repro.rivals import library
from rfdetr_repro.rivals.artifacts import rival_artifact
from rfdetr_repro.rivals.module import RivalModule
from rfdetr_repro.rivals.names import PICO_SIZES, rival_sizes
from rfdetr_repro.rivals.recipe import RivalRecipe, rival_recipe
from rfdetr_repro.rivals.trainer import MODEL, RivalTrainer
from rfdetr_repro.rivals.training import (
    RivalRequest,
    rival_accuracies,
    rival_detections,
    train_rival,
)
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError, Interrupted
from rfdetr_repro.spec.presets import PICO_TRAIN
from rfdetr_repro.train.mask_points import PointDraws
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.state import STATE

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64
CPU = torch.device("cpu")
# the smallest size of DEIMv2, where this transformers and this package have one
SMALLEST = {"deimv2": "deimv2-atto"}
FAMILIES = {size.family: name for name, size in PICO_SIZES.items()} | {
    family: name for family, name in SMALLEST.items() if name in rival_sizes()
}
OFTEN = ("dfine", "lwdetr")  # the families of the published comparisons


def small(name: str) -> Size:
    return replace(rival_sizes()[name], hw=(SIDE, SIDE))


def recipe_of(name: str, split: CocoSplit, **settings: Any) -> RivalRecipe:
    size = small(name)
    given = {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "warmup_steps": 1, **settings}
    config = replace(rival_recipe(size, PICO_TRAIN), evaluate_every=0, **given)
    fields = library.configuration(size, split.classes, pretrained=False, queries=12)
    return RivalRecipe(size, config, json.dumps(fields, sort_keys=True), library.check_package())


def trainer_of(name: str, split: CocoSplit, folder: Path, **settings: Any) -> RivalTrainer:
    return RivalTrainer(recipe_of(name, split, **settings), split, folder)


def raw_inputs(
    data: Path, split: CocoSplit, size: Size, ids: list[Any]
) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Pixels and labels of images as transformers documents them, from the JSON file and Pillow."""
    document = json.loads(locate(DataSource(data), "train").path.read_text())
    names = {image["id"]: image for image in document["images"]}
    label_of = {number: label for label, number in enumerate(split.classes.category_ids)}
    pixels, labels = [], []
    for number in ids:
        image = names[number]
        with Image.open(data / "train" / image["file_name"]) as opened:
            resized = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        values = np.asarray(resized, dtype=np.float32) / 255
        if size.normalise == "imagenet":
            values = (values - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        pixels.append(torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1))
        own = [one for one in document["annotations"] if one["image_id"] == number]
        boxes = [
            (
                (x + w / 2) / image["width"],
                (y + h / 2) / image["height"],
                w / image["width"],
                h / image["height"],
            )
            for x, y, w, h in (one["bbox"] for one in own)
        ]
        labels.append(
            {
                "class_labels": torch.tensor([label_of[one["category_id"]] for one in own]),
                "boxes": torch.tensor(boxes, dtype=torch.float32),
            }
        )
    return torch.stack(pixels), labels


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_the_loss_is_that_of_transformers_with_labels(
    folder: Path, split: CocoSplit, tmp_path: Path, name: str
) -> None:
    """The oracle builds its model, its pixels and its labels by itself."""
    trainer = trainer_of(name, split, tmp_path, flip_probability=0.0)
    trainer.state.detector.train()
    config = trainer.recipe.train
    stream = training_batches(split, config, lambda step: [(SIDE, SIDE)], 0, 1, masks=False)
    [[batch]] = list(stream)
    total, parts = trainer.loss(batch, None, PointDraws(7))

    ids = [target.image_id for target in batch.targets]
    pixels, labels = raw_inputs(folder, split, trainer.recipe.size, ids)
    torch.manual_seed(config.seed)
    oracle = library.from_config(trainer.recipe.size, json.loads(trainer.recipe.model)).train()
    torch.manual_seed(7)
    expected = oracle(pixel_values=pixels, labels=labels).loss
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert sum(parts.values()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert {part.rpartition("/")[2] for part in parts} >= {"class", "l1", "giou"}


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_images_without_objects_have_a_loss_with_gradients(split: CocoSplit, name: str) -> None:
    size = small(name)
    fields = library.configuration(size, split.classes, pretrained=False, queries=12)
    module = RivalModule(library.from_config(size, fields), size.normalise, size.hw).train()
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None, 1)
    total, _ = module.losses(torch.randn(2, 3, SIDE, SIDE), [nothing, nothing])
    total.backward()
    assert torch.isfinite(total)
    grads = [one.grad for one in module.parameters() if one.grad is not None]
    assert grads and all(bool(torch.isfinite(grad).all()) for grad in grads)


def assert_same(one: Path, other: Path) -> None:
    for name in (STATE, MODEL):
        ours, theirs = (load_file(run / name) for run in (one, other))
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    rows = [[{**row, "seconds": 0} for row in read_log(run)] for run in (one, other)]
    assert rows[0] == rows[1] and rows[0]


@pytest.mark.parametrize("name", ["dfine-pico", "lwdetr-pico"])
def test_a_signal_after_a_forward_pass_leaves_no_trace(
    split: CocoSplit, tmp_path: Path, name: str
) -> None:
    """The statistics of normalisations change in the forward pass of the step that is given up."""
    trainer_of(name, split, tmp_path / "whole").run()
    trainer = trainer_of(name, split, tmp_path / "cut")
    plain = trainer.loss

    def loss(*given: Any) -> Any:
        found = plain(*given)
        if trainer.state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    trainer.loss = loss  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="SIGTERM at step 2 of 4"):
        trainer.run()
    resumed = trainer_of(name, split, tmp_path / "cut")
    assert resumed.state.step == 2
    resumed.run()
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_a_killed_run_goes_on_from_its_last_save(
    folder: Path, split: CocoSplit, tmp_path: Path
) -> None:
    trainer_of("rtdetr-pico", split, tmp_path / "whole").run()
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_rival_training import trainer_of
        from rfdetr_repro.data.coco import read_split
        split = read_split(Path({str(folder)!r}), "train")
        trainer = trainer_of("rtdetr-pico", split, Path({str(tmp_path / "cut")!r}))
        trainer.run(lambda step, parts: step == 3 and os.kill(os.getpid(), signal.SIGKILL))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    torch_threads = torch.get_num_threads()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    resumed = trainer_of("rtdetr-pico", split, tmp_path / "cut")
    assert resumed.state.step == 2
    resumed.run()
    if torch_threads == 1:  # sums depend on the number of threads
        assert_same(tmp_path / "cut", tmp_path / "whole")


def test_another_run_in_the_folder_is_refused(split: CocoSplit, tmp_path: Path) -> None:
    trainer_of("lwdetr-pico", split, tmp_path, steps=1).run()
    with pytest.raises(InputError, match=r"train.lr was 0.0007, now 0.001"):
        trainer_of("lwdetr-pico", split, tmp_path, steps=1, lr=1e-3)
    with pytest.raises(InputError, match="started with other data or settings"):
        trainer_of("rtdetr-pico", split, tmp_path, steps=1)


def test_what_the_authors_do_not_train_stays(split: CocoSplit, tmp_path: Path) -> None:
    """D-FINE's weighting of distributions has no gradient; everything else is in the optimizer."""
    trainer = trainer_of("dfine-pico", split, tmp_path, steps=1)
    fixed = {
        name for name, one in trainer.state.detector.named_parameters() if not one.requires_grad
    }
    assert {name.rpartition(".")[2] for name in fixed} == {"up", "reg_scale"}
    groups = trainer.state.optimizer.param_groups
    trained = sum(one.requires_grad for one in trainer.state.detector.parameters())
    assert sum(len(group["params"]) for group in groups) == trained
    assert {group["weight_decay"] for group in groups} == {0.0, 1e-4}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=family, marks=[] if family in OFTEN else pytest.mark.parity)
        for family, name in FAMILIES.items()
    ],
)
def test_the_files_are_those_of_transformers_and_of_onnx_runtime(
    folder: Path, split: CocoSplit, tmp_path: Path, name: str
) -> None:
    """transformers reads weights and configuration, and the artifact finds in ONNX Runtime what the
    averaged weights find in PyTorch.
    """
    recipe = recipe_of(name, split, steps=2)
    done = train_rival(RivalRequest(recipe, split, tmp_path / "run", CPU))
    size = recipe.size
    _, detector_class = library.pico.classes_of(size.family)
    read = detector_class.from_pretrained(tmp_path / "run").eval()
    names = dict(enumerate(split.classes.names))
    assert read.config.id2label == names
    module = RivalModule(read, size.normalise, size.hw)
    trained = RivalTrainer(recipe, split, tmp_path / "run").state.averaged_detector()
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        ours, theirs = trained(images), module(images)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.boxes_cxcywh, theirs.boxes_cxcywh)

    artifact = rival_artifact(size, split.classes, done, 3, tmp_path / "files")
    model = artifact.manifest.model
    assert (model.family, model.variant, model.weights) == (size.family, "seed 3", "trained")
    assert model.checkpoint_sha256 == done.sha256
    with_onnx = detect_split(OrtSession(artifact, 1), split)
    for one, other in zip(with_onnx, rival_detections(trained, split), strict=True):
        order = np.argsort(-other.scores, kind="stable")
        assert np.allclose(one.scores, other.scores[order], atol=1e-4)
        assert np.allclose(np.sort(one.boxes_xyxy[:, 0]), np.sort(other.boxes_xyxy[:, 0]), atol=0.1)
    again = rival_artifact(size, split.classes, done, 3, tmp_path / "files")
    assert again.sha256 == artifact.sha256


def test_weights_of_other_classes_keep_everything_but_the_class_rows(
    split: CocoSplit, tmp_path: Path
) -> None:
    size = small("dfine-pico")
    other = ClassMap(("a", "b"), (1, 2))
    torch.manual_seed(5)
    source = library.from_config(size, library.configuration(size, other, pretrained=False))
    path = tmp_path / "other.safetensors"
    write_tensors(path, source.state_dict(), {})
    target = library.from_config(size, library.configuration(size, split.classes, pretrained=True))
    state, told = library.start(target, path)
    expected = source.state_dict()
    differing = {name for name in state if not torch.equal(state[name], expected[name])} - {
        name for name in state if state[name].shape != expected[name].shape
    }
    assert differing == set()
    assert "tensors of other classes are random" in told


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"nothing": torch.zeros(1)}, "tensors are missing and 1 unknown, such as"),
        (None, "weights of a baseline must be safetensors"),
    ],
)
def test_weights_of_another_model_are_one_line(
    split: CocoSplit, tmp_path: Path, tensors: dict[str, torch.Tensor] | None, told: str
) -> None:
    size = small("lwdetr-pico")
    path = tmp_path / ("w.safetensors" if tensors else "w.bin")
    if tensors:
        write_tensors(path, tensors, {})
    else:
        path.write_bytes(b"no weights")
    model = library.from_config(size, library.configuration(size, split.classes, pretrained=True))
    with pytest.raises(InputError, match=told):
        library.start(model, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "lwdetr-pico",
        pytest.param("rtdetr-pico", marks=pytest.mark.parity),
        pytest.param("dfine-pico", marks=pytest.mark.parity),
    ],
)
def test_two_images_are_learnt(folder: Path, tmp_path: Path, name: str) -> None:
    """A rival that sees two images again and again finds their objects."""
    split = read_split(folder, "val")
    recipe = recipe_of(
        name, split, steps=160, flip_probability=0.0, checkpoint_every=500, ema_decay=0.9
    )
    train_rival(RivalRequest(recipe, split, tmp_path, CPU))
    trained = RivalTrainer(recipe, split, tmp_path).state.averaged_detector()
    [row] = rival_accuracies({"val": split}, 1, trained)
    assert row["ap50"] > 0.5
