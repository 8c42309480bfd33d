"""The report's section about the evaluation of the chosen model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples_coco import random_detections, random_document, write_folder

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.diagnosis import diagnose
from rfdetr_repro.report.blocks import Drawing, Grid, Picture
from rfdetr_repro.report.build import build_report
from rfdetr_repro.report.content import report
from rfdetr_repro.report.run import read_run
from rfdetr_repro.reproduce.evaluation import Evaluation
from rfdetr_repro.spec.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that holds an evaluation alone."""
    folder = tmp_path_factory.mktemp("run")
    data = write_folder(tmp_path_factory.mktemp("data"), random_document(0, 12, (120, 150)), "val")
    split = read_split(data, "val")
    detections = random_detections(split, 0)
    kinds = {"boxes": "bbox", "masks": "segm"}
    found = {name: diagnose(CocoEvaluator(split), detections, kind) for name, kind in kinds.items()}
    metrics = {
        "model": "rfdetr-small",
        "artifact": "ab" * 32,
        "data": split.name,
        "split": "val",
        "num_images": len(split),
        "diagnosis": {name: one.as_json() for name, one in found.items()},
    }
    Evaluation(metrics, split, found).write(folder / "evaluation")
    return folder


def test_tables_charts_and_worst_images_are_in_the_report(run: Path) -> None:
    blocks = report(read_run(run)).blocks
    assert [block.table.name for block in blocks if isinstance(block, Grid)] == [
        f"{table}-{kind}" for kind in ("boxes", "masks") for table in ("classes", "sizes")
    ]
    assert len([block for block in blocks if isinstance(block, Drawing)]) == 6
    pictures = [block.path.name for block in blocks if isinstance(block, Picture)]
    assert pictures == ["boxes-worst.png", "masks-worst.png"]
    assert build_report(run, run.parent / "report.pdf").read_bytes().startswith(b"%PDF")
    page = (run.parent / "report.html").read_text()
    assert "toothbrush" in page and "precision, recall and F1 are optimistic" in page


@pytest.mark.parametrize("broken", ["[]", "{}", '{"model": 3}', "{"])
def test_a_broken_evaluation_is_an_error(tmp_path: Path, broken: str) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(broken)
    with pytest.raises(InputError, match=r"metrics\.json"):
        read_run(tmp_path)


def test_a_metric_that_is_missing_is_an_error(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "evaluation" / "metrics.json").read_text())
    del content["diagnosis"]["masks"]["sizes"]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not the metrics of an evaluation"):
        read_run(tmp_path)
