"""The kernels' text with one thread of the operating system for each CUDA thread, all blocks of a
launch at once, under ThreadSanitizer: a missing barrier or an addition that is not atomic is a data
race, and values are compared with plain sums.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_builds
import pytest

pytestmark = [
    pytest.mark.skipif(cuda_builds.CXX is None, reason="no g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="futexes of Linux"),
]
NAMES = re.findall(r'^    \{"([^"]+)"', (cuda_builds.HERE / "thread_cases.cpp").read_text(), re.M)
QUICK = ("sorted tiles", "packed masks")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda_builds.thread_cases(tmp_path_factory.mktemp("threads"))


def outcome(program: Path, name: str) -> tuple[int, str]:
    """Exit code and messages of one case; the layout of memory is the same each time where the
    system allows it, because ThreadSanitizer refuses some.
    """
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 exitcode=66"}
    command = [str(program), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if "unexpected memory mapping" in done.stderr:
        fixed = subprocess.run(
            ["setarch", "-R", *command],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if fixed.returncode != 0 and "unexpected memory mapping" in fixed.stderr:
            pytest.skip("ThreadSanitizer does not run on this system's layout of memory")
        done = fixed
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.parity) for name in NAMES],
)
def test_threads_do_not_race(program: Path, name: str) -> None:
    code, output = outcome(program, name)
    assert code == 0 and output.strip() == name, output[-4000:]


def test_every_case_has_a_name() -> None:
    """The quick ones are among the cases, and there are cases of both operators."""
    assert set(QUICK) <= set(NAMES) and len(NAMES) == len(set(NAMES))
