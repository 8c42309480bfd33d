"""What a search's latencies are taken on: a runtime, float16 files, a machine; accuracy is found
once for all of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_search import ERROR, QUICK, latency_model, search_in
from tiny import SPACE

from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.ops.device import to_device
from rfdetr_repro.records.pareto import comparable_groups, latency_mode
from rfdetr_repro.records.record import ArtifactId, Latency, Machine, Record
from rfdetr_repro.search import command
from rfdetr_repro.search.deployment import Deployment
from rfdetr_repro.search.engines import (
    REFERENCES,
    Engines,
    Fit,
    Measured,
    forecasts,
    measure_engines,
    measure_here,
    refit_latency,
)
from rfdetr_repro.search.evaluation import by_backbone, shared_detections
from rfdetr_repro.search.latency_model import LatencyModel, engine_order
from rfdetr_repro.search.rounds import short_form
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.protocol import DECISION, Protocol

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@needs_openvino
def test_engines_and_confirmed_models_run_on_the_deployment(run: Path, place: Path) -> None:
    search = search_in(run, place, deployment=Deployment("openvino"))
    archs = list(SPACE)[:2]
    measure_engines(search, archs, QUICK)
    (confirmed,) = search.confirm(archs[0], [search.split], [QUICK])
    engines = [record for record in search.store.read() if record.source == "engine"]
    assert {record.deployment for record in engines} == {"openvino fp32"} and len(engines) == 2
    assert all(record.artifact.runtime.startswith("openvino") for record in [*engines, confirmed])
    plain = search_in(run, place)
    measure_engines(plain, archs[:1], QUICK)  # not answered by what another runtime measured
    runtimes = [
        record.artifact.runtime for record in plain.store.read() if record.source == "engine"
    ]
    assert len(runtimes) == 3 and runtimes[-1] == "onnxruntime-cpu"


def test_another_deployment_takes_the_accuracy_from_the_store(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search_in(run, place)
    before = first.evaluate_all(latency_model(first), ERROR)
    # would not be called
    monkeypatch.setattr("rfdetr_repro.search.evaluation.shared_detections", None)
    second = search_in(run, place, deployment=Deployment("openvino"))
    slower = LatencyModel(
        {name: 3 * ms for name, ms in latency_model(second).coefficients.items()},
        second.card.config,
    )
    after = second.evaluate_all(slower, ERROR)
    assert [record.accuracy for record in after] == [record.accuracy for record in before]
    assert [record.mask_accuracy for record in after] == [record.mask_accuracy for record in before]
    assert after[0].latency.median_ms == pytest.approx(3 * before[0].latency.median_ms)
    records = second.store.read()
    # no front mixes them
    assert len(records) == 2 * len(SPACE) and len(comparable_groups(records)) == 2
    lines = (run / "records.jsonl").read_bytes()
    assert [record.id for record in second.evaluate_all(slower, ERROR)] == [
        record.id for record in after
    ]
    assert (run / "records.jsonl").read_bytes() == lines


def test_a_model_fitted_anew_replaces_the_latencies_and_nothing_else(
    run: Path, place: Path
) -> None:
    search = search_in(run, place)
    before = search.evaluate_all(latency_model(search), ERROR)
    assert before[0].mask_accuracy is not None
    boxes_only = search_in(run, place, masks=False)
    faster = LatencyModel(
        {name: ms / 2 for name, ms in latency_model(search).coefficients.items()},
        search.card.config,
    )
    after = boxes_only.evaluate_all(faster, ERROR)
    assert [record.id for record in after] == [record.id for record in before]
    assert after[0].latency.median_ms == pytest.approx(before[0].latency.median_ms / 2)
    assert {record.id: record for record in search.store.read()} == {
        record.id: record for record in after
    }
    assert [record.mask_accuracy for record in after] == [record.mask_accuracy for record in before]


def test_float16_files_are_audited_on_the_split_and_measured(run: Path, place: Path) -> None:
    search = search_in(run, place, deployment=Deployment(precision="fp16"))
    arch = next(iter(SPACE))
    artifact = search.deployed.artifact(arch)
    assert artifact.manifest.precision == "fp16" and artifact.manifest.build["audit"].startswith(
        "8 pictures"
    )
    made = artifact.path.stat().st_mtime_ns
    (record,) = search.confirm(arch, [search.split], [QUICK])
    assert (
        record.artifact.precision == "fp16" and record.accuracy.artifact_sha256 == artifact.sha256
    )
    assert artifact.path.stat().st_mtime_ns == made
    assert search.deployed.export(arch).manifest.precision == "fp32"


def test_what_another_machine_measured_is_measured_again(run: Path, place: Path) -> None:
    archs = list(SPACE)[:5]
    asked = []

    def measure(item: Engines) -> dict[Arch, Measured]:
        asked.append(len(item.archs))
        machine = Machine(f"cpu {names.pop(0)}", 1, 1.0, "Linux")
        made = measure_here(search_in(run, place), item)
        return {
            arch: Measured(one.artifact, replace(one.latency, median_ms=5.0), machine)
            for arch, one in made.items()
        }

    names = ["a", "b", "b"]
    search = search_in(run, place, measure=measure)
    measure_engines(search, archs[:4], QUICK)
    assert asked == [4] and search.measured_on.cpu == "cpu a"
    measure_engines(search, archs, QUICK)
    # with three references each time
    assert asked == [4, 1 + 3, 1 + 3] and search.measured_on.cpu == "cpu b"
    assert {record.machine.cpu for record in [search.record("search", archs[0])]} == {"cpu b"}
    names[:] = ["c", "d"]
    with pytest.raises(StatedFailure, match="different machines"):
        measure_engines(search, list(SPACE)[:6], QUICK)


def test_deployments_that_cannot_be_are_refused(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (
        {"backend": "torch", "cuda_graph": True},
        {"backend": "abacus"},
        {"precision": "int4"},
        {"precision": "int8"},
        {"backend": "openvino", "precision": "bf16"},
        {"backend": "tensorrt", "precision": "bf16"},
        {"backend": "openvino", "cuda_graph": True},
    ):
        with pytest.raises(InputError):
            Deployment(**wrong)
    arguments = ["--run", str(run), "--data", str(place / "data")]
    assert run_main(command.main, [*arguments, "--backend", "abacus"]) == 2
    assert "invalid choice: 'abacus'" in capsys.readouterr().err
    assert run_main(command.main, [*arguments, "--precision", "bf16"]) == 2
    told = capsys.readouterr().err
    assert "a search on onnxruntime in bf16 is not possible; choose torch or torch-graph" in told
    assert str(Deployment("tensorrt", "fp16", True)) == "tensorrt fp16 CUDA graph"
    assert str(Deployment("torch", "bf16")) == "torch bf16"
    graph = {str(Deployment("torch-graph", "bf16", asked)) for asked in (False, True)}
    assert graph == {"torch-graph bf16 CUDA graph"}  # one deployment, however it is asked for


def test_a_gpu_deployment_is_watched_from_before_the_first_engine(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rfdetr_repro.bench.gpu import device as gpu_device
    from rfdetr_repro.runtime import backends

    def no_device(library: object = None, index: int = 0) -> str:
        raise InputError("no CUDA driver on this machine")

    monkeypatch.setattr(gpu_device, "cuda_uuid", no_device)
    monkeypatch.setattr(backends, "check_backend", lambda *_: None)
    arguments = [
        "--run",
        str(run),
        "--data",
        str(place / "data"),
        "--backend",
        "tensorrt",
        "--precision",
        "fp16",
    ]
    assert run_main(command.main, arguments) == 2
    assert "no CUDA driver" in capsys.readouterr().err
    assert not (run / "artifacts").exists()


def test_records_of_a_gpu_deployment_name_the_gpu(run: Path, place: Path) -> None:
    from rfdetr_repro.bench.gpu.device import Watched

    machine = Machine("cpu", 1, 1.0, "Linux", gpu="NVIDIA T4")

    class Quiet:
        def mark(self) -> float:
            return 0.0

    search = search_in(run, place, watched=Watched(Quiet(), machine, "free"))  # type: ignore[arg-type]
    assert search.record("engine", next(iter(SPACE))).machine == machine
    assert isinstance(search.evaluate_all(latency_model(search), ERROR)[0].latency, Latency)
    assert {record.machine.gpu for record in search.store.read()} == {"NVIDIA T4"}


@pytest.mark.gpu
def test_passes_on_a_gpu_give_what_the_cpu_gives(run: Path, place: Path) -> None:
    here = search_in(run, place)
    there = search_in(run, place)
    to_device(there.detector, "cuda")
    for group in list(by_backbone(SPACE))[:2]:
        on_cpu = shared_detections(here.detector, here.split, group, masks=True)
        on_gpu = shared_detections(there.detector, there.split, group, masks=True)
        for arch in group:
            alone = single_detections(there.detector, there.split, masks=True, arch=arch)
            for shared, cpu, one in zip(on_gpu[arch], on_cpu[arch], alone, strict=True):
                np.testing.assert_allclose(shared.scores, one.scores, atol=1e-5)
                np.testing.assert_allclose(shared.scores, cpu.scores, atol=1e-4)


def stub(state: dict[str, float], asked: list[int]) -> Callable[[Engines], dict[Arch, Measured]]:
    """Instead of engines: true latencies times the state of the machine."""

    def measure(item: Engines) -> dict[Arch, Measured]:
        asked.append(len(item.archs))
        found = {}
        for arch in item.archs:
            file = ArtifactId(
                sha256_bytes(arch.key.encode()), "0" * 64, "onnxruntime-cpu", "fp32", 1
            )
            ms = true_ms(arch)
            found[arch] = Measured(
                file,
                Latency(ms * state["factor"], artifact_sha256=file.sha256),
                Machine("cpu", 2, 8.0, "Linux"),
            )
        return found

    return measure


def true_ms(arch: Arch) -> float:
    return 1.0 + 0.01 * arch.tokens + 0.3 * arch.decoder_layers + 0.02 * arch.queries


def test_engines_that_are_added_belong_to_the_state_of_the_first(run: Path, place: Path) -> None:
    """The machine is half as slow again when more engines are asked for: the references measured
    beside them say so.
    """
    state = {"factor": 1.0}
    asked = []
    archs = list(SPACE)
    search = search_in(run, place, measure=stub(state, asked))
    first = measure_engines(search, archs[:6], QUICK)
    state["factor"] = 1.5
    whole = measure_engines(search, archs[:9], QUICK)
    assert asked == [6, 3 + REFERENCES] and {arch: whole[arch] for arch in archs[:6]} == first
    assert whole == pytest.approx({arch: true_ms(arch) for arch in archs[:9]})
    # all of them are stored
    assert measure_engines(search, archs[:9], QUICK) == whole and len(asked) == 2


def test_a_confirmed_engine_is_forecast_without_itself(run: Path, place: Path) -> None:
    """The error on confirmed files is of models that had not seen them."""
    archs = engine_order(SPACE)[:16]
    odd = archs[5]
    protocol = short_form(DECISION)

    def measure(item: Engines) -> dict[Arch, Measured]:
        found = stub({"factor": 1.0}, [])(item)
        # an engine that the model cannot explain
        slow = replace(found[odd].latency, median_ms=3 * true_ms(odd))
        return {**found, odd: replace(found[odd], latency=slow)}

    search = search_in(run, place, measure=measure)
    ms = measure_engines(search, archs, protocol)
    model = LatencyModel.fit(archs, list(ms.values()), search.card.config)
    others = [arch for arch in archs if arch != odd]
    alone = LatencyModel.fit(others, [ms[arch] for arch in others], search.card.config)
    unseen = engine_order(SPACE)[20]
    said = forecasts(search, model, ERROR, [odd, unseen])
    assert (
        said[odd].median_ms
        == pytest.approx(alone.predict(odd))
        != pytest.approx(model.predict(odd))
    )
    assert (
        said[unseen].median_ms == pytest.approx(model.predict(unseen))
        and said[odd].heldout_error == ERROR.median
    )


def test_the_model_is_fitted_to_confirmed_files_too(run: Path, place: Path) -> None:
    """Confirmed files are 20 % slower than engines said: seen in the error, gone after the fit,
    kept by a run that goes on.
    """
    search = search_in(run, place, measure=stub({"factor": 1.0}, []))
    archs = engine_order(SPACE)[:8]
    ten = engine_order(SPACE)[8:18]
    ms = measure_engines(search, archs, short_form(DECISION))
    model = LatencyModel.fit(archs, list(ms.values()), search.card.config)
    records = search.evaluate_all(model, ERROR)
    confirmed = []
    for arch, said in forecasts(search, model, ERROR, ten).items():
        file = ArtifactId(sha256_bytes(arch.key.encode()), "0" * 64, "onnxruntime-cpu", "fp32", 1)
        latency = Latency(
            1.2 * true_ms(arch), artifact_sha256=file.sha256, predicted_ms=said.median_ms
        )
        confirmed.append(Record("protocol", search.model_id(arch), artifact=file, latency=latency))
    after, error, seen = refit_latency(search, Fit(8), confirmed, model, ERROR)
    assert seen.median == pytest.approx(1 - 1 / 1.2, abs=0.02) and error.median > 0
    assert np.median([abs(after.predict(arch) / (1.2 * true_ms(arch)) - 1) for arch in ten]) < 0.02
    better = search.refit(records, after, error, seen)
    stored = {record.id: record for record in search.store.read()}
    assert all(stored[record.id] == record for record in better)
    assert {record.latency.confirmed_worst for record in better} == {seen.maximum}
    lines = search.store.path.read_bytes()
    # candidates are chosen by the model that had not seen them
    again = search.evaluate_all(model, ERROR)
    assert [one.latency.median_ms for one in again] == [one.latency.median_ms for one in records]
    search.refit(again, after, error, seen)
    assert search.store.path.read_bytes() == lines


def test_modes_are_searches_of_their_own(run: Path, place: Path) -> None:
    buffered = search_in(run, place)
    sustained = search_in(run, place, decision=Protocol("sustained", buffer_ms=0.0, threads=1))
    first, second = (one.evaluate_all(latency_model(one), ERROR) for one in (buffered, sustained))
    assert {latency_mode(record) for record in first} == {"buffered"} and {
        latency_mode(record) for record in second
    } == {"sustained"}
    assert len(comparable_groups(buffered.store.read())) == 2  # no front mixes them
