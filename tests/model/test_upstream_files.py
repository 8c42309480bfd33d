"""Files of upstream and of wrappers: what is read, what is refused by name, which weights and which
labels are meant.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from samples_released import described, small_released

from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.checkpoints.pretrained import UNNAMED, load_pretrained, save_released
from rfdetr_repro.model.checkpoints.unpickle import read_pickle
from rfdetr_repro.model.checkpoints.upstream import (
    IMPLEMENTED,
    check_settings,
    class_of,
    departures,
)
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import COCO_NAMES, UNUSED, coco_labels, labels_of_checkpoint
from rfdetr_repro.spec.presets import PRESETS

State = dict[str, torch.Tensor]
SAID = {
    "sa_nheads": 2,
    "ca_nheads": 4,
    "dec_n_points": 2,
    "out_feature_indexes": [1, 2, 3, 4],
    "num_windows": 1,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Content of a file that this project wrote in the released layout, and its detector."""
    detector, released = small_released()
    path = tmp_path_factory.mktemp("saved") / "model.pth"
    save_released(path, detector, described(detector))
    content = torch.load(path, weights_only=False)  # our own file
    return {"content": content, "released": released, "detector": detector}


def written(folder: Path, content: Any, **how: Any) -> Path:
    path = folder / "file.pth"
    torch.save(content, path, **how)
    return path


def renamed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


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


# -- pickles ---------------------------------------------------------------------------------------

HARMLESS: dict[str, Any] = {
    "path": pathlib.PurePosixPath("/data/set"),
    "windows": pathlib.PureWindowsPath("C:/data"),
    "scalar": np.float64(0.42),
    "integer": np.int64(7),
    "flag": np.bool_(True),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "text": np.array(["a", "bcd"]),
    "dtype": np.dtype("float32"),
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]),
    "set": {1, 2},
    "frozen": frozenset({3}),
    "complex": 1 + 2j,
    "bytes": b"\x00\xff",
    "float16": torch.float16,
    "device": torch.device("cuda:0"),
    "size": torch.Size([2, 3]),
    "date": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
    "delta": datetime.timedelta(seconds=5),
    "namespace": argparse.Namespace(a=1, b=types.SimpleNamespace(c=[2])),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "sequence"])
def test_plain_values_of_every_kind_are_read(zipped: bool, protocol: int, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"model": {}, "args": HARMLESS},
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    found = read_pickle(path)["args"]
    for name, value in HARMLESS.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype and np.array_equal(found[name], value), name
        elif name == "namespace":
            assert found[name].a == 1 and found[name].b.c == [2]
        elif name in ("deque", "size"):
            assert list(found[name]) == list(value)
        else:
            assert found[name] == value, name


def test_paths_of_both_platforms_are_read(tmp_path: Path) -> None:
    """A file from Windows names ``pathlib.WindowsPath``, which cannot even be made here."""
    for module in ("pathlib", "pathlib._local"):
        stream = io.BytesIO()
        torch.save({"where": pathlib.PurePosixPath("a/b")}, stream)
        for kind in ("PosixPath", "WindowsPath"):
            path = tmp_path / f"{module}-{kind}.pth"
            path.write_bytes(
                _with_global(
                    stream.getvalue(), b"cpathlib\nPurePosixPath\n", f"c{module}\n{kind}\n".encode()
                )
            )
            assert str(read_pickle(path)["where"]).replace("\\", "/") == "a/b"


def _with_global(archive: bytes, old: bytes, new: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(target, "w") as changed:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("data.pkl"):
                # where it stands depends on Python's version
                names = (b"cpathlib._local\nPurePosixPath\n", old)
                for name in names:
                    content = content.replace(name, new)
            changed.writestr(member.filename, content)
    return target.getvalue()


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "sequence"])
def test_tensors_are_those_of_torch(zipped: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """Views, shared storages, transposed and empty tensors, parameters: bit for bit what torch's
    own loader gives.
    """
    base = torch.arange(24).reshape(4, 6).to(dtype)
    state = {
        "base": base,
        "column": base[:, 2],
        "turned": base.t(),
        "empty": base[:0],
        "one": base[1, 1],
    }
    if dtype.is_floating_point:
        state["parameter"] = torch.nn.Parameter(base.clone())
    path = written(tmp_path, state, _use_new_zipfile_serialization=zipped)
    ours = read_pickle(path)
    theirs = torch.load(path, weights_only=True)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
    assert ours["column"].untyped_storage().data_ptr() == ours["base"].untyped_storage().data_ptr()


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "sequence"])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("true",), "posix.system|os.system"),
        (eval, ("1",), "builtins.eval|__builtin__.eval"),
        (getattr, (1, "real"), "getattr"),
        (functools.partial, (print,), "functools.partial"),
        (subprocess.run, (["true"],), "(?:subprocess|commands).run"),
        (torch.load, ("x",), "torch.serialization.load"),
        (np.load, ("x",), "numpy.*load"),
        (bytearray, (1 << 40,), "bytearray"),
        (torch.nn.Linear, (1, 1), "torch.nn.*Linear"),
        (Path, ("x",), None),
    ],
)
def test_only_plain_data_is_made(
    function: Any, arguments: Any, name: str | None, zipped: bool, tmp_path: Path
) -> None:
    path = written(
        tmp_path, {"args": Calls(function, *arguments)}, _use_new_zipfile_serialization=zipped
    )
    if name is None:
        assert str(read_pickle(path)["args"]) == "x"
        return
    with pytest.raises(InputError, match=f"({name}).*refused"):
        read_pickle(path)


def test_no_file_changes_what_the_next_one_sees(tmp_path: Path) -> None:
    """A pickle may set attributes of what it names; here that is made anew for each file, or cannot
    be changed.
    """
    for target in (
        argparse.Namespace,
        torch.float32,
        collections.OrderedDict,
        pathlib.PurePosixPath,
        datetime.date,
    ):
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, 2)
        pickler.dump(target)
        # BUILD with {"changed": 1}
        program = stream.getvalue()[:-1] + b"}X\x07\x00\x00\x00changedK\x01sb."
        torch.save({"args": 0}, tmp_path / "change.pth")
        _replace_pickle(tmp_path / "change.pth", program)
        with pytest.raises(InputError):
            read_pickle(tmp_path / "change.pth")
        assert not hasattr(target, "changed")
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "next.pth")
    assert not hasattr(read_pickle(tmp_path / "next.pth")["args"], "changed")


def _replace_pickle(path: Path, program: bytes) -> None:
    with zipfile.ZipFile(path) as source:
        parts = {member.filename: source.read(member) for member in source.infolist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in parts.items():
            target.writestr(name, program if name.endswith("data.pkl") else content)


# -- settings --------------------------------------------------------------------------------------

SHAPES = {"masks": True, "ffn": 2048, "vit_depth": 12}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bbox_reparam", False),
        ("lite_refpoint_refine", False),
        ("two_stage", False),
        ("layer_norm", False),
        ("rms_norm", True),
        ("decoder_norm", "Identity"),
        ("num_channels", 4),
        ("mask_downsample_ratio", 2),
        ("use_grouppose_keypoints", True),
        ("num_keypoints_per_class", [0, 17]),
        ("num_decoder_registers", 4),
        ("dual_projector", True),
        ("encoder", "dinov2_registers_windowed_small"),
        ("encoder", "dinov2_windowed_large"),
        ("segmentation_head", False),
        ("dim_feedforward", 1024),
        ("window_block_indexes", [0, 3]),
    ],
)
def test_settings_that_change_the_meaning_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        check_settings({"out_feature_indexes": [3, 6, 9, 12], name: value}, {}, SHAPES)


def test_a_refused_setting_is_refused_in_a_file(saved: dict[str, Any], tmp_path: Path) -> None:
    said = {**SAID, "bbox_reparam": False}
    for part in (
        {"args": said},
        {"args": argparse.Namespace(**said)},
        {"args": SAID, "model_config": {"bbox_reparam": False}},
    ):
        with pytest.raises(InputError, match=r"bbox_reparam=False.*file\.pth"):
            load_pretrained(written(tmp_path, {"model": saved["released"], **part}))


def test_settings_of_the_future_are_refused_unless_they_are_off() -> None:
    check_settings({}, {"shiny_new_thing": False, "license": "Apache-2.0", "compile": True}, SHAPES)
    with pytest.raises(InputError, match="shiny_new_thing=3"):
        check_settings({}, {"shiny_new_thing": 3}, SHAPES)


def test_what_released_files_say_is_implemented() -> None:
    """Settings of the published files, as upstream 1.4.1 writes them for every size."""
    said = {name: values[0] for name, values in IMPLEMENTED.items()}
    said |= {
        "window_block_indexes": [0, 1, 2, 4, 5, 7, 8, 10, 11],
        "out_feature_indexes": [3, 6, 9, 12],
        "dim_feedforward": 2048,
    }
    check_settings({**said, "segmentation_head": True, "num_keypoints_per_class": []}, {}, SHAPES)


# -- labels ----------------------------------------------------------------------------------------

NAMES = ["cat", "dog"]
# fields of upstream's own argument parser
OLD = {"class_names": NAMES, "cutoff_epoch": 0, "set_cost_class": 2}


@pytest.mark.parametrize(
    ("said", "logits", "expected"),
    [
        (OLD, 3, (UNUSED, "cat", "dog")),
        ({"class_names": NAMES, "rfdetr_version": "1.8.2"}, 3, ("cat", "dog", UNUSED)),
        ({"class_names": NAMES, "rfdetr_version": "1.11.2"}, 3, ("cat", "dog", UNUSED)),
        ({"class_names": NAMES, "rfdetr_version": "1.11.2"}, 6, ("cat", "dog", *[UNUSED] * 4)),
        # 1.6: without a version
        (
            {"class_names": NAMES, "accelerator": "auto", "eval_interval": 1},
            3,
            ("cat", "dog", UNUSED),
        ),
        ({"class_names": NAMES}, 2, ("cat", "dog")),
        ({"id2label": {"0": "cat", "1": "dog"}}, 2, ("cat", "dog")),
        ({"id2label": {0: "cat", 2: "dog"}}, 4, ("cat", UNUSED, "dog", UNUSED)),
    ],
)
def test_proved_conventions(said: dict[str, Any], logits: int, expected: tuple[str, ...]) -> None:
    assert labels_of_checkpoint(said, logits).names == expected


@pytest.mark.parametrize(
    ("said", "logits"),
    [
        ({"class_names": NAMES}, 3),  # nothing tells the version
        # 1.5: contiguous labels, with or without a grouping category before them
        ({**OLD, "progress_bar": False}, 3),
        ({**OLD, "class_names": NAMES}, 4),
        # a grouping category took one label, which one is not told
        ({"class_names": NAMES, "rfdetr_version": "1.8.2"}, 4),
        ({"class_names": ["person", "car"]}, 91),
    ],
)
def test_conventions_that_cannot_be_proved_are_asked_for(said: dict[str, Any], logits: int) -> None:
    with pytest.raises(InputError, match=r"from-0.*from-1"):
        labels_of_checkpoint(said, logits)
    assert labels_of_checkpoint(said, logits, "from-0").names[:2] == tuple(said["class_names"])
    assert labels_of_checkpoint(said, logits, "from-1").names[1:3] == tuple(said["class_names"])


def test_given_labels() -> None:
    assert labels_of_checkpoint({}, 3, ["a", "b", "c"]).names == ("a", "b", "c")
    assert labels_of_checkpoint({}, 91, "coco") == coco_labels()
    assert labels_of_checkpoint({**OLD, "class_names": dict(COCO_NAMES)}, 91) == coco_labels()
    for convention, logits in (("from-2", 3), ("coco", 3), (["a", "b"], 1)):
        with pytest.raises(InputError):
            labels_of_checkpoint({"class_names": NAMES}, logits, convention)


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
