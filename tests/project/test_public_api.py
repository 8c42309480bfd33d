"""What users of the package rely on changes on purpose only: names, signatures, verbs, arguments.

Signatures are compared as text; annotations are not evaluated, so the text does not depend on the
version of Python.
"""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "docs_tools_public_api", ROOT / "docs/tools/public_api.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_public_interface_is_the_stored_one() -> None:
    pytest.importorskip("torch", reason="the interface for Python needs torch")
    public_api = tool()
    stored = public_api.STORED.read_text(encoding="utf-8")
    changes = difflib.unified_diff(
        stored.splitlines(), public_api.snapshot().splitlines(), "stored", "code", n=0, lineterm=""
    )
    told = "\n".join(changes)
    assert not told, f"{told}\nIf this change is meant, run: python docs/tools/public_api.py"


def test_packages_with_and_without_names() -> None:
    found = tool().packages()
    assert (
        "RFDETR" in found["rfdetr_repro"]
        and "build_engine" in found["rfdetr_repro.export.tensorrt"]
    )
    assert "rfdetr_repro.spec" not in found
