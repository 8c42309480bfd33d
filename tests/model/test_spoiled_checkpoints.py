"""PyTorch files that are bombs, programs or lies end in one line; what other programs write is read
as PyTorch reads it.
"""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples_export import ARCH, CATEGORY_IDS, CONFIG, NAMES, tiny_detector

from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet, save_detector
from rfdetr_repro.model.checkpoints.pretrained import load_pretrained, save_released
from rfdetr_repro.model.checkpoints.unpickle import read_pickle
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))
from mutations_pth import of_pth

CARD = ModelCard(CONFIG, ARCH, NAMES, CATEGORY_IDS)
STAND_INS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"a" * 64
    + b"\nsize 12345\n",
    "web page": b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("released") / "model.pth"
    save_released(path, tiny_detector(), CARD)
    return path.read_bytes()


def test_every_spoiled_pickle_and_archive_is_one_line(released: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    spoiled = [
        mutation for mutation in of_pth(released) if mutation.name.startswith(("pickle", "archive"))
    ]
    spoiled = [mutation for mutation in spoiled if "128 MiB" not in mutation.name]
    assert len(spoiled) > 50
    for mutation in spoiled:
        mutation.apply(path)
        try:
            load_pretrained(path)
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and "model.pth" in str(error), mutation.name
        else:
            raise AssertionError(f"accepted: {mutation.name}")


def test_contents_that_must_be_refused_are(released: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    spoiled = [
        mutation
        for mutation in of_pth(released)
        if mutation.name.startswith("content: one") and mutation.refuse
    ]
    assert len(spoiled) == 8
    for mutation in spoiled:
        mutation.apply(path)
        with pytest.raises(InputError):
            load_pretrained(path)
            raise AssertionError(f"accepted: {mutation.name}")


def test_a_pickle_that_inflates_is_refused_before(tmp_path: Path, released: bytes) -> None:
    (bomb,) = [
        mutation for mutation in of_pth(released) if mutation.name.endswith("128 MiB in deflate")
    ]
    bomb.apply(tmp_path / "bomb.pth")
    assert (tmp_path / "bomb.pth").stat().st_size < 2**18
    with pytest.raises(InputError, match="too long"):
        read_pickle(tmp_path / "bomb.pth")


@pytest.mark.parametrize("new", [True, False])
def test_what_pytorch_writes_is_read_as_pytorch_reads_it(new: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0)
    content = {
        "view": base[3:15].reshape(3, 4).T,
        "shared": base[::2],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "nested": {"list": [1, (2, "x"), {"a": None}], "set": {1, 2}},
    }
    same = content["nested"]
    content["again"] = same
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=new)
    found = read_pickle(tmp_path / "m.pth")
    wanted = torch.load(tmp_path / "m.pth", weights_only=True)
    for name, value in wanted.items():
        assert (
            torch.equal(found[name], value)
            if isinstance(value, torch.Tensor)
            else found[name] == value
        ), name
    assert found["again"] is found["nested"]


@pytest.mark.parametrize(
    "kind",
    [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, float("nan"), float("inf")],
)
def test_our_own_files_are_looked_at_too(kind: torch.dtype | float, tmp_path: Path) -> None:
    state = tiny_detector().state_dict()
    name = "decoder.norm.weight"
    wrong = (
        state[name].to(kind)
        if isinstance(kind, torch.dtype)
        else torch.full_like(state[name], kind)
    )
    save_detector(tmp_path / "m.safetensors", {**state, name: wrong}, CARD)
    for load in (load_supernet, load_pretrained):
        with pytest.raises(InputError, match=r"decoder\.norm\.weight.*m\.safetensors"):
            load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ("",) * len(CARD.class_names)},
        {"class_names": ("a\x1b[2J",) * len(CARD.class_names)},
        {"category_ids": (2**63,) * len(CARD.category_ids)},
        {"category_ids": (1,) * len(CARD.category_ids)},
        {"steps": -1},
    ],
)
def test_a_card_that_cannot_be_meant_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    assert len(CARD.class_names) > 1
    card = replace(CARD, **change)
    save_detector(tmp_path / "m.safetensors", tiny_detector().state_dict(), card)
    with pytest.raises(InputError, match=r"does not fit its own description.*m\.safetensors"):
        load_supernet(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_what_is_saved_in_place_of_a_file_is_named(name: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{ending}"
    path.write_bytes(STAND_INS[name])
    for load in (load_supernet, load_pretrained):
        with pytest.raises(InputError, match=name):
            load(path)


def test_a_foreign_safetensors_of_integers_is_refused(released: bytes, tmp_path: Path) -> None:
    weights = torch.load(io.BytesIO(released), weights_only=False)["model"]
    name = "transformer.decoder.layers.0.self_attn.in_proj_weight"
    name = (
        name
        if name in weights
        else next(name for name in weights if name.endswith("attention.query.weight"))
    )
    save_file({**weights, name: weights[name].to(torch.int8)}, tmp_path / "m.safetensors")
    assert load_file(tmp_path / "m.safetensors")[name].dtype == torch.int8
    with pytest.raises(InputError, match="m.safetensors"):
        load_pretrained(tmp_path / "m.safetensors")


def test_cards_that_would_take_for_ever_are_refused() -> None:
    with pytest.raises(InputError, match="patches"):
        Arch(16384, 8, 1, 2, 8)
    assert Arch(2048, 16, 1, 2, 8).tokens == 2**14
    for wrong in (
        {"levels": ("P4",) * 9},
        {"feature_stages": (1, 1)},
        {"feature_stages": (0, 3)},
        {"global_blocks": (2, 2)},
    ):
        with pytest.raises(InputError):
            ModelConfig(**wrong)  # type: ignore[arg-type]
