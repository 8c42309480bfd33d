"""Tables, plots and report work in an interpreter without torch and ONNX Runtime; SciPy may be
there, intervals need it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples_run import write_run

BLOCKED = """
import sys

HEAVY = {"torch", "onnx", "onnxruntime", "faster_coco_eval", "hotcoco"}
HEAVY |= {"safetensors", "pycocotools"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(f"{name} is blocked in this test")

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ImportError:
    pass
else:
    sys.exit("the blocker does not block")
"""

FLOW = """
import rfdetr_repro
from rfdetr_repro import paper
from rfdetr_repro import claims_command as claims
from rfdetr_repro.plots import command as plots
from rfdetr_repro.records import pareto
from rfdetr_repro.spec import presets
from rfdetr_repro.tables import command as tables
from reports import build
run = sys.argv[1]
assert tables.main(["--table", "all", "--records", run]) == 0
assert tables.main(["--table", "frontier", "--records", run, "--format", "latex"]) == 0
assert claims.main(["--records", run]) == 0
assert plots.main(["--run", run, "--out", run + "/figures", "--figure", "pareto"]) == 0
assert build.main(["--run", run]) == 0
assert not {"torch", "onnx", "onnxruntime"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def test_tables_plots_and_report_need_no_torch(run):
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + FLOW, str(run)],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "Confirmed frontier" in done.stdout
        and (run / "report.pdf").exists()
        and (run / "figures" / "pareto.png").exists()
    )


def test_the_commands_run_as_modules(run):
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "rfdetr_repro.tables", "--table", "nonsense"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
