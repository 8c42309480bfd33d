"""The C++ runner, built once for all tests, and a model for it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest
from samples_export import tiny_artifact
from samples_runner import LIBRARY, SOURCES, Runner, missing

from rfdetr_repro.export.artifact import Artifact

DONE = "done"  # in the folder of a build that ended


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    if why := missing():
        pytest.skip(why)
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers: the first of them builds
    build = base / "runner"
    with (base / "runner.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (build / DONE).exists():
            _build(build)
            (build / DONE).touch()
    cache = (build / "CMakeCache.txt").read_text(encoding="utf-8")
    return Runner(build / "rfdetr-predict", cache)


def _build(folder: Path) -> None:
    configure = ["cmake", "-S", str(SOURCES), "-B", str(folder), f"-DONNXRUNTIME_ROOT={LIBRARY}"]
    for command in (
        [*configure, "-DCMAKE_CXX_FLAGS_RELEASE=-O1"],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with masks and random weights, whose outputs depend on the picture."""
    return tiny_artifact(tmp_path_factory.mktemp("artifact"))
