"""Building engines: real ones by TensorRT-RTX where its wheels are, and the rules around them by a
double of TensorRT.
"""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from samples_export import ARCH, meta, tiny_artifact, tiny_detector
from samples_tensorrt import A10, T4, FakeDevice, FakeTrt

from rfdetr_repro.export.artifact import Artifact, load_artifact, write_artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.tensorrt import engine as module
from rfdetr_repro.export.tensorrt.command import main
from rfdetr_repro.export.tensorrt.engine import BuildOptions, build_engine, load_backend
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.spec.files import sha256_bytes


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(
        tiny_detector().slice(ARCH),
        tmp_path_factory.mktemp("half") / "m.onnx",
        meta=meta(),
        precision="fp16",
    )


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    """The double in the place of the module, on an A10."""
    fake = FakeTrt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(A10))
    return fake


def test_the_manifest_says_what_the_engine_is(trt: FakeTrt, half: Artifact, tmp_path: Path) -> None:
    engine = build_engine(half, "tensorrt", tmp_path, BuildOptions(optimization_level=4))
    told = load_artifact(engine.path).manifest
    assert (
        told == engine.manifest and told.onnx_sha256 == half.sha256 and told.sha256 != half.sha256
    )
    assert (told.format, told.precision, told.census) == (
        "tensorrt",
        "fp16",
        {"Float": 1, "Half": 2, "Int64": 1},
    )
    assert (told.build["gpu"], told.build["version"], told.build["census"]) == (
        "NVIDIA A10 sm_86",
        "10.4.0",
        "engine",
    )
    assert (told.inputs, told.outputs, told.islands) == (
        half.manifest.inputs,
        half.manifest.outputs,
        half.manifest.islands,
    )
    # strongly typed; the inspector sees types
    assert ("flags", 1 << 1) in trt.log and ("level", 4, "detailed") in trt.log
    assert engine.path.read_bytes().startswith(b"ENGINE")


def test_the_name_is_of_everything_that_matters(
    trt: FakeTrt, half: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another GPU, version, option, build or file never finds this engine; the same request does,
    and builds nothing.
    """
    first = build_engine(half, "tensorrt", tmp_path)
    trt.log.clear()
    assert build_engine(half, "tensorrt", tmp_path).path == first.path and not trt.log
    names = {first.path.name}
    names.add(build_engine(half, "tensorrt", tmp_path, BuildOptions(build=1)).path.name)
    names.add(
        build_engine(half, "tensorrt", tmp_path, BuildOptions(optimization_level=5)).path.name
    )
    names.add(build_engine(half, "tensorrt", tmp_path, BuildOptions(tf32=True)).path.name)
    names.add(build_engine(tiny_artifact(tmp_path), "tensorrt", tmp_path).path.name)
    trt.__version__ = "10.13.0"
    names.add(build_engine(half, "tensorrt", tmp_path).path.name)
    monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(T4))
    names.add(build_engine(half, "tensorrt", tmp_path).path.name)
    assert len(names) == 7


def test_timing_caches_are_kept_and_each_build_has_its_own(
    trt: FakeTrt, half: Artifact, tmp_path: Path
) -> None:
    build_engine(half, "tensorrt", tmp_path)
    build_engine(half, "tensorrt", tmp_path, BuildOptions(optimization_level=1))
    build_engine(half, "tensorrt", tmp_path, BuildOptions(build=1))
    assert [entry for entry in trt.log if entry[0] == "cache"] == [
        ("cache", b""),
        ("cache", b"timings"),
        ("cache", b""),
    ]
    assert len(list(tmp_path.glob("timing-*.cache"))) == 2


def test_a_float32_engine_is_never_called_fp16(
    trt: FakeTrt, half: Artifact, tmp_path: Path
) -> None:
    trt.layers = ["Float"] * 20
    assert build_engine(half, "tensorrt", tmp_path).manifest.precision == "not fp16"
    assert build_engine(tiny_artifact(tmp_path), "tensorrt", tmp_path).manifest.precision == "fp32"


def test_what_the_parser_refuses_is_named(trt: FakeTrt, half: Artifact, tmp_path: Path) -> None:
    trt.refused = [
        (f"node_{i}", "Det", "In function parseNode:\n[8] no importer") for i in range(5)
    ]
    with pytest.raises(
        InputError, match=r"tensorrt refuses node node_0 \(Det\): \[8\] no importer; .*; and 2 more"
    ):
        build_engine(half, "tensorrt", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_build_states_tensorrts_reason(
    trt: FakeTrt, half: Artifact, tmp_path: Path
) -> None:
    trt.builds = False
    with pytest.raises(StatedFailure, match="could not build .*: no tactic for node x$"):
        build_engine(half, "tensorrt", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("version", "backend", "warns"),
    [
        ("10.13.3", "tensorrt", False),
        ("10.14.1", "tensorrt", True),
        ("11.1.0", "tensorrt", True),
        ("1.7.0", "tensorrt-rtx", False),
    ],
)
def test_versions_that_are_reported_to_compute_grid_sample_wrongly_are_told(
    trt: FakeTrt,
    tmp_path: Path,
    version: str,
    backend: str,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)  # type: ignore[arg-type]
    trt.__version__ = version
    found = tiny_artifact(tmp_path)
    engine = build_engine(found, backend, tmp_path)
    told = [line for line in caplog.messages if "reported to compute GridSample wrongly" in line]
    assert len(told) == warns and all(version in line and str(found.path) in line for line in told)
    caplog.clear()
    assert build_engine(found, backend, tmp_path).sha256 == engine.sha256 and not caplog.messages
    model = onnx.load(found.path)
    for node in model.graph.node:  # which the double does not run
        node.op_type = node.op_type.replace("GridSample", "Attention")
    content = model.SerializeToString()
    manifest = replace(found.manifest, sha256=sha256_bytes(content), size_bytes=len(content))
    monkeypatch.setattr(module, "network_census", lambda _: {"Float": 1})
    other = write_artifact(tmp_path / "other.onnx", content, manifest)
    monkeypatch.setattr(
        trt, "Runtime", lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: None)
    )
    build_engine(other, backend, tmp_path)
    assert not caplog.messages


@pytest.mark.parametrize("version", ["10.3.0", "8.6.1", "12.0.0", "next"])
def test_other_versions_are_refused(trt: FakeTrt, version: str) -> None:
    trt.__version__ = version
    with pytest.raises(InputError, match="not supported|not installed"):
        load_backend("tensorrt")


def test_without_package_gpu_or_folder(
    half: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        InputError, match=r'tensorrt is not installed.*pip install "rfdetr-repro\[tensorrt\]"'
    ):
        build_engine(half, "tensorrt", tmp_path)
    with pytest.raises(InputError, match="unknown backend 'trt'"):
        load_backend("trt")
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTrt())  # type: ignore[arg-type]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(InputError, match="no CUDA device"):
        build_engine(half, "tensorrt", tmp_path)
    monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(A10))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        build_engine(half, "tensorrt", tmp_path / "file")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    trt: FakeTrt,
    half: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run_main(main, [str(half.path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert (
        "No space left on device" in error
        and error.count("\n") == 1
        and not list(tmp_path.iterdir())
    )


@pytest.mark.parametrize(
    "options", [{"optimization_level": 6}, {"optimization_level": -1}, {"build": -1}]
)
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="level 0 to 5"):
        BuildOptions(**options)


def test_an_engine_is_no_onnx_file(trt: FakeTrt, half: Artifact, tmp_path: Path) -> None:
    engine = build_engine(half, "tensorrt", tmp_path)
    with pytest.raises(InputError, match="not from a tensorrt file"):
        build_engine(engine, "tensorrt", tmp_path)


def test_the_command_builds_several(
    trt: FakeTrt, half: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, [str(half.path), "--out", str(tmp_path), "--builds", "3"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert (
        len(told) == len(set(told)) == 3
        and "fp16 (layers of the engine: 1 Float, 2 Half, 1 Int64)" in told[0]
    )
    assert len(list(tmp_path.glob("*.engine"))) == 3


@pytest.fixture
def doubled_rtx(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    """The double as TensorRT-RTX, on a machine without a GPU."""

    def none(*_: object) -> None:
        raise InputError("there is no CUDA device")

    fake = FakeTrt("1.7.1")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "open_device", none)
    return fake


def chosen_capabilities(trt: FakeTrt) -> list[Any]:
    return [entry for entry in trt.log if entry[0] in trt.ComputeCapability.__members__]


def test_tensorrt_rtx_for_one_capability(
    doubled_rtx: FakeTrt, half: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = build_engine(half, "tensorrt-rtx", tmp_path)
    assert "8.0 or later" in wide.manifest.build["gpu"] and not chosen_capabilities(doubled_rtx)
    asked = build_engine(half, "tensorrt-rtx", tmp_path, BuildOptions(capability="7.5"))
    assert asked.manifest.build["gpu"] == "compute capability 7.5" and asked.path != wide.path
    assert chosen_capabilities(doubled_rtx) == [("SM75", 0)]
    monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(T4))
    assert build_engine(half, "tensorrt-rtx", tmp_path).path == asked.path  # on a T4 by itself
    monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(A10))
    assert build_engine(half, "tensorrt-rtx", tmp_path).path == wide.path
    with pytest.raises(InputError, match="not build for compute capability 9.0; choose one of 7.5"):
        build_engine(half, "tensorrt-rtx", tmp_path, BuildOptions(capability="9.0"))
    doubled_rtx.builds = False
    with pytest.raises(StatedFailure, match="onnx for compute capability 12.0: no tactic"):
        build_engine(half, "tensorrt-rtx", tmp_path, BuildOptions(capability="12.0"))


def test_tensorrt_builds_for_its_own_gpu(trt: FakeTrt, half: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for the GPU of this machine, not for .* 7.5"):
        build_engine(half, "tensorrt", tmp_path, BuildOptions(capability="7.5"))


def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.mark.slow
def test_tensorrt_rtx_builds_our_float16_graph(half: Artifact, tmp_path: Path) -> None:
    """No GPU is needed: a strongly typed parse, an ahead-of-time build, and a census that shows
    half precision.
    """
    version = rtx().__version__
    engine = build_engine(half, "tensorrt-rtx", tmp_path)
    told = load_artifact(engine.path).manifest
    assert (told.format, told.precision, told.build["version"]) == ("tensorrt-rtx", "fp16", version)
    assert told.census["Half"] > 2 * told.census["Float"] and told.build["census"] == "network"
    assert "8.0 or later" in told.build["gpu"] and told.size_bytes > 100_000


@pytest.mark.slow
def test_tensorrt_rtx_parses_float32_and_refuses_by_name(tmp_path: Path) -> None:
    rtx()
    wide = tiny_artifact(tmp_path)
    parsed: list[dict[str, int]] = []

    def census(network: Any) -> dict[str, int]:
        parsed.append(module_census(network))
        raise StatedFailure("parsed is enough")

    module_census, module.network_census = module.network_census, census
    try:
        with pytest.raises(StatedFailure, match="parsed is enough"):
            build_engine(wide, "tensorrt-rtx", tmp_path, BuildOptions(optimization_level=0))
    finally:
        module.network_census = module_census
    assert "Half" not in parsed[0] and parsed[0]["Float"] > 100
    with pytest.raises(InputError, match=r"refuses node determinant \(Det\)"):
        build_engine(with_operator(wide, tmp_path / "det.onnx"), "tensorrt-rtx", tmp_path)


def with_operator(wide: Artifact, path: Path) -> Artifact:
    """A graph with an operator no TensorRT has."""
    model = onnx.load(wide.path)
    model.graph.node.append(
        helper.make_node("Det", ["boxes_square"], ["determinant"], name="determinant")
    )
    model.graph.node.insert(
        0,
        helper.make_node(
            "Constant",
            [],
            ["boxes_square"],
            value=helper.make_tensor("value", TensorProto.FLOAT, [1, 2, 2], [1, 0, 0, 1]),
        ),
    )
    model.graph.output.append(helper.make_tensor_value_info("determinant", TensorProto.FLOAT, [1]))
    content = model.SerializeToString()
    return write_artifact(
        path, content, replace(wide.manifest, sha256=sha256_bytes(content), size_bytes=len(content))
    )


# -- any number of images --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("opened") / "m.onnx"
    return export_onnx(tiny_detector().slice(ARCH), path, meta=meta(), batch="dynamic")


def test_an_open_batch_gets_a_profile(trt: FakeTrt, opened: Artifact, tmp_path: Path) -> None:
    engine = build_engine(opened, "tensorrt", tmp_path)
    sides = (3, 32, 32)
    assert trt.profiles == [("images", [(1, *sides), (8, *sides), (32, *sides)])]
    assert engine.manifest.batch == "dynamic" and engine.manifest.build["batches"] == "1,8,32"
    other = build_engine(opened, "tensorrt", tmp_path, BuildOptions(batches=(1, 2, 4)))
    assert other.path != engine.path and other.manifest.build["batches"] == "1,2,4"
    assert build_engine(opened, "tensorrt", tmp_path).sha256 == engine.sha256
    assert len(trt.profiles) == 2, "found again, not built again"


def test_a_fixed_batch_has_no_profile(trt: FakeTrt, half: Artifact, tmp_path: Path) -> None:
    engine = build_engine(half, "tensorrt", tmp_path)
    assert trt.profiles == [] and "batches" not in engine.manifest.build
    with pytest.raises(InputError, match="this file takes 1.*--batch dynamic"):
        build_engine(half, "tensorrt", tmp_path, BuildOptions(batches=(1, 2, 4)))
    with pytest.raises(InputError, match="4, 2, 8 are not in order"):
        BuildOptions(batches=(4, 2, 8))


def test_an_engine_by_name(trt: FakeTrt, opened: Artifact, tmp_path: Path) -> None:
    engine = build_engine(opened, "tensorrt", tmp_path, name="mine.engine")
    assert engine.path == tmp_path / "mine.engine"
    assert load_artifact(engine.path).manifest.format == "tensorrt"


@pytest.mark.slow
def test_tensorrt_rtx_builds_for_a_t4_in_float16_alone(half: Artifact, tmp_path: Path) -> None:
    rtx()
    options = BuildOptions(capability="7.5")
    engine = build_engine(half, "tensorrt-rtx", tmp_path, options)
    assert engine.manifest.build["gpu"] == "compute capability 7.5"
    with pytest.raises(StatedFailure, match="for compute capability 7.5: .*FP32 GEMM"):
        build_engine(tiny_artifact(tmp_path), "tensorrt-rtx", tmp_path, options)


@pytest.mark.parity
def test_nano_is_built_without_a_gpu(tmp_path: Path) -> None:
    """Full width, random weights, float16."""
    rtx()
    from rfdetr_repro.bench.models import model_artifact
    from rfdetr_repro.export.half import half_artifact

    nano = half_artifact(model_artifact("rfdetr-nano", tmp_path), tmp_path / "nano-fp16.onnx")
    told = build_engine(nano, "tensorrt-rtx", tmp_path).manifest
    assert told.precision == "fp16" and told.size_bytes > 50e6
    assert told.census["Half"] > 4 * told.census["Float"]
