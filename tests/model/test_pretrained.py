"""Foreign checkpoints: names, shapes, containers, label maps, and files that must be refused."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filled import fill
from samples_released import described, small_released

from rfdetr_repro.model.checkpoints.container import arguments, chosen_weights, read_container
from rfdetr_repro.model.checkpoints.layouts import ENCODER, from_dinov2, layout_of
from rfdetr_repro.model.checkpoints.native import load_supernet, save_detector
from rfdetr_repro.model.checkpoints.pretrained import (
    infer_preset,
    load_pretrained,
    save_released,
    with_classes,
)
from rfdetr_repro.model.checkpoints.released import from_released, to_released
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import COCO_NAMES, UNUSED, Labels, coco_labels, labels_of_checkpoint
from rfdetr_repro.spec.presets import PRESETS, preset

KEYS = Path(__file__).parent / "vectors"  # names and shapes of released files
SIZES = {
    "nano": "nano",
    "base": "base",
    "xlarge": "xlarge",
    "largedeprecated": "large-deprecated",
    "segnano": "seg-nano",
}


def released_shapes(name: str) -> dict[str, torch.Tensor]:
    shapes = json.loads((KEYS / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_released_names_and_shapes_are_read_whole(name: str, size: str) -> None:
    state = released_shapes(name)
    row = PRESETS[size]
    found = infer_preset(state, {})
    # upstream's configuration of XL; the released file has 91
    classes = 366 if size == "xlarge" else 91
    assert (found.model, found.arch) == (replace(row.model, num_classes=classes), row.arch)
    with torch.device("meta"):
        detector = Detector(found.model, found.arch)
    ours = from_released(state, detector.state_dict(), found.model.groups)
    assert ours.keys() == detector.state_dict().keys()
    back = to_released(detector.state_dict(), found.model.groups)
    assert {key: tuple(value.shape) for key, value in back.items()} == {
        key: tuple(value.shape) for key, value in state.items()
    }


def test_every_size_is_told_by_its_shapes() -> None:
    for size, row in PRESETS.items():
        with torch.device("meta"):
            detector = Detector(row.model, row.arch)
        found = infer_preset(to_released(detector.state_dict(), row.model.groups), {})
        assert (found.model, found.arch) == (row.model, row.arch), size


def test_the_files_arguments_win_where_shapes_say_nothing() -> None:
    """A Nano fine-tuned at 512 px with 200 queries and 4 windows: no preset has its position
    grid.
    """
    state = released_shapes("nano")
    state[f"{ENCODER}embeddings.position_embeddings"] = torch.empty(
        1, 32 * 32 + 1, 384, device="meta"
    )
    with pytest.raises(InputError, match="name the size"):
        infer_preset(state, {})
    named = infer_preset(state, {}, "nano")
    assert (named.arch.input_hw[0], named.arch.windows, named.model.pos_grid) == (512, 2, 32)
    said = {
        "resolution": 512,
        "num_windows": 4,
        "out_feature_indexes": [2, 5, 8, 11],
        "num_queries": 200,
    }
    found = infer_preset(state, said)
    assert found.arch.key == "r512-p16-w4-d2-q200" and found.model.queries == 300
    assert found.model.feature_stages == (2, 5, 8, 11) == found.model.global_blocks
    with pytest.raises(InputError, match="name the size of the file"):
        infer_preset(state, {}, "xlarge")
    with pytest.raises(InputError, match="attention samples"):
        infer_preset(state, {**said, "dec_n_points": 4})


def test_released_file_round_trip(tmp_path: Path) -> None:
    detector, _ = small_released()
    sha256 = save_released(tmp_path / "model.pth", detector, described(detector))
    again, card, found = load_pretrained(tmp_path / "model.pth")
    assert (
        found == sha256
        and card.config == detector.config
        and card.arch.input_hw[0] == detector.arch.input_hw[0]
    )
    assert (card.class_names, card.category_ids) == (
        described(detector).class_names,
        described(detector).category_ids,
    )
    for name, value in detector.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    # our own file; what upstream's loader reads
    content = torch.load(tmp_path / "model.pth", weights_only=False)
    assert (
        isinstance(content["args"], argparse.Namespace)
        and content["args"].group_detr == detector.config.groups
    )


@pytest.mark.parametrize("wrap", ["plain", "module", "lightning", "bare", "heavy"])
def test_wrappings_of_a_state_dict(tmp_path: Path, wrap: str) -> None:
    detector, released = small_released()
    said = dict(torch.load(_saved(tmp_path, detector), weights_only=False)["args"].__dict__)
    content: dict[str, Any] = {"model": released, "args": said}
    if wrap == "module":
        content["model"] = {f"module.{name}": value for name, value in released.items()}
    elif wrap == "lightning":
        content = {
            "state_dict": {f"model.{name}": value for name, value in released.items()},
            "args": said,
            "loops": {},
        }
    elif wrap == "bare":
        content = {**released, "_kp_active_mask": torch.zeros(0)}
    elif wrap == "heavy":  # the older files of three times the size
        content |= {
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
            "ema_model": released,
            "epoch": 3,
        }
    torch.save(content, tmp_path / "wrapped.pth")
    if wrap == "bare":
        read = read_container(tmp_path / "wrapped.pth")
        assert chosen_weights(read, "x")[0].keys() == released.keys() and arguments(read) == {}
    else:
        again, _, _ = load_pretrained(tmp_path / "wrapped.pth")
        assert torch.equal(again.decoder.query_feat, detector.decoder.query_feat)


def _saved(folder: Path, detector: Detector) -> Path:
    save_released(folder / "saved.pth", detector, described(detector))
    return folder / "saved.pth"


def test_our_own_file_of_another_size_is_refused(tmp_path: Path) -> None:
    detector, _ = small_released()
    save_detector(tmp_path / "model.safetensors", detector.state_dict(), described(detector))
    with pytest.raises(InputError, match="name the size.*model|model.*name the size"):
        load_pretrained(tmp_path / "model.safetensors", "nano")


@pytest.mark.parametrize(
    "said", [{"resolution": "wide"}, {"dec_n_points": "two"}, {"num_windows": [2]}]
)
def test_a_file_that_describes_itself_wrongly_is_refused(
    said: dict[str, Any], tmp_path: Path
) -> None:
    _, released = small_released()
    honest = {
        "sa_nheads": 2,
        "ca_nheads": 4,
        "dec_n_points": 2,
        "out_feature_indexes": [1, 2, 3, 4],
        "num_windows": 1,
    }
    torch.save({"model": released, "args": {**honest, **said}}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match="odd.pth"):
        load_pretrained(tmp_path / "odd.pth")


def test_our_own_file_is_one_of_the_readable_ones(tmp_path: Path) -> None:
    detector, _ = small_released()
    save_detector(tmp_path / "model.safetensors", detector.state_dict(), described(detector))
    assert (
        load_pretrained(tmp_path / "model.safetensors")[1]
        == load_supernet(tmp_path / "model.safetensors")[1]
    )


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_hostile_pickle_is_refused_by_name_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "hostile.pth"
    torch.save({"model": {}, "args": Hostile(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"posix\.system.*refused"):
        load_pretrained(path)
    assert not marker.exists()


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"args": Hostile(tmp_path / "executed")}))
    with pytest.raises(InputError, match="plain.pth"):
        load_pretrained(tmp_path / "plain.pth")
    assert not (tmp_path / "executed").exists()


def test_truncated_empty_missing_and_foreign_files(tmp_path: Path) -> None:
    detector, released = small_released()
    whole = _saved(tmp_path, detector).read_bytes()
    cases = {
        "cut.pth": whole[: len(whole) // 2],
        "head.pth": whole[:100],
        "empty.pth": b"",
        "text.pth": b"no checkpoint at all\n",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_pretrained(tmp_path / name)
    with pytest.raises(InputError, match="cannot read"):
        load_pretrained(tmp_path / "absent.pth")
    contents: dict[str, tuple[Any, str]] = {
        "list.pth": ([1, 2], "holds a list"),
        "other.pth": ({"model": {"layer1.weight": torch.zeros(3)}}, "lacks"),
        "nothing.pth": ({"epoch": 3}, "no weights"),
        "lora.pth": (
            {"model": {**released, "backbone.0.encoder.base_model.model.x": torch.zeros(1)}},
            "LoRA",
        ),
        "less.pth": (
            {"model": {k: v for k, v in released.items() if "ref_point_head" not in k}},
            "lacks .*ref_point_head",
        ),
        "more.pth": (
            {"model": {**released, "keypoint_head.weight": torch.zeros(1)}},
            "unknown entries.*keypoint_head",
        ),
    }
    said = vars(torch.load(tmp_path / "saved.pth", weights_only=False)["args"])
    for name, (content, reason) in contents.items():
        torch.save(
            {**content, "args": said} if isinstance(content, dict) else content, tmp_path / name
        )
        with pytest.raises(InputError, match=reason):
            load_pretrained(tmp_path / name)


# -- DINOv2 ----------------------------------------------------------------------------------------


def dinov2_states(
    size: str,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """One set of weights in three layouts: ours released, Hugging Face's, Meta's.

    Patch 14, positions 37 x 37.
    """
    row = preset(size).model
    shapes = {
        name: tuple(value.shape)
        for name, value in released_shapes("base").items()
        if name.startswith(ENCODER)
    }
    assert row.vit_dim == 384
    released = {name: fill(name, shape).float() for name, shape in shapes.items()}
    hugging_face = {name[len(ENCODER) :]: value for name, value in released.items()}
    meta: dict[str, torch.Tensor] = {}
    for name, value in hugging_face.items():
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj").replace(
            "layernorm", "norm"
        )
        name = name.replace("embeddings.position_embeddings", "pos_embed").replace(
            "embeddings.", ""
        )
        name = name.replace("encoder.layer.", "blocks.").replace(
            "attention.output.dense", "attn.proj"
        )
        meta[
            name.replace("layer_scale1.lambda1", "ls1.gamma").replace(
                "layer_scale2.lambda1", "ls2.gamma"
            )
        ] = value
    for name in [name for name in meta if ".attention.attention.query." in name]:
        parts = [meta.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        meta[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return released, hugging_face, meta


def test_both_dinov2_layouts_give_the_same_encoder(tmp_path: Path) -> None:
    released, hugging_face, meta = dinov2_states("nano")
    assert (layout_of(hugging_face), layout_of(meta)) == ("dinov2", "dinov2-meta")
    for layout, state in (("dinov2", hugging_face), ("dinov2-meta", meta)):
        translated = from_dinov2(state, layout)
        assert translated.keys() == released.keys()
        assert all(torch.equal(translated[name], value) for name, value in released.items())
    torch.save(meta, tmp_path / "dinov2_vits14.pth")
    with pytest.raises(InputError, match="needs a size"):
        load_pretrained(tmp_path / "dinov2_vits14.pth")
    base, _, _ = load_pretrained(tmp_path / "dinov2_vits14.pth", "base")
    assert torch.equal(
        base.backbone.pos_embed, released[f"{ENCODER}embeddings.position_embeddings"]
    )
    # kernel 14 -> 16, positions 37 -> 24
    nano, _, _ = load_pretrained(tmp_path / "dinov2_vits14.pth", "nano")
    assert (
        nano.backbone.patch_embed.weight.shape[-1] == 16 and nano.backbone.pos_embed.shape[1] == 577
    )
    assert torch.equal(
        nano.backbone.blocks[3].fc1.weight, released[f"{ENCODER}encoder.layer.3.mlp.fc1.weight"]
    )
    with pytest.raises(InputError, match="register"):
        from_dinov2({**meta, "register_tokens": torch.zeros(1, 4, 384)}, "dinov2-meta")


# -- classes ---------------------------------------------------------------------------------------


def test_label_conventions() -> None:
    assert (
        len(COCO_NAMES) == 80
        and COCO_NAMES[1] == "person"
        and COCO_NAMES[90] == "toothbrush"
        and 12 not in COCO_NAMES
    )
    coco = labels_of_checkpoint({}, 91)
    assert (
        coco == coco_labels()
        and coco.names[18] == "dog"
        and coco.names[0] == coco.names[12] == UNUSED
    )
    names = ["cat", "dog"]
    # up to 1.4
    assert labels_of_checkpoint({"class_names": names, "cutoff_epoch": 0}, 3).names == (
        UNUSED,
        "cat",
        "dog",
    )
    assert labels_of_checkpoint({"class_names": names, "rfdetr_version": "1.8.2"}, 3).names == (
        "cat",
        "dog",
        UNUSED,
    )
    assert labels_of_checkpoint({"class_names": {"1": "dog", "0": "cat"}}, 2).names == (
        "cat",
        "dog",
    )
    assert labels_of_checkpoint({}, 4).names[3] == "class 3"
    assert labels_of_checkpoint({"class_names": list(COCO_NAMES.values())}, 91) == coco
    with pytest.raises(InputError, match="5 class names for 3 logits"):
        labels_of_checkpoint({"class_names": list("abcde")}, 3)
    assert (
        coco.describe(2)
        == "labels (COCO category ids): 1 = person (id 1), 2 = bicycle (id 2), and 78 more"
    )


@pytest.mark.parametrize("count", [1, 5, 40])
def test_another_class_count_tiles_the_heads(count: int) -> None:
    detector, _ = small_released()
    old = detector.config.num_classes
    fresh = with_classes(detector, Labels(tuple(map(str, range(count))), tuple(range(count))))
    assert fresh.config.num_classes == count and not fresh.training
    for row in range(count):
        assert torch.equal(fresh.class_embed.weight[row], detector.class_embed.weight[row % old])
        assert torch.equal(
            fresh.selection.class_embed.bias[:, row],
            detector.selection.class_embed.bias[:, row % old],
        )
    assert torch.equal(fresh.decoder.query_feat, detector.decoder.query_feat)
