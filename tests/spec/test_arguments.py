"""Every argument is checked while the command line is read: one line that names it, exit code 2,
and nothing begun.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rfdetr_repro.cli import VERBS, program_of
from rfdetr_repro.spec import arguments
from rfdetr_repro.spec.arguments import ArgumentParser
from rfdetr_repro.spec.errors import LONGEST_LINE, InputError, run_main

NO_NUMBERS = [
    "",
    "x",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1_0",
    "\N{FULLWIDTH DIGIT ONE}",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "9" * 5000,
    "0x10",
    "1,2",
    "é",
    "{}",
    "None",
]


@pytest.mark.parametrize(
    "text", [*NO_NUMBERS, "0", "-1", "1.5", "1e1", "11", "99999999999999999999"]
)
def test_what_is_no_whole_number_of_the_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 1 to 10"):
        arguments.whole(1, 10)(text)


@pytest.mark.parametrize("text", [*NO_NUMBERS, "-0.1", "1.1", "1e308", "-1e-9"])
def test_what_is_no_number_of_the_range(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match="is not a number at least 0 and at most 1"
    ):
        arguments.number(0, 1)(text)


def test_ends_of_ranges() -> None:
    assert arguments.whole(1, 10)("10") == 10 and arguments.whole(-3, 10)(" -3 ") == -3
    assert arguments.number(0, 1)("1") == 1 and arguments.number(0, 1)("0") == 0
    assert arguments.number(0, 1, "(]")("1e-9") == 1e-9
    for ends, text in (("(]", "0"), ("[)", "1"), ("()", "0"), ("()", "1")):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.number(0, 1, ends)(text)
    assert arguments.wholes(1, 99)("10,14") == [10, 14]
    for text in ("", "10,", "10,10", "10;14", "0,5", "nan"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.wholes(1, 99)(text)


@pytest.mark.parametrize(
    "text",
    ["", "../..", "/", "a/b", "..", "a\nb", "a\x1b[31m", "n" * 5000, "a\0b", "a.", "é\udc80"],
)
def test_names_without_paths(text: str) -> None:
    for kind in (arguments.folder_name, arguments.folder_names):
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)
    assert (
        arguments.folder_names("val,test") == "val,test"
        and arguments.folder_name("rf100-vl") == "rf100-vl"
    )


def test_files_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert arguments.input_file(str(tmp_path / "file")) == tmp_path / "file"
    assert arguments.input_folder(str(tmp_path)) == tmp_path
    for kind, name in (
        (arguments.input_file, "fifo"),
        (arguments.input_file, "."),
        (arguments.input_folder, "file"),
        *(
            (arguments.input_path, name)
            for name in ("missing", "loop", "n" * 5000, "a\0b", "file/below")
        ),
    ):
        with pytest.raises(argparse.ArgumentTypeError):
            kind(str(tmp_path / name))
    with pytest.raises(argparse.ArgumentTypeError, match="not a path"):
        arguments.input_path("")  # Path("") would be the current folder


def test_files_that_are_written(tmp_path: Path) -> None:
    """Nothing is made, whether the path is accepted or refused."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "new", "deep/er/new"):
        assert arguments.output_file(str(tmp_path / name)) == tmp_path / name
    for name in (".", "loop", "fifo", "file/below", "n" * 300, "a\0b", "n" * 300 + "/x"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.output_file(str(tmp_path / name))
    for name in ("file", "loop", "fifo", "file/below", "n" * 300, "a\0b"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.output_folder(str(tmp_path / name))
    assert arguments.output_folder(str(tmp_path / "deep/er")) == tmp_path / "deep/er"
    for device in ("/dev/full", "/dev/null"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a regular file"):
            arguments.output_file(device)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(arguments.tempfile, "TemporaryFile", refused)
    with pytest.raises(argparse.ArgumentTypeError, match="Read-only file system"):
        arguments.output_file(str(tmp_path / "new"))


def test_the_nearest_flag_and_choice_are_named() -> None:
    parser = ArgumentParser("rfdetr_repro.x")
    parser.add_argument("--backend", choices=("onnxruntime", "tensorrt"))
    for words, told in (
        (["--backedn", "x"], "did you mean --backend"),
        (["--backend", "onnxruntme"], "did you mean onnxruntime"),
    ):
        with pytest.raises(InputError, match=told):
            parser.parse_args(words)
    with pytest.raises(InputError, match="unrecognized arguments: extra") as caught:
        parser.parse_args(["extra", "y" * 5000])
    assert len(str(caught.value)) <= LONGEST_LINE


def test_the_beginning_of_a_flag_is_not_the_flag() -> None:
    parser = ArgumentParser("rfdetr_repro.x")
    parser.add_argument("--threads", type=int)
    with pytest.raises(
        InputError, match="unrecognized arguments: --thread.*did you mean --threads"
    ):
        parser.parse_args(["--thread=2"])
    assert parser.parse_args(["--threads=2"]).threads == 2


def test_two_hyphens_are_no_value() -> None:
    """Some versions of argparse would give an empty list, of which no type is asked."""
    parser = ArgumentParser("rfdetr_repro.x")
    parser.add_argument("--threads", type=arguments.whole(1, 4))
    parser.add_argument("--names", nargs="+")
    parser.add_argument("store", nargs="?")
    for words in (["--threads=--"], ["--names=--"]):
        with pytest.raises(InputError, match="'--' is not a value"):
            parser.parse_args(words)
    found = parser.parse_args(["--names", "a", "b", "--", "-store"])
    assert found.names == ["a", "b"] and found.store == "-store"


def test_every_command_takes_whole_flags_only() -> None:
    root = Path(arguments.__file__).parents[2]
    plain = [
        path
        for folder in ("rfdetr_repro", "reports")
        for path in (root / folder).rglob("*.py")
        if "argparse.ArgumentParser(" in path.read_text().replace("class ArgumentParser(", "")
        # the parser of completion.py reads no command line: a completion script is made from it
        and path.name not in ("arguments.py", "completion.py")
    ]
    assert plain == []


def actions() -> Iterator[tuple[str, argparse.Action]]:
    for verb in VERBS:
        for action in program_of(verb).parser()._actions:
            yield verb, action


def test_no_argument_is_a_bare_number_or_path() -> None:
    """``type=int`` takes 10^20 and -1, ``type=float`` takes NaN, ``Path`` takes an empty text for
    the current folder.
    """
    bare = [
        f"{verb} {action.dest}" for verb, action in actions() if action.type in (int, float, Path)
    ]
    assert bare == []


def test_defaults_are_values_that_their_arguments_take() -> None:
    for verb, action in actions():
        if (
            isinstance(action.default, (int, float))
            and not isinstance(action.default, bool)
            and action.type is not None
        ):
            assert action.type(str(action.default)) == action.default, (verb, action.dest)  # type: ignore[operator]
        if action.choices is not None and action.default is not None:
            defaults = action.default if action.nargs in ("+", "*") else [action.default]
            assert set(defaults) <= set(action.choices), (verb, action.dest)


BENCH = {
    "ap-gate": ["nan", "-1", "inf"],
    "nms-score": ["nan", "-0.1", "1", "inf"],
    "nms-iou": ["nan", "0", "-1", "1.5", "inf"],
    "nms-candidates": ["0", "-1", "nan", "99999999999999999999"],
    "fps": ["inf", "1e-9", "0", "-1", "nan"],
    "buffer-ms": ["-1", "nan", "inf"],
    "spin-ms": ["-1", "nan"],
    "seconds": ["1e308", "-1", "nan"],
    "builds": ["0", "99999999999999999999"],
    "threads": ["0", "-3", "99999999999999999999"],
    "samples": ["0", "99999999999999999999"],
    "inject": ["-1", "x"],
    "backend": ["odd", "onnxruntim"],
    "split": ["", "../..", "/"],
    "out": ["/dev/full", "", "/dev/null/x", "n" * 5000],
}
COMMANDS = {
    ("rfdetr_repro.bench.command.run", ("--onnx", "a.onnx")): BENCH,
    ("rfdetr_repro.search.command", ("--run", ".", "--data", ".")): {
        "engines": ["0", "5", "nan"],
        "candidates": ["0"],
        "tolerance": ["0", "1", "nan"],
        "confidence": ["1", "nan"],
        "margin": ["nan", "-1", "inf"],
        "loss": ["1", "-0.1", "nan"],
        "first": ["0", "2", "nan"],
        "metric": ["app", "latency"],
        "backend": ["torch", "odd"],
        "targets-ms": ["nan", "inf", "0", "-1", "x", ""],
        "confirm-on": ["", "../val", "train"],
        "worker-count": ["0"],
        "run": ["missing", ""],
    },
    ("rfdetr_repro.train.command", ("--data", ".", "--out", "out")): {
        "steps": ["0", "-1", "1.5", "99999999999999999999"],
        "batch-size": ["0", "99999999999999999999"],
        "accumulate": ["0", "99999999999999999999"],
        "seed": ["-1", "99999999999999999999"],
        "processes": ["0", "100000"],
        "weights": ["missing", ""],
        "set": [
            "lr=-1",
            "lr=nan",
            "steps=0",
            "nothing=1",
            "lr",
            "=",
            "sampling=odd",
            "bfloat16=maybe",
            "seed=" + "9" * 5000,
            "steps=1_0",
            "lr=1_0e-5",
            "seed=\N{FULLWIDTH DIGIT ONE}",
        ],
    },
    (
        "rfdetr_repro.search.finetune",
        ("--run", ".", "--arch", "r32-p8-w1-d1-q5", "--data", ".", "--out", "out"),
    ): {
        "arch": [
            "x",
            "r" + "9" * 5000 + "-p8-w1-d1-q5",
            "r0-p8-w1-d1-q5",
            "r32x" + "9" * 5000 + "-p8-w1-d1-q5",
        ],
        "steps": ["0", "nan"],
        "set": ["lr=2", "lrr=1"],
    },
    ("rfdetr_repro.evaluate", ("--artifact", ".", "--data", ".")): {
        "threads": ["0", "99999999999999999999"],
        "max-dets": ["0", "99999999999999999999"],
        "json": ["/dev/full", "", "a\0b", "n" * 5000],
        "backend": ["nope"],
    },
    ("rfdetr_repro.bench.command.compare", (".", ".")): {
        "margin": ["nan", "-1", "inf"],
        "between-sessions": ["nan", "-1"],
    },
    ("rfdetr_repro.plots.command", ("--figure", "1")): {
        "run": ["missing", "n" * 5000, "a\0b", "a\nb", "é\udc80"],
        "out": ["/dev/null"],
        "size": ["NAN", ""],
    },
    ("rfdetr_repro.records.aggregate", (".", "--name", "x", "--out", "m.jsonl")): {
        "buffer-ms": ["nan", "-1"],
        "target-ms": ["nan", "0"],
        "name": ["", "a/b"],
        "out": ["/dev/full", "/"],
    },
    ("rfdetr_repro.export.fp16_audit_command", (".",)): {
        "count": ["0", "99999999999999999999"],
        "images": ["missing", "n" * 5000],
    },
}
REFUSED = [
    (module, (*valid, f"--{flag}={value}"))
    for (module, valid), flags in COMMANDS.items()
    for flag, values in flags.items()
    for value in values
]


@pytest.mark.parametrize(
    ("module", "words"),
    REFUSED,
    ids=lambda value: str(value[-1])[:40] if isinstance(value, tuple) else value,
)
def test_an_argument_that_is_no_use(
    module: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch", reason="some commands import torch")
    main: Callable[..., Any] = importlib.import_module(module).main
    monkeypatch.chdir(tmp_path)
    assert run_main(main, list(words)) == 2
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.startswith("error: ")
        and err.count("\n") == 1
        and len(err) <= LONGEST_LINE + 8
    ), err
    assert list(tmp_path.iterdir()) == []
