"""The CPU sources for processors and compilers without the AMX unit: compiled here, cross-compiled
for ARM, and run there.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from samples_driver import RESULT, ROOT, build_driver, failure

CXX = shutil.which("g++")
ARM_CXX = shutil.which("aarch64-linux-gnu-g++")
ARM = shutil.which("qemu-aarch64")
needs_arm_compiler = pytest.mark.skipif(
    ARM_CXX is None, reason="no aarch64-linux-gnu-g++ (Debian: g++-aarch64-linux-gnu)"
)
SETUP = (ROOT / "setup.py").read_text()
TORCH = Path(torch.__file__).parent


def setting(name: str) -> str:
    """A text that setup.py compiles with."""
    for node in ast.parse(SETUP).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return str(ast.literal_eval(node.value))
    raise AssertionError(f"setup.py has no {name}")


def flags(*more: str) -> list[str]:
    """As setup.py has them, with every warning an error; less optimised, because nothing is
    timed.
    """
    target = f"-DTORCH_TARGET_VERSION={setting('TARGET_TORCH')}"
    return [
        *setting("CXX_FLAGS").replace("-O3", "-O1").split(),
        "-Werror",
        target,
        "-isystem",
        str(TORCH / "include"),
        *more,
    ]


LOADED = """
    import ctypes, sys, torch
    torch.ops.load_library(sys.argv[1])
    assert ctypes.CDLL(sys.argv[1]).rfdetr_has_split_linear() == 0
    try:
        torch.ops.rfdetr.split_linear_pack(torch.zeros(32, 32), 3)
    except RuntimeError as error:
        print("AMX" in str(error))
"""


@pytest.mark.skipif(CXX is None, reason="no g++")
def test_the_matrix_products_compile_load_and_refuse_without_the_unit(tmp_path: Path) -> None:
    """What ARM, and x86-64 with an older compiler, gets: it says that it is not there, when it is
    asked and when it is called.
    """
    assert CXX is not None
    source = str(ROOT / "csrc/cpu/split_linear.cpp")
    library = str(tmp_path / "split_linear.so")
    linked = [
        "-shared",
        "-Wl,--no-undefined",
        source,
        "-o",
        library,
        f"-L{TORCH / 'lib'}",
        "-ltorch_cpu",
    ]
    said = failure([CXX, *flags("-DRFDETR_NO_AMX"), *linked])
    assert not said, said
    code = "\n".join(line[4:] for line in LOADED.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", code, library], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "True\n", done.stderr


@pytest.mark.parity
@needs_arm_compiler
def test_every_cpu_source_compiles_for_arm(tmp_path: Path) -> None:
    """PyTorch's headers and Python's are this machine's; what is taken of them does not depend on
    the processor.
    """
    assert ARM_CXX is not None
    sources = [
        path
        for folder in ("csrc", "csrc/cpu", "csrc/python")
        for path in sorted((ROOT / folder).glob("*.cpp"))
    ]
    assert len(sources) >= 7
    kernels = [
        "-DRFDETR_KERNELS=kernels_plain",
        '-DRFDETR_ISA_NAME="plain"',
        "-isystem",
        sysconfig.get_path("include"),
    ]
    commands = [
        [ARM_CXX, *flags(*kernels), "-c", str(path), "-o", str(tmp_path / f"{number}.o")]
        for number, path in enumerate(sources)
    ]
    with ThreadPoolExecutor(2) as pool:
        said = dict(zip(sources, pool.map(failure, commands), strict=True))
    assert not any(said.values()), "\n".join(said.values())


@pytest.mark.slow
@needs_arm_compiler
@pytest.mark.skipif(ARM is None, reason="no qemu-aarch64 (Debian: qemu-user)")
def test_the_kernels_give_the_same_values_on_arm(tmp_path: Path) -> None:
    """The CPU kernels of that processor against the CUDA kernels' text, on random calls, in an
    emulator.
    """
    assert ARM_CXX is not None and ARM is not None
    program = build_driver(tmp_path, ARM_CXX, "-O3", link="-static")
    done = subprocess.run([ARM, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == RESULT, done.stdout + done.stderr
