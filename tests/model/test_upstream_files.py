"""Files of upstream and of wrappers: what is read, what is refused by name, which weights and which
labels are meant.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from samples_released import described, small_released
from samples_upstream import SAID, renamed, written

from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.checkpoints.pretrained import UNNAMED, load_pretrained, save_released
from rfdetr_repro.model.checkpoints.upstream import class_of, departures
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import UNUSED
from rfdetr_repro.spec.presets import PRESETS


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Content of a file that this project wrote in the released layout, and its detector."""
    detector, released = small_released()
    path = tmp_path_factory.mktemp("saved") / "model.pth"
    save_released(path, detector, described(detector))
    content = torch.load(path, weights_only=False)  # our own file
    return {"content": content, "released": released, "detector": detector}


# -- wrappers and the choice of weights ------------------------------------------------------------

PREFIXES = (
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "model._orig_mod.",
    "model.model.",
    "module.model._orig_mod.",
    "detector.net.",
    "_forward_module.model.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_in_any_order_and_nesting(
    prefix: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    content = {
        "model": renamed(saved["content"]["model"], prefix),
        "args": saved["content"]["args"],
    }
    again, _, _ = load_pretrained(written(tmp_path, content))
    for name, value in saved["detector"].state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_wrappers_within_names_and_counters_beside_them(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    inner = {
        name.replace("backbone.0.", "backbone._orig_mod.0."): value
        for name, value in saved["content"]["model"].items()
    }
    averaged = {"n_averaged": torch.tensor(7), **renamed(saved["content"]["model"], "module.")}
    lightning = {
        **renamed(saved["content"]["model"], "model."),
        "criterion.empty_weight": torch.ones(3),
    }
    for state in (inner, averaged, lightning):
        again, _, _ = load_pretrained(
            written(tmp_path, {"state_dict": state, "args": saved["content"]["args"]})
        )
        assert torch.equal(again.decoder.query_feat, saved["detector"].decoder.query_feat)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (("ema_model",), "ema_model"),
        (("ema", "module"), "ema/module"),
        (("model_ema", "state_dict"), "model_ema/state_dict"),
        (("callbacks", "RFDETREMACallback", "average_model"), "average_model"),
    ],
)
def test_the_moving_average_is_preferred_and_said(
    place: tuple[str, ...], told: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    raw = {name: torch.zeros_like(value) for name, value in saved["content"]["model"].items()}
    nested: Any = saved["content"]["model"]
    for key in reversed(place[1:]):
        nested = {key: nested}
    kind = "state_dict" if place[0] == "callbacks" else "model"
    content = {
        kind: renamed(raw, "model."),
        place[0]: nested,
        "args": saved["content"]["args"],
        "optimizer": {"state": {}},
    }
    again, card, _ = load_pretrained(written(tmp_path, content))
    assert torch.equal(again.decoder.query_feat, saved["detector"].decoder.query_feat)
    assert "EMA weights" in card.notes and told in card.notes


def test_upstreams_chosen_best_weights_win_over_its_callbacks(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    """Its files of best weights hold the chosen ones as "model", and the state of the averaging
    callback beside them.
    """
    other = {name: torch.zeros_like(value) for name, value in saved["content"]["model"].items()}
    content = {**saved["content"], "state_dict": renamed(saved["content"]["model"], "model.")}
    content["callbacks"] = {"RFDETREMACallback": {"average_model": other}}
    again, _, _ = load_pretrained(written(tmp_path, content))
    assert torch.equal(again.decoder.query_feat, saved["detector"].decoder.query_feat)


def test_two_sets_of_weights_of_equal_standing_are_refused(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    state = saved["content"]["model"]
    content = {"teacher": state, "student": dict(state), "args": saved["content"]["args"]}
    with pytest.raises(
        InputError, match=r"several sets of weights \((student, teacher|teacher, student)\)"
    ):
        load_pretrained(written(tmp_path, content))


def test_weights_that_are_not_finite_are_refused(saved: dict[str, Any], tmp_path: Path) -> None:
    state = {**saved["content"]["model"]}
    state["bbox_embed.layers.2.bias"] = torch.full_like(
        state["bbox_embed.layers.2.bias"], float("nan")
    )
    with pytest.raises(InputError, match=r"not finite.*bbox_embed"):
        load_pretrained(written(tmp_path, {"model": state, "args": saved["content"]["args"]}))


@pytest.mark.parametrize("ids", [[1, 2], [1] * 18])
def test_category_ids_that_do_not_fit_the_names_are_refused(
    ids: list[int], saved: dict[str, Any], tmp_path: Path
) -> None:
    said = argparse.Namespace(**{**vars(saved["content"]["args"]), "category_ids": ids})
    with pytest.raises(InputError, match="category ids"):
        load_pretrained(written(tmp_path, {"model": saved["content"]["model"], "args": said}))


def test_lightning_files_bring_their_names(saved: dict[str, Any], tmp_path: Path) -> None:
    count = saved["detector"].config.num_classes
    names = [f"part {index}" for index in range(count - 1)]
    hyper = {"train_config": types.SimpleNamespace(class_names=names, accelerator="auto", **SAID)}
    content = {
        "state_dict": renamed(saved["released"], "model."),
        "hyper_parameters": hyper,
        "pytorch-lightning_version": "2.6",
    }
    _, card, _ = load_pretrained(written(tmp_path, content))
    assert card.class_names == (*names, UNUSED)


def test_a_refused_setting_is_refused_in_a_file(saved: dict[str, Any], tmp_path: Path) -> None:
    said = {**SAID, "bbox_reparam": False}
    for part in (
        {"args": said},
        {"args": argparse.Namespace(**said)},
        {"args": SAID, "model_config": {"bbox_reparam": False}},
    ):
        with pytest.raises(InputError, match=r"bbox_reparam=False.*file\.pth"):
            load_pretrained(written(tmp_path, {"model": saved["released"], **part}))


def test_a_file_of_unknown_labels_is_asked_for_but_may_be_trained_from(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    count = saved["detector"].config.num_classes
    names = [f"part {index}" for index in range(count - 1)]
    path = written(tmp_path, {"model": saved["released"], "args": {**SAID, "class_names": names}})
    with pytest.raises(InputError, match=r"file\.pth\); .*from-0.*from-1"):
        load_pretrained(path)
    assert load_pretrained(path, labels="from-0")[1].class_names == (*names, UNUSED)
    assert load_pretrained(path, labels="from-1")[1].class_names == (UNUSED, *names)
    assert load_pretrained(path, labels=UNNAMED)[1].class_names[0] == "class 0"


def test_names_beside_a_safetensors_file(saved: dict[str, Any], tmp_path: Path) -> None:
    count = saved["detector"].config.num_classes
    row = replace(PRESETS["nano"], model=saved["detector"].config, arch=saved["detector"].arch)
    save_file(
        {name: value.contiguous() for name, value in saved["released"].items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(
        json.dumps({"id2label": {str(i): f"part {i}" for i in range(count)}})
    )
    _, card, _ = load_pretrained(tmp_path / "model.safetensors", row)
    assert card.class_names == tuple(f"part {i}" for i in range(count))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        load_pretrained(tmp_path / "model.safetensors", row)


# -- what upstream reads ---------------------------------------------------------------------------


def test_saved_files_hold_what_upstream_names_classes_by(saved: dict[str, Any]) -> None:
    content = saved["content"]
    count = saved["detector"].config.num_classes
    heads = [name for name in content["model"] if "class_embed" in name and name.endswith("bias")]
    assert len(heads) == 1 + saved["detector"].config.groups
    assert all(content["model"][name].shape == (count + 1,) for name in heads)
    assert torch.equal(
        content["model"]["class_embed.bias"][:-1], saved["detector"].class_embed.bias
    )
    assert (
        float(content["model"]["class_embed.bias"][-1]) < -20
        and not content["model"]["class_embed.weight"][-1].any()
    )
    assert content["args"].class_names == list(described(saved["detector"]).class_names)
    assert content["model_config"]["num_classes"] == count and content["model_name"].startswith(
        "RFDETR"
    )
    assert content["rfdetr_version"].split(".")[0] == "1"


def test_an_unused_label_serves_as_upstreams_last_one(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    detector = saved["detector"]
    count = detector.config.num_classes
    names = (UNUSED, *(f"part {index}" for index in range(1, count)))
    card = ModelCard(detector.config, detector.arch, names, tuple(range(count)))
    save_released(tmp_path / "old.pth", detector, card)
    content = torch.load(tmp_path / "old.pth", weights_only=False)
    rows = [*range(1, count), 0]
    assert torch.equal(content["model"]["class_embed.bias"], detector.class_embed.bias[rows])
    _, again, _ = load_pretrained(tmp_path / "old.pth")
    assert again.class_names == (*names[1:], UNUSED)


def test_upstreams_class_of_each_size() -> None:
    assert class_of(PRESETS["nano"].model, PRESETS["nano"].arch) == "RFDETRNano"
    other = replace(PRESETS["seg-medium"].model, num_classes=3)
    assert class_of(other, PRESETS["seg-medium"].arch) == "RFDETRSegMedium"
    assert class_of(replace(other, queries=50), PRESETS["seg-medium"].arch) == "RFDETRSegNano"
    assert not departures(PRESETS["base"].model, PRESETS["base"].arch)
    assert (
        "384 and 768"
        in departures(
            replace(PRESETS["nano"].model, vit_dim=192, vit_heads=3), PRESETS["nano"].arch
        )[0]
    )


PROGRAM = """
import sys, torch, rfdetr
model = rfdetr.RFDETR.from_checkpoint(sys.argv[1], device="cpu")
with torch.no_grad():
    found = model.model.model.eval()(torch.load(sys.argv[2]))
kept = {"names": model.class_names, "logits": found["pred_logits"], "boxes": found["pred_boxes"]}
torch.save(kept, sys.argv[3])
"""


def test_upstreams_program_reads_a_saved_file(tmp_path: Path) -> None:
    """Names, logits and boxes in ``rfdetr`` itself, where it is installed (1.11.2 has been tried
    for three sizes).
    """
    tried = subprocess.run(
        [sys.executable, "-c", "import rfdetr"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("rfdetr is not installed")
    row = PRESETS["nano"]
    torch.manual_seed(0)
    detector = Detector(replace(row.model, num_classes=3), row.arch).eval()
    save_released(
        tmp_path / "model.pth",
        detector,
        ModelCard(detector.config, row.arch, ("cat", "dog", "cow"), (1, 2, 5)),
    )
    torch.save(torch.randn(1, 3, 384, 384), tmp_path / "input.pt")
    paths = [str(tmp_path / name) for name in ("model.pth", "input.pt", "output.pt")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = torch.load(tmp_path / "output.pt")
    with torch.no_grad():
        ours = detector(torch.load(tmp_path / "input.pt"), row.arch)
    assert theirs["names"] == ["cat", "dog", "cow"]
    torch.testing.assert_close(theirs["logits"][..., :3], ours.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs["boxes"], ours.boxes_cxcywh, rtol=1e-4, atol=1e-4)
