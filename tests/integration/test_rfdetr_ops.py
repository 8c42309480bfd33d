"""The distribution rfdetr-ops: built from the repository and from its source archive, used in an
environment with PyTorch alone, beside rfdetr_repro in one process, and built for ARM.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "packages" / "rfdetr-ops"
CXX = shutil.which("c++")
ARM_CXX = shutil.which("aarch64-linux-gnu-g++")
ZIG = importlib.util.find_spec("ziglang")
AARCH64 = 183  # EM_AARCH64 of ELF
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""
PYTORCH_ALONE = """
import importlib.util, torch
from torch import nn
for name in ("rfdetr_repro", "numpy", "transformers"):
    assert importlib.util.find_spec(name) is None, name
import rfdetr_ops as ops
assert ops.build_info()["isa"]
torch.manual_seed(0)
value = torch.randn(2, 14, 2, 8, requires_grad=True)
locations = (1.2 * torch.rand(2, 3, 2, 2, 2, 2) - 0.1).requires_grad_()
weights = torch.rand(2, 3, 2, 2, 2, requires_grad=True)
sizes = [(4, 3), (1, 2)]
arguments = value, sizes, locations, weights
results = []
for function in (ops.ms_deform_attn, ops.ms_deform_attn_reference):
    out = function(*arguments)
    results.append((out, *torch.autograd.grad(out.square().sum(), (value, locations, weights))))
for one, other in zip(*results):
    torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)

def multi_scale_deformable_attention(
    value, value_spatial_shapes, sampling_locations, attention_weights
):
    return ops.ms_deform_attn_reference(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )

class Attention(nn.Module):
    def forward(self, *arguments):
        return multi_scale_deformable_attention(*arguments)

with ops.accelerate(Attention()) as done:
    assert len(done.replaced) == 1
try:
    ops.accelerate(nn.Linear(1, 1))
except ops.InputError as error:
    print(error)
assert ops.masks_from_logits(torch.ones(1, 2, 2), 4, 4).all()
"""
BESIDE = """
import torch, rfdetr_ops, rfdetr_repro.ops
value, locations = torch.randn(1, 4, 1, 8), torch.rand(1, 3, 1, 1, 2, 2)
weights = torch.rand(1, 3, 1, 1, 2)
results = [
    package.ms_deform_attn(value, [(2, 2)], locations, weights)
    for package in (rfdetr_ops, rfdetr_repro.ops)
]
torch.testing.assert_close(*results)  # compiled with other flags
assert rfdetr_ops.LIBRARY != rfdetr_repro.ops.LIBRARY
print("rfdetr" in dir(torch.ops), "rfdetr_ops" in dir(torch.ops))
"""
pytestmark = [
    pytest.mark.parity,  # builds a package
    pytest.mark.slow,
    pytest.mark.skipif(CXX is None, reason="no C++ compiler"),
    pytest.mark.skipif(
        importlib.util.find_spec("setuptools.command.bdist_wheel") is None,
        reason="setuptools is older than 70.1, which builds wheels itself",
    ),
]


def quick_compiler(folder: Path, compiler: str) -> Path:
    """``compiler`` with -O1 in place of -O3: nothing is timed here."""
    script = folder / "c++"
    script.write_text(f'#!/bin/bash\nexec {compiler} "${{@/#-O3/-O1}}"\n')
    script.chmod(0o755)
    return script


def built(project: Path, target: Path, kind: str, **environment: str) -> Path:
    """The wheel or the source archive of ``project`` in ``target``, as ``python -m build`` has
    setuptools make it, without isolation.
    """
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    variables = {**os.environ, "RFDETR_CUDA": "0", **environment}
    done = subprocess.run(
        command, cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return target / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(PROJECT, tmp_path_factory.mktemp("archive"), "sdist")


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, away from the repository."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (project,) = folder.iterdir()
    return project


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    assert CXX is not None
    return built(unpacked, folder, "wheel", CXX=str(quick_compiler(folder, CXX)))


def torch_alone() -> set[Path]:
    """Files and folders of PyTorch and of what it requires."""
    wanted, seen, found = ["torch"], set(), set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # required on other platforms
        for file in package.files or ():
            top = Path(str(package.locate_file(file.parts[0])))
            if file.parts[0] not in ("..", "__pycache__") and top.exists():
                found.add(top)
        for requirement in package.requires or ():
            if "extra ==" not in requirement:
                wanted.append(re.split(r"[^\w.-]", requirement)[0])
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(interpreter, its packages) of a new environment with PyTorch and the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    for path in torch_alone():
        (packages / path.name).symlink_to(path)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(packages)
    return folder / "bin" / "python", packages


def test_what_the_wheel_holds(wheel: Path) -> None:
    assert re.fullmatch(r"rfdetr_ops-[\d.]+-py3-none-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        metadata = packed.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    modules = {name for name in names if name.endswith(".py")}
    assert {f"rfdetr_ops/{path.name}" for path in (PROJECT / "rfdetr_ops").glob("*.py")} <= modules
    assert "rfdetr_ops/librfdetr_ops.so" in names and "rfdetr_ops/py.typed" in names
    assert all(name.split("/")[0].startswith("rfdetr_ops") for name in names)
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert required == ["torch>=2.10"]


def test_every_module_that_the_operators_import_is_in_the_wheel(wheel: Path) -> None:
    """A module that rfdetr_repro.ops gains, and the others need, must be added to the list."""
    with zipfile.ZipFile(wheel) as packed:
        modules = {
            Path(name).stem: packed.read(name).decode()
            for name in packed.namelist()
            if name.endswith(".py")
        }
    for text in modules.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                needed = [node.module] if node.module else [alias.name for alias in node.names]
                assert set(needed) <= set(modules)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None and not node.module.startswith("rfdetr_repro")


def test_in_an_environment_with_pytorch_alone(
    environment: tuple[Path, Path], tmp_path: Path
) -> None:
    interpreter, _ = environment
    program = tmp_path / "program.py"  # whose functions have a source
    program.write_text(PYTORCH_ALONE)
    done = subprocess.run(
        [interpreter, "-I", str(program)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no deformable attention to accelerate (Linear); ")


def test_beside_rfdetr_repro_in_one_process(environment: tuple[Path, Path], tmp_path: Path) -> None:
    _, packages = environment
    (tmp_path / "rfdetr_ops").symlink_to(packages / "rfdetr_ops")
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", BESIDE], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "True True\n", done.stderr


@pytest.mark.skipif(
    ARM_CXX is None and ZIG is None,
    reason="neither aarch64-linux-gnu-g++ (Debian: g++-aarch64-linux-gnu) nor the package ziglang",
)
def test_built_for_arm(unpacked: Path, tmp_path: Path) -> None:
    compiler = ARM_CXX or f"{sys.executable} -m ziglang c++ -target aarch64-linux-gnu"
    wheel = built(
        unpacked,
        tmp_path,
        "wheel",
        CXX=str(quick_compiler(tmp_path, compiler)),
        _PYTHON_HOST_PLATFORM="linux-aarch64",
    )
    assert wheel.name.endswith("-py3-none-linux_aarch64.whl")
    with zipfile.ZipFile(wheel) as packed:
        library = Path(packed.extract("rfdetr_ops/librfdetr_ops.so", tmp_path))
    header = library.read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == AARCH64
    if shutil.which("readelf") is None:
        pytest.skip("no readelf: what the library needs is not checked")
    needed = subprocess.run(
        ["readelf", "-dW", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "[libtorch_cpu.so]" in needed and "python" not in needed
    assert undefined(library) <= pytorch_functions()


def undefined(library: Path) -> set[str]:
    """Functions of PyTorch that a library needs, by name."""
    table = subprocess.run(
        ["readelf", "--dyn-syms", "-W", str(library)], capture_output=True, text=True, check=True
    ).stdout
    names = {
        line.split()[-1]
        for line in table.splitlines()
        if " UND " in line and line.split()[-1] != "UND"
    }
    return {name for name in names if name.startswith(("aoti_", "torch_"))}


def pytorch_functions() -> set[str]:
    """What this machine's PyTorch offers to libraries of its stable ABI."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    table = subprocess.run(
        ["readelf", "--dyn-syms", "-W", str(Path(torch.origin).parent / "lib" / "libtorch_cpu.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name for name in re.findall(r"\b((?:aoti_|torch_)\w+)", table)}
