"""benchmarks/gpu.py, the one command for a CUDA machine: it runs every test file that has something
for a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_gpu_test_is_run(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.commands(argparse.Namespace(device="cuda", skip=[], out=tmp_path))
    run = {
        Path(word).name for command, _ in found.values() for word in command if word.endswith(".py")
    }
    marked = {
        path.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu\n" in path.read_text()
    }
    assert len(marked) >= 5 and marked <= run, marked - run
