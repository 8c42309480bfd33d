"""PyTorch files that are bombs, programs or lies end in one line; what other programs write is read
as PyTorch reads it.
"""

from __future__ import annotations

import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples_export import ARCH, CATEGORY_IDS, CONFIG, NAMES, tiny_detector

from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet, save_detector
from rfdetr_repro.model.checkpoints.pretrained import load_pretrained, save_released
from rfdetr_repro.model.checkpoints.tensor_files import MOST_BYTES
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


def test_a_flipped_bit_in_the_weights_is_seen(tmp_path: Path) -> None:
    """PyTorch itself does not look at the checksums that it writes."""
    path = tmp_path / "m.pth"
    weights = torch.arange(10.0)
    torch.save({"model": weights}, path)
    content = bytearray(path.read_bytes())
    content[content.find(weights.numpy().tobytes()) + 7] ^= 64
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["model"].isinf().any()
    with pytest.raises(InputError, match=r"data/0 is damaged: its checksum differs.*m\.pth"):
        read_pickle(path)


def test_checksums_that_pytorch_left_out_are_not_missed(tmp_path: Path) -> None:
    usual = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": torch.arange(10.0)}, tmp_path / "m.pth")
    finally:
        torch.serialization.set_crc32_options(usual)
    assert torch.equal(read_pickle(tmp_path / "m.pth")["model"], torch.arange(10.0))


@pytest.mark.parametrize("what", ["is in the archive twice", "is encrypted"])
def test_members_whose_content_is_in_doubt_are_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({"model": torch.arange(10.0)}, path)
    if what == "is encrypted":
        content = bytearray(path.read_bytes())
        content[content.rfind(b"PK\x01\x02", 0, content.rfind(b"/data/0")) + 8] |= 1
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(archive.namelist()[0], b"other")
    with pytest.raises(InputError, match=what):
        read_pickle(path)


def test_weights_that_are_there_with_and_without_a_wrapper_are_refused(
    released: bytes, tmp_path: Path
) -> None:
    content = torch.load(io.BytesIO(released), weights_only=False)
    name, value = next(iter(content["model"].items()))
    content["model"][f"module.{name}"] = value + 1
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"twice, with and without the prefix.*m\.pth"):
        load_pretrained(tmp_path / "m.pth")


def test_a_safetensors_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_detector(path, tiny_detector().state_dict(), CARD)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length].rstrip(), content[8 + length :]
    name = b'"decoder.norm.weight":'
    entry = name + header.partition(name)[2].partition(b"}")[0] + b"}"
    header = header[:-1] + b"," + entry + b"}"
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    for load in (load_supernet, load_pretrained):
        with pytest.raises(InputError, match=r"decoder\.norm\.weight' occurs twice"):
            load(path)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_file_larger_than_any_checkpoint_takes_no_memory(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{ending}"
    with path.open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)  # takes no room on the disk either
    for load in (load_supernet, load_pretrained):
        with pytest.raises(InputError, match="cannot be a checkpoint"):
            load(path)


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
