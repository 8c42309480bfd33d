"""Old import paths give the modules under their new names, with a warning."""

from __future__ import annotations

import importlib
import sys

import pytest

from rfdetr_repro.moved import CONFIG, MOVED

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


def test_the_module_of_three_configurations() -> None:
    sys.modules.pop("rfdetr_repro.config", None)
    with pytest.warns(DeprecationWarning, match=r"spec\.arch"):
        config = importlib.import_module("rfdetr_repro.config")
    arch = importlib.import_module(f"rfdetr_repro.{CONFIG[0]}")
    assert config.Arch is arch.Arch and config.ModelConfig and config.TrainConfig


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
