"""A search for models that PyTorch runs, eagerly or as a CUDA graph, in float32, float16 and
bfloat16: the latency model, the confirmed files, the Records and the chosen file are all of that
runtime.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples_search import QUICK, search_in
from test_search_run import known, request_in
from tiny import SPACE

from rfdetr_repro import cli
from rfdetr_repro.evaluate import evaluate
from rfdetr_repro.export.artifact import load_artifact
from rfdetr_repro.export.deployed import file_of_run
from rfdetr_repro.ops.device import choose_device
from rfdetr_repro.records.pareto import modelled_for
from rfdetr_repro.records.record import ArtifactId, Latency
from rfdetr_repro.reproduce import command as reproduce
from rfdetr_repro.runtime.agreement import Tolerance, check_against
from rfdetr_repro.search import command
from rfdetr_repro.search.budget import Budget
from rfdetr_repro.search.deployment import Deployment
from rfdetr_repro.search.engines import measure_engines
from rfdetr_repro.search.finetune import FineTuning
from rfdetr_repro.search.pick import file_of, measured_on, pick
from rfdetr_repro.search.run import SearchRun, run_search
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, InputError, run_main
from rfdetr_repro.spec.train_config import TrainConfig

__all__ = ["known"]  # a fixture
PRECISIONS = ("fp32", "fp16", "bf16")
# of a coordinate and a score in each precision, against float32
CLOSE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 8e-2}
# the architecture with the fewest operations
SMALL = min(SPACE, key=lambda arch: (arch.tokens, arch.decoder_layers, arch.queries))
RUNTIME = f"torch-{choose_device().type}-eager"
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_engines_and_confirmed_models_run_in_pytorch(
    run: Path, place: Path, precision: str
) -> None:
    search = search_in(run, place, deployment=Deployment("torch", precision))
    arch = SMALL
    measure_engines(search, [arch], QUICK)
    confirmed = search.confirm(arch, [search.split], [QUICK])
    (engine,) = [one for one in search.store.read() if one.source == "engine"]
    assert engine.deployment == f"torch {precision} buffered"
    measured = [engine, *confirmed]
    identities = {(one.artifact.runtime, one.artifact.precision) for one in measured}
    assert len(measured) == 2 and identities == {(RUNTIME, precision)}
    # accuracy and latency of one file, which is that of the latency model too
    assert confirmed[0].accuracy.artifact_sha256 == engine.artifact.sha256
    made = search.deployed.artifact(arch)
    assert made.manifest.format == "torch" and made.manifest.precision == precision
    assert load_artifact(made.path) == made
    written = made.path.stat().st_mtime_ns
    assert search.deployed.artifact(arch, build=1) == made  # other builds are the same file
    assert made.path.stat().st_mtime_ns == written and not list(run.rglob("*.onnx"))
    session = search.deployed.open(arch, 1)
    images = np.random.default_rng(0).random((1, 3, *arch.input_hw), dtype=np.float32)
    allowed = Tolerance(box=CLOSE[precision], score=CLOSE[precision], mask_logit=1, matched=0.9)
    check_against(search.detector.slice(arch), session, images, allowed)


def test_weights_of_one_file_in_two_precisions_are_two_deployments(run: Path, place: Path) -> None:
    found = {}
    for precision in PRECISIONS:
        search = search_in(run, place, deployment=Deployment("torch", precision))
        found[precision] = search.deployed.artifact(SMALL)
    assert len({one.sha256 for one in found.values()}) == 1
    for precision, artifact in found.items():
        file = ArtifactId(artifact.sha256, artifact.sha256, RUNTIME, precision, 1)
        record = replace(
            search.record("search", SMALL),
            source="protocol",
            artifact=file,
            latency=Latency(1.0, artifact_sha256=file.sha256),
            protocol=QUICK,
        )
        assert file_of(run, record.as_measured()) == artifact.path


def test_a_damaged_file_is_made_again(
    run: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = search_in(run, place, deployment=Deployment("torch", "bf16"))
    arch = SMALL
    made = search.deployed.artifact(arch)
    content = made.path.read_bytes()
    made.path.write_bytes(content[:-1])
    assert search.deployed.artifact(arch) == made and made.path.read_bytes() == content
    assert caplog.text.count("exported again") == 1 and made.path.name in caplog.text


@pytest.mark.parity
@pytest.mark.usefixtures("known")
def test_a_whole_search_ends_with_a_file_for_pytorch(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chosen file is computed in the precision that was measured, wherever it is used."""
    asked = request_in(
        run,
        place,
        candidates=1,
        protocols=(QUICK,),
        deployment=Deployment("torch", "bf16"),
        budget=Budget(1e5),
    )
    result = run_search(asked)
    assert {one.deployment for one in result.records} == {"torch bf16 buffered 0 ms"}
    assert {one.artifact.runtime for one in result.confirmed} == {RUNTIME}
    assert all(modelled_for(result.records[0], one) for one in result.confirmed)
    capsys.readouterr()
    assert cli.main(["pick", str(run), "--budget-ms", "100000"]) == 0
    told = capsys.readouterr().out
    file = run / "best-100000ms.safetensors"
    assert f"{file} " in told and f"on {RUNTIME} in bf16" in told
    chosen = load_artifact(file)
    assert chosen.manifest.precision == "bf16"
    measured = next(one for one in result.confirmed if one.artifact.sha256 == chosen.sha256)
    again = evaluate(file, place / "data")
    assert again["runtime"] == RUNTIME and again["boxes"]["ap"] == measured.accuracy.ap
    assert file_of_run(run)[0] == file
    # models on two runtimes are not compared; either can be chosen from
    search_in(run, place).confirm(SMALL, [result.search.split], [QUICK])
    arguments = ["pick", str(run), "--budget-ms", "100000"]
    assert cli.main(arguments) == EXIT_BAD_INPUT
    assert "choose one backend" in capsys.readouterr().err
    for more, ending in (
        (["--backend", "torch"], "safetensors"),
        (["--backend", "onnxruntime"], "onnx"),
        (["--precision", "bf16"], "safetensors"),
    ):
        assert cli.main([*arguments, *more]) == 0
        assert f"best-100000ms.{ending} " in capsys.readouterr().out
    assert cli.main([*arguments, "--backend", "tensorrt"]) == EXIT_BAD_INPUT
    told = capsys.readouterr().err
    assert "no file was measured on tensorrt" in told and f"{RUNTIME} in bf16" in told
    assert pick(run, Budget(1e5), "torch", "bf16").artifact.sha256 == chosen.sha256


def test_exports_are_compared_with_pytorch_in_float32(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the precision of the deployment."""
    seen: list[Any] = []
    monkeypatch.setattr(
        "rfdetr_repro.search.run.check_against",
        lambda subnet, session, images: seen.append(session),
    )
    opened = SearchRun.open(request_in(run, place, deployment=Deployment("torch", "bf16")))
    opened._check_export(SMALL)
    assert [one.artifact_id.runtime for one in seen] == [RUNTIME]
    assert [one.artifact_id.precision for one in seen] == ["fp32"]


def test_an_export_is_compared_on_all_images_of_a_split_with_few(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    monkeypatch.setattr(
        "rfdetr_repro.search.run.check_against",
        lambda subnet, session, images: compared.append(len(images)),
    )
    opened = SearchRun.open(request_in(run, place))
    monkeypatch.setattr("rfdetr_repro.search.run.CHECKED_IMAGES", len(opened.search.split) + 1)
    opened._check_export(SMALL)
    assert compared == [len(opened.search.split)]


def test_fine_tuned_models_are_measured_on_the_deployment(run: Path, place: Path) -> None:
    from rfdetr_repro.data.coco import read_splits

    splits = read_splits(place / "data", ("val",), needed=("val",))
    deployment = Deployment("torch", "bf16")
    tuning = FineTuning(
        run / "supernet.safetensors",
        SMALL,
        run / "tuned",
        "cpu",
        processes=1,
        protocol=QUICK,
        deployment=deployment,
    )
    recipe = TrainConfig(steps=1, batch_size=2, base_share=0.0, evaluate_every=0)
    records = tuning.run(splits, lambda card: recipe, "test")
    assert [one.model.variant for one in records] == ["nas", "nas+fine-tuning"]
    assert {(one.artifact.runtime, one.artifact.precision) for one in records} == {
        (RUNTIME, "bf16")
    }
    assert len({one.artifact.sha256 for one in records}) == 2
    assert not list((run / "tuned").rglob("*.onnx"))


# -- PyTorch with a CUDA graph ---------------------------------------------------------------------


def test_a_cuda_graph_is_opened_on_the_file_in_its_precision(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: what would be opened."""
    opened: list[Any] = []
    monkeypatch.setattr(
        "rfdetr_repro.search.deployment.open_session",
        lambda artifact, backend, **options: opened.append((artifact, backend, options)),
    )
    search = search_in(run, place, deployment=Deployment("torch-graph", "fp16"))
    arch = SMALL
    search.deployed.open(arch, 3, build=1)
    search.deployed.open_exact(arch, 3)
    (half, backend, options), (wide, exact, _) = opened
    assert (backend, exact) == ("torch-graph", "torch")
    assert options == {"threads": 3, "cuda_graph": False}
    assert (half.manifest.precision, wide.manifest.precision) == ("fp16", "fp32")
    assert half.sha256 == wide.sha256 and half.path.parent.name == "fp16"


@needs_no_gpu
@pytest.mark.parametrize("program", ["search", "reproduce"])
def test_a_cuda_graph_without_a_gpu_is_refused_before_anything_is_spent(
    program: str, run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    deployment = ["--backend", "torch-graph", "--precision", "bf16"]
    arguments = ["--data", str(place / "data"), *deployment]
    if program == "search":
        code = run_main(command.main, ["--run", str(run), *arguments])
    else:
        code = run_main(reproduce.main, ["--out", str(tmp_path / "out"), *arguments])
    assert code == EXIT_BAD_INPUT
    captured = capsys.readouterr()
    assert captured.err.strip() == (
        "error: torch-graph needs a CUDA device, and there is none; choose the backend torch"
    )
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_records_of_a_cuda_graph_belong_to_its_latency_model(run: Path, place: Path) -> None:
    of_graph, of_eager = (
        search_in(run, place, deployment=Deployment(backend, "bf16"), decision=QUICK)
        for backend in ("torch-graph", "torch")
    )
    plain = of_eager.record("search", SMALL)
    file = ArtifactId("a" * 64, "a" * 64, RUNTIME, "bf16", 1)
    eager = replace(
        plain,
        source="protocol",
        artifact=file,
        latency=Latency(1.0, artifact_sha256=file.sha256),
        protocol=QUICK,
        deployment=None,
    )
    graph = replace(
        eager,
        artifact=replace(file, runtime="torch-cuda-graph"),
        latency=replace(eager.latency, cuda_graph=True),
    )
    modelled = {
        name: replace(one.record("search", SMALL), latency=Latency(1.0, method="modelled"))
        for name, one in {"graph": of_graph, "eager": of_eager}.items()
    }
    assert modelled_for(modelled["graph"], graph) and not modelled_for(modelled["graph"], eager)
    assert modelled_for(modelled["eager"], eager) and not modelled_for(modelled["eager"], graph)
    both = [eager.as_measured(), graph.as_measured()]
    assert measured_on(both, "torch-graph") == both[1:] and measured_on(both, "torch") == both[:1]
    with pytest.raises(InputError, match="no file was measured on torch-graph in fp16"):
        measured_on(both, "torch-graph", "fp16")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cuda_graph_on_a_gpu(run: Path, place: Path, precision: str) -> None:
    search = search_in(run, place, deployment=Deployment("torch-graph", precision))
    measure_engines(search, list(SPACE)[:2], QUICK)
    engines = [one for one in search.store.read() if one.source == "engine"]
    assert {one.artifact.runtime for one in engines} == {"torch-cuda-graph"}
    assert {one.latency.cuda_graph for one in engines} == {True}


# -- the whole flow --------------------------------------------------------------------------------


def chosen_by(*arguments: str) -> Any:
    return reproduce._chosen(reproduce.parser().parse_args(list(arguments)))


def test_the_whole_flow_takes_the_same_words(tmp_path: Path) -> None:
    asked = chosen_by("--backend", "torch-graph", "--precision", "bf16")
    assert (asked.backend, asked.precision, asked.cuda_graph) == ("torch-graph", "bf16", False)
    plain = chosen_by()
    assert (plain.backend, plain.precision) == (EMBEDDED.backend, EMBEDDED.precision)
    file = tmp_path / "own.toml"
    file.write_text('backend = "tensorrt"\nprecision = "fp16"\ncuda_graph = true\n')
    kept = chosen_by("--campaign", str(file))
    assert (kept.backend, kept.precision, kept.cuda_graph) == ("tensorrt", "fp16", True)
    other = chosen_by("--campaign", str(file), "--backend", "torch")
    assert (other.backend, other.precision, other.cuda_graph) == ("torch", "fp16", False)
    for wrong in (["--precision", "bf16"], ["--backend", "torch", "--cuda-graph"]):
        with pytest.raises(InputError):
            chosen_by(*wrong)
    with pytest.raises(InputError, match="the campaign"):
        replace(EMBEDDED, backend="openvino", precision="bf16")
