"""The kernels' own text under AddressSanitizer, and the symbols the library asks of PyTorch."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rfdetr_repro import ops

ROOT = Path(__file__).resolve().parents[1]
CXX = shutil.which("g++")
ISA_FLAGS = {
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c",
    "avx2": "-mavx2 -mfma -mf16c",
    "sse4.1": "-msse4.1",
    "plain": "",
}


def failure(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


@pytest.mark.slow
@pytest.mark.skipif(CXX is None, reason="no g++")
def test_random_calls_touch_only_their_own_memory(tmp_path: Path) -> None:
    """A process of its own: AddressSanitizer cannot be loaded into a running Python."""
    assert CXX is not None
    isa, program = ops.build_info()["isa"], tmp_path / "kernels"
    checks = "-fsanitize=address -D_GLIBCXX_ASSERTIONS"  # test_cuda_compile.py has the undefined-behaviour checks
    flags = f"-std=c++20 -O1 -w -fopenmp-simd -fno-trapping-math -fno-math-errno {checks} -DRFDETR_KERNELS=kernels_tested".split()
    objects = [tmp_path / "isa.o", tmp_path / "main.o"]
    declared = '-DRFDETR_ISA_NAME="tested"'
    isa_source, main = ROOT / "csrc/cpu/ms_deform_attn_isa.cpp", ROOT / "tests" / "sanitized_kernels.cpp"
    known = ["-include", str(tmp_path / "kernels.h")]
    header = f'#include "{ROOT}/csrc/cpu/isa.h"\nnamespace rfdetr {{ extern const IsaKernels kernels_tested; }}\n'
    (tmp_path / "kernels.h").write_text(header)
    commands = [
        [CXX, *flags, *ISA_FLAGS[isa].split(), declared, *known, "-c", str(isa_source), "-o", str(objects[0])],
        [CXX, *flags, *known, "-c", str(main), "-o", str(objects[1])],
    ]
    for kernel in ("ms_deform_attn", "ms_deform_attn_backward", "masks"):
        objects.append(tmp_path / f"{kernel}.o")
        source, shim = str(ROOT / "csrc" / "cuda" / f"{kernel}.cu"), str(ROOT / "tests" / "cuda_host_shim.h")
        commands.append([CXX, *flags, "-include", shim, "-x", "c++", "-c", source, "-o", str(objects[-1])])
    with ThreadPoolExecutor(2) as pool:
        assert not any(pool.map(failure, commands))
    assert not failure([CXX, *flags, *map(str, objects), "-o", str(program)])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "100 calls"


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_only_the_stable_abi_of_pytorch_is_asked_for() -> None:
    """So that one build serves every PyTorch from 2.10 on and every Python; CUDA is linked in, not asked for."""
    command = ["nm", "-D", "--undefined-only", str(ops.LIBRARY)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^\s+[Uw] (\S+)", listing, re.MULTILINE)
    assert "torch_call_dispatcher" in names
    wrong = [
        name for name in names if re.search(r"^_?Py|^cu[A-Z]|^cuda|c10|at[A-Z]?\d*::|_ZN2at|_ZN5torch|_ZNK2at|_ZNK5torch", name)
    ]
    assert not wrong
