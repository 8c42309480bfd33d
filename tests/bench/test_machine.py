"""What the machine says about itself, and that nothing is guessed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rfdetr_repro.bench import machine


def test_this_machine() -> None:
    here = machine.this_machine()
    assert here.cpu and 1 <= here.cores <= (os.cpu_count() or 1) and here.memory_gib > 0
    # it is part of Record ids and must not change within a run
    assert here is machine.this_machine()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: Example  CPU @ 2GHz\n", "Example CPU @ 2GHz"),
        ("Hardware : Board\n", "Board"),
    ],
)
def test_cpu_model(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert machine.cpu_model(tmp_path / "cpuinfo") == name


def test_cpu_model_without_the_file(tmp_path: Path) -> None:
    assert machine.cpu_model(tmp_path / "missing")


def test_container_limits(tmp_path: Path) -> None:
    unlimited = machine.usable_cores(tmp_path), machine.usable_memory_bytes(tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    assert (machine.usable_cores(tmp_path), machine.usable_memory_bytes(tmp_path)) == (1, 1 << 20)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (machine.usable_cores(tmp_path), machine.usable_memory_bytes(tmp_path)) == unlimited


def test_environment_names_versions() -> None:
    found = machine.environment()
    assert {"python", "torch", "onnxruntime", "numpy"} <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())


def test_commit_and_dirt(tmp_path: Path) -> None:
    assert machine.git_commit(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True
        )

    git("init")
    assert machine.git_commit(tmp_path) == "unknown"  # no commit yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    commit = machine.git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert machine.git_commit(tmp_path) == f"{commit}-dirty"


def test_a_command_that_fails_says_nothing() -> None:
    assert machine._output(["git", "no-such-verb"]) is None
    assert machine._output(["no-such-program-here"]) is None


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_git_that_fails_is_not_a_clean_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged index, a foreign owner and a repository of a newer git all make ``git status``
    fail.
    """
    (tmp_path / "tree" / ".git").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.git_commit(tmp_path / "tree") == "unknown"  # no git
    program(tmp_path, "git", 'case "$3" in rev-parse) echo abc;; *) exit 128;; esac')
    assert machine.git_commit(tmp_path / "tree") == "abc-unknown"
    program(tmp_path, "git", 'case "$3" in rev-parse) echo abc;; *) echo " M file";; esac')
    assert machine.git_commit(tmp_path / "tree") == "abc-dirty"
    program(tmp_path, "git", 'case "$3" in rev-parse) echo abc;; *) exit 0;; esac')
    assert machine.git_commit(tmp_path / "tree") == "abc"
    program(tmp_path, "git", "exit 128")
    assert machine.git_commit(tmp_path / "tree") == "unknown"
    assert machine.git_commit(tmp_path) is None


@pytest.mark.parametrize(
    ("script", "driver", "found"),
    [
        (None, False, (None, None)),
        (None, True, ("unknown", "unknown")),
        ("exit 9", False, (None, None)),  # the program is there, the driver is not
        ("exit 9", True, ("unknown", "unknown")),
        ("echo 'No devices were found'; exit 6", True, (None, None)),
        ("echo nonsense", True, ("unknown", "unknown")),
        ("echo 'NVIDIA T4, 550.1'", True, ("NVIDIA T4", "550.1")),
        ("echo 'NVIDIA T4, 550.1'", False, ("NVIDIA T4", "550.1")),
        ("echo 'NVIDIA T4, '", True, ("NVIDIA T4", "unknown")),
    ],
)
def test_a_gpu_that_cannot_be_asked_is_unknown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    driver: bool,
    found: tuple[str | None, str | None],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        program(tmp_path, "nvidia-smi", script)
    sign = tmp_path / "version"
    if driver:
        sign.write_text("NVRM")
    assert machine._nvidia(signs=[str(tmp_path / "none"), str(sign)]) == found
