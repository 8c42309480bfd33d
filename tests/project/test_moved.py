"""Old import paths give the modules under their new names, with a warning."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from rfdetr_repro.moved import BASELINES, MOVED, PARTED

NEEDS = {"export.openvino_session": "openvino"}


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_new_module(old: str) -> None:
    if old in NEEDS:
        pytest.importorskip(NEEDS[old])
    new = importlib.import_module(f"rfdetr_repro.{MOVED[old]}")
    spec = new.__spec__
    sys.modules.pop(f"rfdetr_repro.{old}", None)
    with pytest.warns(DeprecationWarning, match="the old name goes with version"):
        assert importlib.import_module(f"rfdetr_repro.{old}") is new
    assert new.__spec__ is spec and new.__name__ == f"rfdetr_repro.{MOVED[old]}"


@pytest.mark.parametrize("old", sorted(PARTED))
def test_an_old_name_has_what_is_now_in_several_modules(old: str) -> None:
    sys.modules.pop(f"rfdetr_repro.{old}", None)
    with pytest.warns(DeprecationWarning, match=re.escape(PARTED[old][0])):
        joined = importlib.import_module(f"rfdetr_repro.{old}")
    for name in PARTED[old]:
        module = importlib.import_module(f"rfdetr_repro.{name}")
        own = [
            key
            for key, value in vars(module).items()
            if key[0] != "_" and getattr(value, "__module__", "") == module.__name__
        ]
        assert own and all(getattr(joined, key) is getattr(module, key) for key in own)


def test_the_names_that_were_moved_apart() -> None:
    for old, names in {
        "config": ("Arch", "ModelConfig", "TrainConfig"),
        "plots.campaign": ("draw_pareto", "pareto_panels", "draw_knobs", "draw_decoder"),
    }.items():
        sys.modules.pop(f"rfdetr_repro.{old}", None)
        with pytest.warns(DeprecationWarning, match="the old name goes with version"):
            module = importlib.import_module(f"rfdetr_repro.{old}")
        assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("old", sorted(BASELINES))
def test_the_folder_of_baselines_is_part_of_the_package(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``baselines.py`` in the repository's root stands for the folder that was there."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    new = importlib.import_module(f"rfdetr_repro.{BASELINES[old]}")
    for name in ("baselines", old):
        sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match="the old name goes with version"):
        assert importlib.import_module(old) is new


def test_old_names_of_the_catalogue() -> None:
    from rfdetr_repro.baselines import catalog, exporting

    with pytest.warns(DeprecationWarning, match="goes with version"):
        assert catalog.ROWS["dfine-s"].family == "dfine"
    with pytest.warns(DeprecationWarning, match="goes with version"):
        assert catalog.export is exporting.export
    with pytest.raises(AttributeError, match="no attribute"):
        catalog.nothing_of_this_name  # noqa: B018 (the look-up is what is tested)


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("rfdetr_repro.never_was")


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("paper", "published_records"),
        ("data.embedded", "write_embedded"),
        ("export.onnx", "export_onnx"),
        ("export.adopt", "adopt"),
        ("export.tensorrt", "build_engine"),
        ("tables", "build_tables"),
        ("plots", "pareto_plot"),
        ("reproduce", "Reproduction"),
    ],
)
def test_packages_offer_their_main_names(package: str, name: str) -> None:
    module = importlib.import_module(f"rfdetr_repro.{package}")
    assert callable(getattr(module, name))
    with pytest.raises(AttributeError, match="has no attribute"):
        module.nothing_of_this_name  # noqa: B018 (the look-up is what is tested)
