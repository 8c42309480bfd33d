"""The kernels' own text under AddressSanitizer and UndefinedBehaviorSanitizer, that of CUDA on
every path, and the symbols the library asks of PyTorch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from samples_driver import RESULT, build_driver

from rfdetr_repro import ops

CXX = shutil.which("g++")
ISA_FLAGS = {
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c",
    "avx2": "-mavx2 -mfma -mf16c",
    "sse4.1": "-msse4.1",
    "plain": "",
}


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.skipif(CXX is None, reason="no g++")
def test_random_calls_touch_only_their_own_memory(tmp_path: Path) -> None:
    """A process of its own: AddressSanitizer cannot be loaded into a running Python. What it prints
    counts the calls and the kernels of CUDA that ran.
    """
    assert CXX is not None
    checks = (
        "-O0 -fsanitize=address,undefined -fno-sanitize-recover=undefined -D_GLIBCXX_ASSERTIONS"
    )
    program = build_driver(tmp_path, CXX, checks, ISA_FLAGS[ops.build_info()["isa"]])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == RESULT


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_only_the_stable_abi_of_pytorch_is_asked_for() -> None:
    """So that one build serves every PyTorch from 2.10 on and every Python; CUDA is linked in, not
    asked for.
    """
    command = ["nm", "-D", "--undefined-only", str(ops.LIBRARY)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^\s+[Uw] (\S+)", listing, re.MULTILINE)
    assert "torch_call_dispatcher" in names
    wrong = [
        name
        for name in names
        if re.search(
            r"^_?Py|^cu[A-Z]|^cuda|c10|at[A-Z]?\d*::|_ZN2at|_ZN5torch|_ZNK2at|_ZNK5torch", name
        )
    ]
    assert not wrong
