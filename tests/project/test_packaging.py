"""What a wheel holds: every module and every data file of the package."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "rfdetr_repro"
RESULTS = ROOT / "results"
# compiled here, or written by programs
MADE = (".so", ".pyc", ".pyd", ".lock")
LISTED = """
import json, sys
import setuptools.dist
from distutils.core import run_setup
sys.argv = ["setup.py", *sys.argv[1:]]
distribution = run_setup("setup.py", stop_after="config")
distribution.get_option_dict("egg_info")["egg_base"] = ("test", sys.argv[1])
command = distribution.get_command_obj("build_py")
command.ensure_finalized()
print(json.dumps(command.get_outputs(include_bytecode=False)))
print(json.dumps(command.build_lib))
"""


def test_every_file_of_the_package_is_in_the_wheel(tmp_path: Path) -> None:
    """As setuptools lists what it builds, without what an earlier build left behind."""
    pytest.importorskip("setuptools", minversion="77")
    command = [sys.executable, "-c", LISTED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs, build = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    packed = {Path(path).relative_to(build).as_posix() for path in outputs}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and path.suffix not in MADE and not path.name.startswith(".")
    }
    assert len(packed) > 1000
    assert there - packed == set()
    stores = {f"{PACKAGE}/records/stored/{path.name}" for path in RESULTS.glob("*.jsonl")}
    assert stores and stores <= packed
    for name in ("d_fine/baseline.toml", "yolo_ultralytics/programs/export_ultralytics.py"):
        assert f"{PACKAGE}/baselines/{name}" in packed
    assert not {path for path in packed if not path.startswith(f"{PACKAGE}/")}


def test_architectures_that_nvcc_does_not_know_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The build says which; architectures that are asked for by name are taken as they are."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.delenv("RFDETR_CUDA_ARCHS", raising=False)
    architectures = runpy.run_path(str(ROOT / "setup.py"))["architectures"]
    nvcc = tmp_path / "nvcc"
    known = "\n".join(f"compute_{arch}" for arch in (80, 86, 87, 89, 90))
    nvcc.write_text(f"#!/bin/sh\ncat <<END\n{known}\nEND\n")
    nvcc.chmod(0o755)
    assert architectures(str(nvcc)) == ["80", "86", "89", "90"]
    assert "does not know sm_75, sm_100, sm_120: left out" in capsys.readouterr().out
    monkeypatch.setenv("RFDETR_CUDA_ARCHS", "120 90")
    assert architectures(str(nvcc)) == ["90", "120"] and not capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "printf 'compute_60\\ncompute_50\\n'",
            "knows none of the architectures 75 80 .* but 50 60;",
        ),
        (
            "echo \"nvcc fatal   : Unknown option '-list-gpu-arch'\" >&2; exit 1",
            "says: nvcc fatal   : Unknown option '-list-gpu-arch';",
        ),
        ("true", "says: nothing;"),
        (None, "says: .*Permission denied"),
    ],
    ids=["old", "no such option", "silent", "no program"],
)
def test_an_nvcc_that_knows_none_of_the_architectures_is_one_line(
    script: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nvcc says and what to set, before anything is compiled; the same where the architectures
    of the user are no numbers.
    """
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.delenv("RFDETR_CUDA_ARCHS", raising=False)
    architectures = runpy.run_path(str(ROOT / "setup.py"))["architectures"]
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\n{script}\n")
    nvcc.chmod(0o644 if script is None else 0o755)
    with pytest.raises(SystemExit) as ended:
        architectures(str(nvcc))
    line = str(ended.value)
    assert line.startswith("error: ") and "\n" not in line and re.search(said, line)
    assert "set RFDETR_CUDA_ARCHS" in line and "RFDETR_CUDA=0" in line and str(nvcc) in line
    for wrong in ("9.0", "90a", "sm_90"):
        monkeypatch.setenv("RFDETR_CUDA_ARCHS", wrong)
        with pytest.raises(SystemExit, match=f"^error: RFDETR_CUDA_ARCHS='{wrong}' is no list"):
            architectures(str(nvcc))
    monkeypatch.setenv("RFDETR_CUDA_ARCHS", "90")
    assert architectures(str(nvcc)) == ["90"]
