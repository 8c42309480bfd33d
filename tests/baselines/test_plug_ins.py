"""Baselines that other packages register: the one of the documentation is measured, and what is no
baseline is left out with one line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rfdetr_repro.baselines import catalog
from rfdetr_repro.bench import models
from rfdetr_repro.bench.costs import check
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError, StatedFailure

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extend.md"
GOOD = """
from rfdetr_repro.baselines import Size
class Mine:
    name, license, weights = "Mine", "MIT", "none"
    suppression, torch_only = False, ""
    sizes = [Size("mine-s", "mine", "Mine", "S")]
    def export(self, size, request): raise NotImplementedError
BASELINE = Mine()
"""


def blocks(kind: str) -> list[str]:
    """Fenced blocks of the section on baselines."""
    section = PAGE.read_text(encoding="utf-8").partition("## Add a baseline")[2].partition("\n## ")
    return re.findall(rf"^```{kind}\n(.*?)^```", section[0], flags=re.MULTILINE | re.DOTALL)


def install(folder: Path, module: str, source: str, points: str = "") -> None:
    """A distribution as pip leaves it: a module, and a dist-info folder with its entry points."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.5\n")
    points = points or f"[{catalog.GROUP}]\n{module} = {module}:BASELINE\n"
    (info / "entry_points.txt").write_text(points)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``python -m`` with the installed distributions of ``folder``, from outside the repository."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs for this process; the catalogue looks again, and once more when the test is over."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(module: str, source: str, points: str = "") -> None:
        install(tmp_path, module, source, points)
        catalog.find.cache_clear()

    yield add
    catalog.find.cache_clear()
    for name in [name for name in sys.modules if name.startswith("plugged_")]:
        del sys.modules[name]


def test_the_baseline_of_the_documentation_is_measured(tmp_path: Path) -> None:
    """From another package to a Record, in processes of their own."""
    (source,) = blocks("python")
    (registration,) = blocks("toml")
    group = re.search(r'entry-points\."([\w.]+)"', registration)
    assert group is not None
    points = f"[{group[1]}]\n" + registration.partition("]\n")[2].replace('"', "")
    install(tmp_path / "site", "mine", source, points)
    listed = run(tmp_path / "site", "rfdetr_repro.baselines", "--names", "mine-s")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^mine-s +Mine +S +64x64 +- +- +MIT +mine 1\.5$", listed.stdout, re.MULTILINE)
    out = tmp_path / "out" / "bench.jsonl"
    few = ["--samples", "2", "--builds", "1", "--buffer-ms", "0", "--out", str(out)]
    done = run(tmp_path / "site", "rfdetr_repro.bench", "--models", "mine-s", *few)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = Store(out).read()
    model = record.model
    assert (model.family, model.name, model.size, model.weights) == ("mine", "Mine", "S", "random")
    assert record.latency is not None and record.artifact is not None
    assert record.cost is not None and record.cost.params == 3 * 9 * 16 * 16 + 9


def test_its_artifact_gives_the_modules_own_detections(here, tmp_path: Path) -> None:
    """Random and trained weights, against the module run by PyTorch and ranked by NumPy."""
    import torch
    from safetensors.torch import save_file

    (source,) = blocks("python")
    here("plugged_mine", source)
    known = catalog.entry("mine-s")
    network = known.baseline.module(known.size)
    trained = {
        key: value + torch.linspace(-0.01, 0.01, value.numel()).reshape(value.shape)
        for key, value in network.state_dict().items()
    }
    save_file(trained, tmp_path / "weights.safetensors")
    images = np.random.default_rng(0).uniform(size=(1, 3, 64, 64)).astype(np.float32)
    found = []
    for weights in (None, tmp_path / "weights.safetensors"):
        artifact = models.model_artifact("mine-s", tmp_path / "made", checkpoint=weights)
        assert artifact.manifest.model.weights == ("trained" if weights else "random")
        if weights:
            network.load_state_dict(trained)
        with torch.no_grad():
            boxes, logits = network(torch.from_numpy(images))
        scores = 1 / (1 + np.exp(-logits.numpy()[0].astype(np.float64)))
        order = np.sort(scores.ravel())[::-1]
        assert order[0] - order[1] > 1e-4, "a near tie decides nothing"
        detections = OrtSession(artifact, threads=1).run(images)
        count = detections.scores.shape[1]
        np.testing.assert_allclose(detections.scores[0], order[:count], atol=1e-5)
        best = np.unravel_index(scores.argmax(), scores.shape)
        assert detections.labels[0][0] == best[1]
        centre, size = np.split(boxes.numpy()[0][best[0]], 2)
        corners = np.concatenate([centre - size / 2, centre + size / 2])
        np.testing.assert_allclose(detections.boxes_xyxy[0][0], corners, atol=1e-5)
        found.append(artifact.path)
    assert len(set(found)) == 2


def test_another_version_of_a_plug_in_is_another_file(here, tmp_path: Path) -> None:
    (source,) = blocks("python")
    here("plugged_mine", source)
    first = models.model_artifact("mine-s", tmp_path / "made").path
    (tmp_path / "plugged_mine.py").write_text(source.replace("manual_seed(0)", "manual_seed(1)"))
    catalog.find.cache_clear()
    assert models.model_artifact("mine-s", tmp_path / "made").path != first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("BASELINE = Mine()", "BASELINE = Mine"), "Mine is a class; register an instance"),
        (("BASELINE = Mine()", "BASELINE = None"), "it has no export, license, name, sizes"),
        (("BASELINE = Mine()", "import not_there_at_all"), "raises ModuleNotFoundError: No module"),
        (("BASELINE = Mine()", "1 / 0"), "raises ZeroDivisionError: division by zero"),
        (("BASELINE = Mine()", "raise SystemExit('bye')"), "raises SystemExit: bye"),
        (("BASELINE = Mine()", ""), "raises AttributeError: module 'plugged_bad' has no"),
        (("BASELINE = Mine()", "def ("), "raises SyntaxError"),
        (('"MIT", "none"', '"MIT", 3'), "its weights is no str"),
        (
            ("suppression, torch_only = False", "suppression, torch_only = None"),
            "suppression is no",
        ),
        (('torch_only = False, ""', 'torch_only = False, "why"'), "in PyTorch only and has no mod"),
        (('[Size("mine-s", "mine", "Mine", "S")]', "[]"), "its sizes are no list of"),
        (('[Size("mine-s", "mine", "Mine", "S")]', "['mine-s']"), "its sizes are no list of"),
        (('[Size("mine-s", "mine", "Mine", "S")]', "3"), "its sizes are no list of"),
        (('"mine-s"', '"Mine S"'), "'Mine S' is not a model name"),
        (('"mine-s"', '"dfine-s"'), "there is a model called dfine-s already"),
        (('"mine-s"', '"rfdetr-nano"'), "there is a model called rfdetr-nano already"),
        (
            ("def export(self, size, request): raise NotImplementedError", "export = 3"),
            "its export",
        ),
    ],
)
def test_what_is_no_baseline_is_left_out_with_one_line(
    change: tuple[str, str], told: str, here, caplog: pytest.LogCaptureFixture
) -> None:
    assert change[0] in GOOD
    here("plugged_bad", GOOD.replace(*change))
    here("plugged_good", GOOD.replace("mine-s", "good-s"))
    known = catalog.entries()
    assert "good-s" in known and "dfine-s" in known and "mine-s" not in known
    assert known["dfine-s"].provider == "rfdetr_repro"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the baseline plugged_bad of plugged_bad 1.5 is left out: ")
    assert told in line and "\n" not in line
    with pytest.raises(InputError, match="unknown model 'mine-x' .*plugged_bad 1.5 is left out"):
        models.model_id("mine-x")


def test_two_plug_ins_of_one_name_do_not_depend_on_the_order_of_the_path(here) -> None:
    here("plugged_b", GOOD)
    here("plugged_a", GOOD)
    assert catalog.entry("mine-s").provider == "plugged_a 1.5"
    assert "plugged_b 1.5 is left out: there is a model called mine-s" in catalog.find().refused[0]


def test_a_bad_plug_in_is_one_line_for_a_command_too(tmp_path: Path) -> None:
    install(tmp_path, "plugged_bad", "import nothing_of_the_kind")
    done = run(tmp_path, "rfdetr_repro.baselines", "--names", "dfine-n")
    assert done.returncode == 0 and "dfine-n" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "the baseline plugged_bad of plugged_bad 1.5 is left out" in line


def test_what_cannot_be_counted_is_refused_before_anything_is_counted(here) -> None:
    here("plugged_good", GOOD)
    with pytest.raises(InputError, match="operations of mine-s can be counted in its file only"):
        check(["rfdetr-nano", "mine-s"], ["shapes", "flopcountermode"])
    check(["rfdetr-nano", "mine-s"], ["shapes", "onnx"])


WRITES = """
import torch
from rfdetr_repro.baselines import Size, export_module
class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(3, 9, 16, stride=16)
    def forward(self, images):
        rows = self.head(images).flatten(2).transpose(1, 2)
        return rows[..., :4].sigmoid(), rows[..., 4:]
class Mine:
    name, license, weights = "Mine", "MIT", "none"
    suppression, torch_only = False, ""
    sizes = [Size("mine-s", "dfine", "Mine", "S", num_classes=5, hw=(64, 64))]
    def module(self, size, form="deployed"): return Network()
    def export(self, size, request): return export_module(Network(), size, request)
BASELINE = Mine()
"""
WRITE = "return export_module(Network(), size, request)"


@pytest.mark.parametrize(
    ("export", "told"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("return None", "it wrote no artifact"),
        ("open(request.path, 'w').write('x')", "it wrote no artifact"),
        (
            "from dataclasses import replace; other = replace(request.model, name='Other'); "
            "return export_module(Network(), size, replace(request, model=other))",
            "its manifest is of another model",
        ),
    ],
)
def test_a_plug_in_that_fails_is_one_line_and_leaves_no_artifact(
    export: str, told: str, here, tmp_path: Path
) -> None:
    here("plugged_writes", WRITES.replace(WRITE, export))
    with pytest.raises(StatedFailure, match=f"^mine-s of plugged_writes 1.5 failed: {told}$"):
        models.model_artifact("mine-s", tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())


def test_the_manifest_names_the_package_behind_a_plug_in(here, tmp_path: Path) -> None:
    here("plugged_writes", WRITES)
    manifest = models.model_artifact("mine-s", tmp_path / "made").manifest
    assert manifest.packages["plugged_writes"] == "1.5" and "torch" in manifest.packages


def test_a_plug_in_does_not_take_the_name_of_a_papers_row(here) -> None:
    """Its family is D-FINE, so its rows join with D-FINE's; what the paper's letters name stays."""
    here("plugged_writes", WRITES.replace('"dfine", "Mine", "S"', '"lwdetr", "Mine", "S"'))
    assert models.known_name("lwdetr-s") == "lwdetr-small"
    assert models.model_id("mine-s").family == "lwdetr"


def test_a_plug_in_runs_in_pytorch_only_if_it_says_so(here, tmp_path: Path) -> None:
    here("plugged_writes", WRITES.replace('False, ""', 'False, "its masks are no static graph"'))
    artifact = models.model_artifact("mine-s", tmp_path / "made")
    assert artifact.path.suffix == ".recipe" and artifact.manifest.params == 3 * 9 * 256 + 9
    assert artifact.manifest.packages["plugged_writes"] == "1.5"
    assert artifact.manifest.packages["star"] == "its masks are no static graph"
    with pytest.raises(InputError, match="measured with random weights only: its masks are no"):
        models.model_artifact("mine-s", tmp_path / "made", checkpoint=Path(__file__))


def test_a_module_that_fails_is_one_line(here) -> None:
    here("plugged_writes", WRITES.replace("return Network()", "raise OSError('no weights')"))
    with pytest.raises(StatedFailure, match="mine-s of plugged_writes 1.5 failed: OSError: no wei"):
        catalog.module("mine-s")
