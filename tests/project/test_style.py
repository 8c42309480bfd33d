"""Rules of style that ruff does not know: module docstrings, no drawers, line lengths of C++."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("rfdetr_repro", "csrc", "benchmarks", "reports", "tests")
LINE_LENGTH = 130  # of C++ and CUDA; clang-format wraps at less
DRAWERS = {"utils", "util", "misc", "common", "helpers"}


def files(*suffixes: str) -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in found if path.suffix in suffixes and "__pycache__" not in path.parts]


def _docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_line_lengths() -> None:
    for path in files(".cpp", ".h", ".cuh", ".cu"):
        lines = path.read_text(encoding="utf-8").splitlines()
        long = [number for number, line in enumerate(lines, 1) if len(line) > LINE_LENGTH]
        assert not long, f"{name(path)}: lines {long}"


def test_no_drawers() -> None:
    assert not [name(path) for path in files(".py") if path.stem in DRAWERS]


def test_every_module_says_its_job() -> None:
    modules = [path for path in files(".py") if path.stat().st_size]
    assert len(modules) > 300
    assert not [name(path) for path in modules if not _docstring(path)]
