"""The import rule: a module imports from lower floors only, sideways on the floors named in SIDEWAYS and inside a sub-folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "rfdetr_repro"
FLOORS = {
    0: [
        "errors",
        "ranges",
        "codec",
        "files",
        "unfinished",
        "arguments",
        "csv_text",
        "config",
        "latency_protocol",
        "presets",
        "flops",
        "labels",
        "digests",
        "record",
        "store",
        "seal",
        "paper",
        "pareto",
        "model_check",
        "sensitivity",
        "ap_intervals",
        "departures",
        "campaign",
        "cost_cells",
        "ap_gaps",
        "resize_rules",
    ],
    1: ["boxes", "ops", "masks"],
    2: ["model", "device"],
    3: ["data", "coco_eval", "coco_matches", "validation"],
    4: ["train", "export"],
    5: ["bench"],
    6: ["search"],
    7: ["tables", "plots"],
    8: ["reproduce", "pictures", "evaluate", "predict", "cli", "api", "detect", "finetune", "family", "mean", "upstream_classes"],
}
FLOOR_OF = {unit: floor for floor, units in FLOORS.items() for unit in units}
SIDEWAYS = {0, 3, 7, 8}  # train/ and export/, on floor 4, are strangers to each other
WITHOUT_TORCH = {0, 7}  # floors, and reports/, that run on a machine without torch
TORCH = {"torch", "torchvision", "onnx", "onnxruntime", "faster_coco_eval", "hotcoco"}
ALLOWED_OUTSIDE = {"reports": {0, 7}, "baselines": {0, 1, 2, 3, 4}}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def imported_modules(path: Path) -> tuple[str, ...]:
    """Absolute dotted names imported anywhere in the file, function bodies included."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = list(path.relative_to(ROOT).with_suffix("").parts)[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *([node.module] if node.module else [])]
            yield ".".join(stem)
            yield from (".".join([*stem, alias.name]) for alias in node.names)


def floor_of(unit: str) -> int | None:
    """Floor of a unit; ``tables_paper`` belongs to ``tables``."""
    return FLOOR_OF.get(unit, FLOOR_OF.get(unit.split("_")[0]))


def unit_of(module: str) -> str | None:
    """Top-level unit inside the package: rfdetr_repro.model.vit -> model."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def wrong_imports(path: Path, own: str, allowed: set[int], sideways: bool) -> list[str]:
    wrong = []
    for module in imported_modules(path):
        unit = unit_of(module)
        if unit is None or unit == own:
            continue
        floor = floor_of(unit)
        if floor is None:
            continue  # a name of the package itself, such as __version__; unknown modules fail test_every_module_has_a_floor
        if floor not in allowed and not (sideways and floor == floor_of(own)):
            wrong.append(f"{path.relative_to(ROOT)} imports {module} (floor {floor})")
    return wrong


def unit_of_file(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def package_files() -> list[Path]:
    return [path for path in sources(PACKAGE) if unit_of_file(path) not in ("__init__", "__main__")]


def test_every_module_has_a_floor() -> None:
    assert not [path for path in package_files() if floor_of(unit_of_file(path)) is None], "add the module to FLOORS"


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = unit_of_file(path)
    floor = floor_of(own) or 0
    allowed = {0} if floor == 7 else set(range(floor))
    assert not wrong_imports(path, own, allowed, sideways=floor in SIDEWAYS)


@pytest.mark.parametrize("folder", ALLOWED_OUTSIDE)
def test_outside_folders(folder: str) -> None:
    wrong = [line for path in sources(folder) for line in wrong_imports(path, "", ALLOWED_OUTSIDE[folder], sideways=False)]
    assert not wrong


def test_package_imports_nothing_outside() -> None:
    """Except that commands (floor 8) may start the report."""
    outside = {"reports", "baselines", "benchmarks", "tests"}
    wrong = []
    for path in sources(PACKAGE):
        banned = outside - {"reports"} if floor_of(unit_of_file(path)) == 8 else outside
        wrong += [f"{path} imports {module}" for module in imported_modules(path) if module.split(".")[0] in banned]
    assert not wrong


def test_torch_free_floors_name_no_torch() -> None:
    free = [path for path in package_files() if floor_of(unit_of_file(path)) in WITHOUT_TORCH] + sources("reports")
    wrong = {str(path): sorted({m.split(".")[0] for m in imported_modules(path)} & TORCH) for path in free}
    assert not {path: names for path, names in wrong.items() if names}


def test_torch_free_modules_load_without_torch() -> None:
    units = [f"{PACKAGE}.{unit_of_file(p)}" for p in package_files() if floor_of(unit_of_file(p)) in WITHOUT_TORCH]
    block = f"import sys; [sys.modules.__setitem__(name, None) for name in {sorted(TORCH)}]; "
    code = block + "; ".join(f"import {unit}" for unit in units)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_the_rule_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upward import is found, absolute or relative, at module level or inside a function."""
    folder = tmp_path / PACKAGE / "model"
    folder.mkdir(parents=True)
    bad = folder / "vit.py"
    bad.write_text("from ..boxes import pairwise_iou\ndef f():\n    from .. import search\nimport rfdetr_repro.train.trainer\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    wrong = wrong_imports(bad, "model", {0, 1}, sideways=False)
    assert len(wrong) == 2 and "search" in wrong[0] + wrong[1] and "train" in wrong[0] + wrong[1]
