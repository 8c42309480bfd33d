"""Every command on the scoreboard is one that its program takes: its own parser parses it, and it
knows each name in it.
"""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the programs of the commands need torch")

from rfdetr_repro.bench import models
from rfdetr_repro.bench.command import checks, named_inputs
from rfdetr_repro.cli import VERBS
from rfdetr_repro.paper.cells import Row, Slot, cells, table_rows
from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.aggregate import COUNTS
from rfdetr_repro.runtime.backends import BACKENDS
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.campaign import campaign
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.launch import Program
from rfdetr_repro.spec.presets import parse_arch
from rfdetr_repro.tables.missing import (
    LEGEND,
    bench_name,
    command,
    published_only,
    spelled_out,
)


@pytest.fixture(autouse=True)
def stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands call FILE, DIR, RUN and so on is there, for the programs refuse paths that
    are not.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("DIR", "RUN", "RUNS", "TUNED", "$RFDETR_COCO"):
        Path(name).mkdir()
    for name in (
        "FILE",
        "FILE.onnx",
        "RUN/supernet.safetensors",
        "RUN/records.jsonl",
        "TUNED/records.jsonl",
    ):
        Path(name).touch()


@cache
def commands() -> tuple[str, ...]:
    """The distinct ones of every published cell, as the list of all cells has them."""
    told = dict.fromkeys(spelled_out(row, slot) for name in TABLES for row, slot in cells(name))
    return tuple(text for text in told if text)


def parsed(words: list[str]) -> argparse.Namespace:
    """``words``: python -m MODULE and its arguments; what its parser refuses fails the test."""
    assert words[:2] == ["python", "-m"], words
    program = next(Program(verb.module) for verb in VERBS.values() if verb.also == words[2])
    try:
        return program.parser().parse_args(words[3:])
    except (SystemExit, InputError):
        pytest.fail(f"{words[2]} refuses {shlex.join(words[3:])}")


def check_models(names: list[str], args: argparse.Namespace) -> None:
    from rfdetr_repro.baselines.catalog import entries

    for name in names:
        models.model_id(name)  # an unknown one is an InputError
        known = entries().get(models.known_name(name))
        if known is not None and (reason := known.baseline.torch_only):
            assert args.checkpoint is None and args.backend == ["torch"], f"{name}: {reason}"


def check(words: list[str]) -> None:
    """Raises, or fails, where the program would stop at its arguments."""
    args = parsed(words)
    program = words[2].removeprefix("rfdetr_repro.")
    if program == "bench":
        checks.check(args)
        assert set(args.backend or ()) <= set(BACKENDS)
        check_models(named_inputs.names(args), args)
    elif program == "bench.costs":
        assert args.models == "paper"
    elif program == "finetune":
        assert args.out.name == "TUNED" and "--run RUN" in " ".join(words)
        if args.arch != "ARCH":
            Arch.parse(args.arch)
    elif program == "export":
        parse_arch(args.arch)
    elif program == "reproduce":
        campaign(args.campaign)
    elif program == "mean":
        assert args.name in COUNTS and (args.size is None) == (args.target_ms is None)
    else:
        assert program == "search", f"how are the names of {program} checked?"


def test_every_command_is_taken_by_its_program() -> None:
    assert len(commands()) > 50
    for text in commands():
        steps = shlex.split(text, comments=True)
        while "&&" in steps:
            end = steps.index("&&")
            check(steps[:end])
            steps = steps[end + 1 :]
        check(steps)


@pytest.mark.parametrize(
    "text",
    [
        "python -m rfdetr_repro.train --arch r560-p14-w4-d3-q300 --data DIR --out RUN",
        "python -m rfdetr_repro.bench --models dfine-s,rfdetr-nano --checkpoint FILE",
        "python -m rfdetr_repro.bench --models llmdet-t --backend torch --checkpoint FILE",
        "python -m rfdetr_repro.bench --models 'rfdetr at r560-p14-w4-d3-q300'",
        "python -m rfdetr_repro.bench --models rtdetr-m",
        "python -m rfdetr_repro.search --run RUN --data DIR, once for each data set",
    ],
)
def test_the_check_refuses_what_cannot_run(text: str) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(shlex.split(text))


def of(table: str, label: str, column: str) -> tuple[Row, Slot]:
    return next(
        (row, slot) for row, slot in cells(table) if (row.label, slot.column) == (label, column)
    )


def test_a_command_measures_what_its_cell_holds() -> None:
    """The precision of the column, the architecture of the step, each model of a comparison, the
    paper's own identities.
    """
    assert "--precision fp32 " in spelled_out(*of("1", "D-FINE M", "buffered_fp32_ap"))
    gap = spelled_out(*of("11", "RF-DETR (DINOv2-B)", "xl")).split(" && ")
    assert [text.split()[4] for text in gap] == ["dfine-xl", "rfdetr-xlarge", "rfdetr-2xlarge"]
    assert "--models rtdetr-r18 " in spelled_out(*of("4", "RT-DETR M", "latency_ms"))
    steps = {row.identity.model.variant: row for row in table_rows("5")}
    latency = next(slot for row, slot in cells("5") if slot.metric == "ms")
    assert bench_name(steps["step 9"]) == bench_name(steps["step 10"]) == "rfdetr-medium"
    cut = spelled_out(steps["step 6"], latency)
    assert (
        "--arch r640-p16-w4-d3-q300 --out FILE.onnx && python -m rfdetr_repro.bench --onnx "
        "FILE.onnx " in cut
    )
    assert (
        published_only(*of("10", "GroundingDINO T class index names", "ap"))
        and command(*of("2", "YOLOv8 N", "latency_ms"))[0]
    )
    # its prompt is the data set's class names
    assert published_only(*of("4", "LLMDet T", "latency_ms"))


def test_every_placeholder_is_explained() -> None:
    for text in commands():
        words = re.sub(r"--size \w+", "", text).split()
        stems = {word.split(".")[0].split("/")[0] for word in words}
        capitals = {stem for stem in stems if stem.isupper() and not stem.startswith("$")}
        assert all(f"{word}:" in LEGEND for word in capitals), text
