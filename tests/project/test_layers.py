"""The layers of the package, as pyproject.toml states them: import-linter reads every import, those
in functions included.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "rfdetr_repro"
WITHOUT_TORCH = ("spec", "records", "paper", "tables", "plots", "nasbench", "report")
TORCH = ("torch", "torchvision", "onnx", "onnxruntime", "faster_coco_eval", "hotcoco")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter")
    code = (
        "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(cache_dir=None))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )


def test_every_import_goes_down() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "statement", "contract"),
    [
        (
            "model/vit.py",
            "from rfdetr_repro.train import trainer",
            "Every folder imports only from folders below it",
        ),
        (
            "model/vit.py",
            "def late():\n    import rfdetr_repro.search.race",
            "Every folder imports only from folders below it",
        ),
        ("tables/format.py", "import torch", "Tables, plots and reports read"),
        ("spec/files.py", "from . import campaign", "No module depends on itself"),
        ("api/rfdetr.py", "from rfdetr_repro.train import __main__", "Nothing imports a __main__"),
        (
            "bench/models.py",
            "import benchmarks.cases",
            "The package does not need what is not installed with it",
        ),
        ("new_room.py", "import json", "Every folder imports only from folders below it"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, statement: str, contract: str) -> None:
    """The check can fail: for each contract an import that breaks it."""
    shutil.copytree(
        ROOT / PACKAGE,
        tmp_path / PACKAGE,
        ignore=shutil.ignore_patterns("*.so", "pack", "__pycache__", "weights"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / PACKAGE / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n{statement}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(
        contract.startswith(line.removesuffix(" BROKEN")) or contract in line
        for line in done.stdout.splitlines()
        if line
    )
    assert "BROKEN" in done.stdout


def test_layers_without_torch_load_without_torch() -> None:
    pytest.importorskip("fpdf", reason="fpdf2, which the report needs, is not installed")
    files = [
        path for room in WITHOUT_TORCH for path in sorted((ROOT / PACKAGE / room).rglob("*.py"))
    ]
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files
    ]
    assert len(names) > 40
    block = f"import sys; [sys.modules.__setitem__(name, None) for name in {TORCH!r}]; "
    code = block + "; ".join(f"import {name}" for name in names)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
