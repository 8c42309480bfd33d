"""A campaign file is checked whole before anything is spent: types, ranges, choices, names, and how
its parts fit together.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_repro.reproduce import command as reproduce
from rfdetr_repro.reproduce.run import Reproduction
from rfdetr_repro.spec.campaign import CAMPAIGNS, from_toml
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, LONGEST_LINE, InputError, run_main

VALUES = {  # key -> values that are no use; of numbers also the usual wrong types
    "train": {
        "steps": [0, -1, 1e9],
        "batch_size": [0, -4, 10**9],
        "accumulate": [-1, 0],
        "seed": [-1, 10**22],
        "lr": [-1.0, 2.0],
        "ema_decay": [2.0, 1.0, -0.1],
        "ema_tau": [0.0],
        "clip_norm": [0.0, -1.0],
        "cooldown_share": [5.0],
        "cooldown_form": ["step", 3],
        "base_share": [2.0, -1.0],
        "flip_probability": [5.0],
        "weight_decay": [-1.0],
        "beta2": [1.0],
        "layer_decay": [-1.0],
        "patience": [-1],
        "class_weight": [-1.0],
        "checkpoint_every": [-1, 0],
        "evaluate_every": [-1],
        "sampling": ["unifrom", 3],
    },
    "buffered": {
        "buffer_ms": [-1.0],
        "threads": [0, -3, 10**20],
        "batch": [0, 8],
        "relative_ci": [-1.0],
        "settle_s": [-1.0],
        "spin_ms": [5e9],
        "timeout_s": [0.0],
        "warmup": [-5],
        "builds": [0],
        "min_samples": [0],
        "mode": ["bufered"],
        "scope": ["all"],
    },
    "space": {
        "resolutions": [[], [0], [128, 128], ["128"], [[128]], [128.5], [10**9], "128", 128],
        "windows": [[0], [True]],
        "decoder_layers": [[-1], [10**9], [0, 7]],
        "queries": [[0], [10**6]],
        "patches": [[12.0], []],
    },
    "pretraining": {"data": ["", " ", "a\\u0000b", 3, ["x"]]},
    "": {
        "strategy": ["odd", 3],
        "metric": ["odd", "latency", 1],
        "backend": ["odd", "torch-cuda"],
        "precision": ["fp8", "int8", "bf16"],
        "engines": [0, -1],
        "most_engines": [0, -1, 5],
        "candidates": [0, -1],
        "targets_ms": [["x"], [-1.0], [0.0], 3.0, [2.5, 2.5], [[1]]],
        "title": ["", "  ", "a\\nb", "\\u001b[2J", 3],
        "departures": [[5], "x", [""], [" "]],
        "finetune_steps": [-1],
        "data_seed": [-1],
        "size": [["pico"], 3, "pic", ""],
        "data": [3, ["x"], True, "", "a\\nb"],
        "weights": [3, []],
        "base": [["coco"], 3, "coko"],
        "name": [
            ["x"],
            "",
            "/abs",
            "..",
            "a/b",
            "a\\u0000b",
            5,
            True,
            "n" * 300,
            " x",
            "x.",
            "a\\nb",
        ],
        "pretraining": [5, "x"],
        "train": [5],
        "space": ["x"],
        "no_such_key": [1],
    },
}


def toml(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return (
        str(value).lower()
        if isinstance(value, bool)
        else str(value).replace("'", '"').replace("True", "true")
    )


CASES = [
    (table, key, value)
    for table, rows in VALUES.items()
    for key, values in rows.items()
    for value in values
]
NUMBERS = [
    (table, key)
    for table in ("train", "buffered")
    for key in VALUES[table]
    if key not in ("sampling", "mode", "scope")
]
CASES += [
    (table, key, wrong)
    for table, key in NUMBERS
    for wrong in ("7", True, [1], float("nan"), float("inf"), float("-inf"))
]


@pytest.mark.parametrize(("table", "key", "value"), CASES, ids=lambda value: str(value)[:20])
def test_a_value_that_is_no_use_is_one_line(
    table: str, key: str, value: object, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Reproduction, "run", lambda self: pytest.fail("work began"))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "campaign.toml"
    file.write_text((f"[{table}]\n" if table else "") + f"{key} = {toml(value)}\n")
    assert run_main(reproduce.main, ["--campaign", str(file)]) == EXIT_BAD_INPUT
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.startswith("error: ")
        and err.count("\n") == 1
        and len(err) <= LONGEST_LINE + 8
    )
    assert [path.name for path in tmp_path.iterdir()] == ["campaign.toml"]


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 10_000,
        "seed = " + "1" * 5_000,
        "engines = 0x" + "f" * 5_000,
        "[a.b]\nc = [{d = 9223372036854775808}]",
        "\xff",
        "a = 1\na = 2",
        "[train",
        "<html>",
        "a = 1979-13-01",
        "a = [[[" + "\x00" * 10,
    ],
)
def test_what_is_no_toml_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "campaign.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="not TOML"):
        from_toml(file)


@pytest.mark.parametrize(
    "text",
    [
        'data = "campaign.toml"',
        'data = "empty"',
        'weights = "campaign.toml"',
        'weights = "empty"',
        '[pretraining]\ndata = "campaign.toml"',
        '[pretraining]\ndata = "empty"',
    ],
)
def test_files_of_a_campaign_are_read_before_its_folder_is_made(
    text: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Reproduction, "run", lambda self: pytest.fail("work began"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "campaign.toml").write_text(text)
    assert run_main(reproduce.main, ["--campaign", "campaign.toml"]) == EXIT_BAD_INPUT
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["campaign.toml", "empty"]


def test_the_nearest_name_is_named(tmp_path: Path) -> None:
    for line, hint in (
        ('metric = "mask_app"', "mask_ap"),
        ('strategy = "rase"', "race"),
        ('base = "embeded"', "embedded"),
    ):
        (tmp_path / "c.toml").write_text(line)
        with pytest.raises(InputError, match=f"did you mean {hint}"):
            from_toml(tmp_path / "c.toml")


def test_what_ships_is_accepted() -> None:
    for path in (Path(__file__).resolve().parents[2] / "campaigns").glob("*.toml"):
        assert from_toml(path).name
    assert all(chosen.space.check() for chosen in CAMPAIGNS.values())
