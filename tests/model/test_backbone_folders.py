"""Folders of backbones that cannot be used are refused in one line that names them; what is not the
backbone follows the seed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from samples_backbones import (
    ROW,
    read,
    their_folder,
)

from rfdetr_repro.model.checkpoints.backbone_folders import (
    BackboneFolder,
    detector_with,
    read_backbone,
)
from rfdetr_repro.spec.errors import InputError


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.logging.set_verbosity_error()


def spoil(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def test_a_folder_without_weights_is_one_clear_line(tmp_path: Path) -> None:
    their_folder(tmp_path, "dinov3")
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a backbone without weights.*model.safetensors") as caught:
        read_backbone(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="max_shard_size"):
        read_backbone(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="as safetensors"):
        read_backbone(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="no config.json"):
        read_backbone(tmp_path)
    for path in (tmp_path / "nothing", tmp_path / "elsewhere"):
        with pytest.raises(InputError, match="not a folder"):
            read_backbone(path)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("dinov3", {"model_type": "swin"}, "unknown type of model 'swin'"),
        ("dinov3", {"model_type": None}, "unknown type of model None"),
        ("dinov3", {"model_type": ["dinov3_vit"]}, "unknown type of model"),
        ("dinov3", {"key_bias": True}, "key_bias=True"),
        ("dinov3", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("dinov3", {"intermediate_size": 96}, "intermediate_size=96"),
        ("dinov3", {"hidden_size": "32"}, "hidden_size='32'"),
        ("dinov3", {"hidden_size": 10**9, "intermediate_size": 4 * 10**9}, "vit_dim = 1000000000"),
        ("dinov3", {"hidden_size": 64, "intermediate_size": 256}, "has shape"),
        ("dinov3", {"num_hidden_layers": 8}, "lack blocks.4"),
        ("dinov3", {"num_attention_heads": 0}, "vit_heads = 0"),
        ("dinov3", {"num_register_tokens": 0}, "does not describe, e.g. register_tokens"),
        ("dinov3", {"rope_theta": 0.5}, "rope_theta = 0.5"),
        ("dinov2", {"use_swiglu_ffn": True}, "use_swiglu_ffn=True"),
        ("dinov2", {"mlp_ratio": 2}, "mlp_ratio=2"),
        ("dinov2", {"num_hidden_layers": 6}, "6 blocks"),
        ("convnext", {"patch_size": 2}, "patch_size=2"),
        ("convnext", {"depths": [1, 2]}, "depths="),
        ("convnext", {"depths": [1, 2, 0, 1]}, "conv_depths"),
        ("convnext", {"hidden_sizes": [8, 16, 24, "32"]}, "hidden_sizes="),
    ],
)
def test_settings_that_are_not_implemented_are_refused_by_name(
    kind: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    their_folder(tmp_path, kind)
    spoil(tmp_path, **config)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_other_weights_than_described_are_refused(tmp_path: Path) -> None:
    folder = read_backbone_of(tmp_path, "dinov2-registers")
    spoiled = {
        "not finite": {"norm.weight": torch.full((32,), float("nan"))},
        "instead of torch.float32": {"norm.weight": torch.zeros(32, dtype=torch.int64)},
        "cannot be resampled": {"patch_embed.weight": torch.zeros(32, 3, 16, 14)},
        "no square table": {"pos_embed": torch.zeros(1, 16, 32)},
        "does not describe": {"blocks.0.mlp.gate.weight": torch.zeros(1)},
    }
    for message, changes in spoiled.items():
        other = replace(folder, tensors={**folder.tensors, **changes})
        with pytest.raises(InputError, match=message):
            detector_with(ROW, other, 0)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read_backbone(tmp_path)


def read_backbone_of(path: Path, kind: str) -> BackboneFolder:
    their_folder(path, kind)
    return read_backbone(path)


def test_the_rest_of_the_model_follows_the_seed(tmp_path: Path) -> None:
    folder = read_backbone_of(tmp_path, "dinov3")
    first, again, other = (detector_with(ROW, folder, seed)[0] for seed in (3, 3, 4))
    name = "projector.stages.0.cv1.conv.weight"
    values = [one.state_dict()[name] for one in (first, again, other)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert torch.equal(first.backbone.cls_token, other.backbone.cls_token)
