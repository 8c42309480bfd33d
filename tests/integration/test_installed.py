"""An installed package, without the repository: published numbers, this project's Records, and no
need of PyTorch for tables, figures and reports.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from samples_run import write_run

ROOT = Path(__file__).resolve().parents[2]
BUILT = """
import sys
import setuptools.dist
from distutils.core import run_setup
sys.argv = ["setup.py", *sys.argv[1:]]
distribution = run_setup("setup.py", stop_after="config")
distribution.get_option_dict("egg_info")["egg_base"] = ("test", sys.argv[1])
command = distribution.get_command_obj("build_py")
command.build_lib = sys.argv[1]
command.ensure_finalized()
command.run()
"""
INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules["torch"] = None  # importing torch is an ImportError
from rfdetr_repro.cli import main
import rfdetr_repro
assert rfdetr_repro.__file__.startswith(sys.argv[1]), rfdetr_repro.__file__
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel, without the repository."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-c", BUILT, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run_installed(installed: Path, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-I", "-c", INSTALLED, str(installed), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installed_package_has_the_published_numbers_and_our_records(
    installed: Path, tmp_path: Path
) -> None:
    """Tables, figures and the report run without the repository and without PyTorch."""
    shown = run_installed(installed, tmp_path, "tables", "--table", "2")
    assert shown == run_installed(installed, ROOT, "tables", "--table", "2")
    assert "Params M 16 of 18" in shown and "Does Table 2 hold?" in shown
    front = run_installed(installed, tmp_path, "tables", "--table", "frontier", "--format", "csv")
    assert len(front.splitlines()) > 20
    for figure in ("1", "pareto"):
        written = run_installed(installed, tmp_path, "plots", "--figure", figure).split()
        assert all((tmp_path / name).stat().st_size for name in written)
    run = write_run(tmp_path / "run", pictures=False)
    run_installed(installed, tmp_path, "report", "--run", str(run))
    assert (run / "report.pdf").stat().st_size and (run / "report.html").stat().st_size
