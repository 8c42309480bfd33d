"""One door to a search: a request that is checked whole, stages that are the run, and one way from
an architecture to the file that is measured.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples_search import QUICK, latency_model, search_in
from tiny import SPACE, TINY

import rfdetr_repro
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search import command, engines
from rfdetr_repro.search.deployment import Deployment
from rfdetr_repro.search.request import Cluster, SearchRequest, decided_by
from rfdetr_repro.search.run import SearchRun, open_search, run_search
from rfdetr_repro.search.search import Search
from rfdetr_repro.search.targets import Targets
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.spec.protocol import Protocol

PROTOCOLS = (QUICK, replace(QUICK, mode="sustained"))
FEW = SearchSpace((48, 64), (16,), (1,), (0, 1, 2), (3, 10))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of measured engines: milliseconds that grow with tokens, layers and queries."""

    def measure(search: Search, archs: list[Arch], *rest: Any) -> dict[Arch, float]:
        return {arch: latency_model(search).predict(arch) for arch in archs}

    monkeypatch.setattr(engines, "measure_engines", measure)


def request_in(run: Path, place: Path, **changes: Any) -> SearchRequest:
    few = {"engines": 6, "most_engines": 6, "candidates": 2, "protocols": PROTOCOLS, "space": FEW}
    return SearchRequest(run, **{"data": place / "data", "device": "cpu", **few, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "random"}, "unknown strategy 'random'"),
        ({"metric": "recall"}, "unknown metric 'recall'"),
        ({"engines": 5}, "engines = 5 is not a whole number from 6"),
        ({"engines": True}, "engines = True is not a whole number"),
        ({"candidates": 0}, "candidates = 0 is not a whole number from 1"),
        ({"engines": 9, "most_engines": 8}, "most_engines = 8 is less than engines = 9"),
        ({"confirm_on": ("test",)}, "confirm_on = test; write val, or val,test"),
        ({"confirm_on": ("val", "train")}, "confirm_on = val, train"),
        ({"protocols": ()}, "0 protocols"),
        (
            {"protocols": (QUICK, replace(QUICK, threads=QUICK.threads + 1))},
            "the same number of threads",
        ),
        ({"protocols": (Protocol("paced", fps=10.0),)}, "latencies is not possible"),
        ({"data": {}}, "no split 'val' to confirm on"),
        ({"data": {"val": None}, "workers": Cluster()}, "workers read the data themselves"),
        ({"space": SearchSpace((16,), (16,), (3,), (0,), (3,))}, "no legal configuration"),
    ],
)
def test_a_request_is_checked_whole_before_anything_is_read(
    changes: dict[str, Any], message: str
) -> None:
    """No run folder and no data set exist here."""
    with pytest.raises(InputError, match=message):
        SearchRequest(**{"run": Path("no/run"), "data": Path("no/data"), **changes})


def test_a_request_needs_no_pytorch() -> None:
    code = (
        "import sys, rfdetr_repro; request = rfdetr_repro.SearchRequest('run', 'data'); "
        "assert request.decision.mode == 'buffered'; "
        "from rfdetr_repro.search.command import parser; parser().format_help(); "
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_default_protocols_are_the_embedded_campaigns() -> None:
    request = SearchRequest(Path("run"), Path("data"))
    assert request.protocols == EMBEDDED.protocols and request.decision == EMBEDDED.decision
    assert decided_by("sustained") == EMBEDDED.protocols[::-1]
    with pytest.raises(InputError, match="unknown mode 'paced'"):
        decided_by("paced")


@pytest.mark.usefixtures("known")
def test_a_run_from_python(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it returns is what the store holds and what the command prints; run again it measures
    nothing.
    """
    told: list[str] = []
    steps: list[tuple[str, int]] = []

    def progress(step: str) -> Callable[[Any], Any]:
        return lambda items: steps.append((step, len(items))) or items

    request = request_in(run, place, tell=told.append, progress=progress)
    result = rfdetr_repro.run_search(request, estimate=True)
    begun = [line for line in told if line.startswith("stage ")]
    assert [line.split(" ", 5)[1:5] for line in begun] == [
        [str(number), "of", "3", f"[{name}]"]
        for number, name in enumerate(("latency", "search", "confirm"), 1)
    ]
    assert all(re.search(r": at most \S+, \S+ until the end$", line) for line in begun)
    stored = {record.id: record for record in Store(run / "records.jsonl").read()}
    assert {record.model.arch for record in result.records} == set(FEW)
    assert all(stored[one.id] == one for one in [*result.records, *result.confirmed])
    assert len(stored) == len(result.records) + len(result.confirmed)
    assert {one.source for one in result.confirmed} == {"protocol"}
    best = result.frontier()
    assert best and all(one in result.confirmed for one in best)
    assert {one.protocol.mode for one in best if one.protocol} == {"buffered"}
    assert told[0].startswith("passes on cpu, latencies on onnxruntime fp32 buffered")
    # the engines are not measured here
    files = len({one.model.arch for one in result.confirmed})
    assert steps == [("backbones", len({arch.backbone for arch in FEW})), ("candidates", files)]
    assert f"{len(FEW)} configurations; Records in {run / 'records.jsonl'}" in result.lines()
    before = (run / "records.jsonl").read_bytes()
    monkeypatch.setattr("rfdetr_repro.search.evaluation.shared_detections", None)
    monkeypatch.setattr("rfdetr_repro.bench.confirm.measure_interleaved", None)
    told.clear()
    again = run_search(request, estimate=True)
    assert not any("until the end" in line for line in told)  # what is stored is only read
    assert compared(again.records) == compared(result.records)
    assert again.confirmed == result.confirmed
    assert [one.latency for one in again.records] == [one.latency for one in result.records]
    assert (run / "records.jsonl").read_bytes() == before and again.lines() == result.lines()
    capsys.readouterr()
    monkeypatch.setattr(
        "rfdetr_repro.spec.campaign.EMBEDDED",
        replace(EMBEDDED, buffered=PROTOCOLS[0], sustained=PROTOCOLS[1]),
    )
    given = ["--run", str(run), "--data", str(place / "data"), "--device", "cpu"]
    asked = command.request_of(parsed([*given, "--candidates", "2", "--engines", "6"]), "words")
    assert asked == replace(request, space=None, most_engines=None, command="words")


def parsed(words: list[str]) -> Any:
    args = command.parser().parse_args(words)
    args.data = Path(args.data)
    return args


@pytest.mark.usefixtures("known")
def test_the_stages_are_the_run(run: Path, place: Path, tmp_path: Path) -> None:
    """A flow that drives the stages itself gets the configurations, accuracies and candidates of
    :func:`run_search`, on splits that it has read.
    """
    whole = run_search(request_in(run, place))
    other = tmp_path / "other"
    other.mkdir()
    (other / "supernet.safetensors").write_bytes((run / "supernet.safetensors").read_bytes())
    splits = {"val": read_split(place / "data", "val")}
    stages = SearchRun.open(request_in(other, place, data=splits))
    with stages.working():
        fit = stages.fit()
        found = stages.evaluate(fit)
        confirmed = stages.confirm(fit, found.records, check_exports=True)
        final = stages.refit(fit, found.records, confirmed)
    assert fit.model == whole.fit.model and fit.heldout == whole.fit.heldout
    assert compared(final.records) == compared(whole.records)
    assert compared(confirmed) == compared(whole.confirmed)


def compared(records: list[Record]) -> list[tuple[Any, ...]]:
    return [(one.id, one.accuracy, one.mask_accuracy, one.artifact) for one in records]


@pytest.mark.usefixtures("known")
def test_a_race_for_targets_from_python(run: Path, place: Path) -> None:
    said: list[str] = []
    request = request_in(
        run,
        place,
        strategy="race",
        metric="mask_ap",
        targets=Targets((1.5,), 0.9),
        confirm_on=("val", "test"),
        tell=said.append,
    )
    result = run_search(request)
    assert result.outcome is not None and any(line.startswith("race: after") for line in said)
    assert json.loads((run / "race.json").read_text())[0]["entered"] == len(FEW)
    assert {one.data.split for one in result.confirmed if one.data} == {"val", "test"}
    assert {one.data.split for one in result.decided if one.data} == {"val"}
    line = result.lines()[-1]
    assert line.startswith("target 1.5 ms: ")
    file = Path(line.partition(", file ")[2])
    assert file.is_file() and sha256_file(file) in {
        one.artifact.sha256 for one in result.confirmed if one.artifact
    }


def test_what_does_not_fit_is_refused_and_nothing_is_written(run: Path, place: Path) -> None:
    before = sorted(run.rglob("*"))
    wrong = {
        "no backbone of the search space was trained": {
            "space": SearchSpace((80,), (20,), (1,), (0,), (5,))
        },
        "a larger decoder than the checkpoint holds": {"space": replace(FEW, decoder_layers=(9,))},
        "no such|not there|no file|cannot": {"data": place / "elsewhere"},
    }
    for message, changes in wrong.items():
        with pytest.raises(InputError, match=message):
            run_search(request_in(run, place, **changes))
    with pytest.raises(InputError):
        run_search(request_in(run / "elsewhere", place))
    assert sorted(run.rglob("*")) == before
    with (
        Store(run / "records.jsonl").exclusive(),
        pytest.raises(InputError, match="another run"),
    ):
        run_search(request_in(run, place))


def test_the_space_is_the_trained_one_unless_another_is_asked_for(run: Path, place: Path) -> None:
    assert open_search(request_in(run, place, space=None)).space == SPACE
    search = open_search(request_in(run, place))
    assert search.space == FEW and not search.masks
    assert open_search(request_in(run, place, masks=True)).masks
    assert open_search(request_in(run, place, metric="mask_ap50")).masks


# -- one way from an architecture to the file ------------------------------------------------------


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Path]]:
    """Instead of TensorRT: an "engine" that names what it was built of."""
    asked: list[tuple[str, int, Path]] = []

    def build(source: Artifact, backend: str, folder: Path, options: Any) -> Artifact:
        asked.append((backend, options.build, source.path))
        told = replace(
            source.manifest,
            sha256=f"{options.build:064x}",
            format=backend,
            onnx_sha256=source.sha256,
        )
        return Artifact(Path(folder, f"{options.build}.engine"), told)

    monkeypatch.setattr("rfdetr_repro.export.tensorrt.engine.build_engine", build)
    return asked


def test_the_file_of_a_deployment_that_builds_engines(
    run: Path,
    place: Path,
    built: list[tuple[str, int, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Export, float16 form and engine by one call; another build is another engine of the same
    file.
    """
    search = search_in(run, place, deployment=Deployment("tensorrt", "fp16", True))
    deployed = search.deployed
    first, second = (deployed.artifact(TINY.arch, build) for build in (0, 1))
    half = deployed.file(TINY.arch)
    assert half.manifest.precision == "fp16" and half.path.parent == run / "artifacts" / "fp16"
    assert [one.manifest.onnx_sha256 for one in (first, second)] == [half.sha256] * 2
    assert first.sha256 != second.sha256
    assert built == [("tensorrt", 0, half.path), ("tensorrt", 1, half.path)]
    opened: list[Any] = []
    monkeypatch.setattr(
        "rfdetr_repro.search.deployment.open_session",
        lambda artifact, backend, **options: opened.append((artifact, backend, options)),
    )
    deployed.open(TINY.arch, 3, build=1)
    assert opened == [(second, "tensorrt", {"threads": 3, "cuda_graph": True})]


def test_the_file_of_a_deployment_without_engines_is_the_onnx_file(
    run: Path, place: Path, built: list[tuple[str, int, Path]], tmp_path: Path
) -> None:
    """Whatever the build; its bytes are those of the exporter, and a second call finds them."""
    search = search_in(run, place)
    made = search.deployed.artifact(TINY.arch, 2)
    assert not built and made == search.deployed.file(TINY.arch) == load_artifact(made.path)
    alone = export_onnx(
        search.detector.slice(TINY.arch), tmp_path / "alone.onnx", meta=search._meta(TINY.arch)
    )
    assert made.path.read_bytes() == alone.path.read_bytes() and made.manifest == alone.manifest
    written = made.path.stat().st_mtime_ns
    assert search.deployed.artifact(TINY.arch).path.stat().st_mtime_ns == written


def test_the_command_refuses_in_its_own_words(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--run", str(run), "--data", str(place / "data")]
    for more, told in (
        (["--address", "a:1"], "--address and --worker-count belong to --workers ray"),
        (["--engines", "9", "--most-engines", "8"], "--most-engines 8 is less than --engines 9"),
        (["--targets-ms", ""], "'' is not a list of latencies"),
        (["--tolerance", "0.2"], "--tolerance has no meaning without --targets-ms"),
        (["--margin", "0.01"], "--margin has no meaning without --strategy race"),
        (["--loss", "0"], "--loss has no meaning without --strategy race"),
    ):
        assert run_main(command.main, [*given, *more]) == 2
        captured = capsys.readouterr()
        assert told in captured.err and not captured.out
