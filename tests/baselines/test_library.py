"""Other people's detectors: what is deployed and exported gives the detections of the library's own
program.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from samples_baselines import (
    CLASSES,
    FAMILIES,
    NORMALISED,
    QUERIES,
    SIDE,
    images,
    library_model,
    smallest_lead,
)

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.exporting import export
from rfdetr_repro.baselines.library import LibraryBaseline
from rfdetr_repro.baselines.rt_detr import BASELINE as RT_DETR
from rfdetr_repro.baselines.rt_detr.adapter import CARD
from rfdetr_repro.bench import models
from rfdetr_repro.export.adopt.adoption import adopt
from rfdetr_repro.export.onnx.surgery import INPUTS
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError

pytest.importorskip("transformers.models.lw_detr", reason="transformers (>= 5) is not installed")

# lead of what is chosen over what is not: a hundred times the largest difference between two
# programs
CLEAR = 3e-4


def normalised(family: str, batch: torch.Tensor) -> torch.Tensor:
    mean, std = (
        torch.tensor(values).reshape(1, 3, 1, 1) for values in (INPUTS["imagenet"] or ())[:2]
    )
    return (batch - mean) / std if family in NORMALISED else batch


def share_found(expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> float:
    """Share of the rows of ``expected`` (Q, n) that ``found`` (Q, n) has, in any order: near ties
    change places.
    """
    return (
        ((expected[:, None] - found[None]).abs().amax(-1) < tolerance).any(1).float().mean().item()
    )


OFTEN = ("dfine", "deimv2-transformer")


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_deployed_form_computes_the_same(family: str) -> None:
    """Merged convolutions and a late choice of boxes change no value beyond rounding."""
    model = library_model(family)
    batch = images()
    assert smallest_lead(model, batch) > CLEAR
    outputs = model(batch)
    expected = torch.cat((outputs.pred_boxes, outputs.logits), -1)[0].clone()
    found = torch.cat(FAMILIES[family].deployed(model)(batch), -1)[0]
    assert share_found(expected, found, 2e-4) == 1.0
    assert expected.std(0).max() > 1e-3, "the queries must not be alike"


def own_post_processing(family: str, outputs: Any) -> dict[str, torch.Tensor]:
    if family == "lwdetr":
        from transformers.models.deformable_detr.image_processing_pil_deformable_detr import (
            DeformableDetrImageProcessorPil as Pil,
        )

        return Pil().post_process_object_detection(outputs, threshold=0.0, top_k=QUERIES)[0]
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    return RTDetrImageProcessorPil().post_process_object_detection(outputs, threshold=0.0)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=[] if one in OFTEN else pytest.mark.parity) for one in FAMILIES],
)
def test_an_adopted_export_gives_the_librarys_own_detections(family: str, tmp_path: Path) -> None:
    """Sigmoid, choice among all (query, class) pairs and corners, after normalisation, all inside
    the file.
    """
    # of random weights, those that find several classes
    model = library_model(family, seed=6 if family == "deimv2-transformer" else 0)
    batch = images()
    assert smallest_lead(model, normalised(family, batch)) > CLEAR
    expected = own_post_processing(family, model(normalised(family, batch)))
    export(FAMILIES[family].deployed(model), tmp_path / "raw.onnx", (SIDE, SIDE))
    normalise = "imagenet" if family in NORMALISED else "none"
    sizes = [known.size for known in catalog.entries().values()]
    stated = {size.normalise for size in sizes if size.family == family.partition("-")[0]}
    assert normalise in stated
    adopted = adopt(
        tmp_path / "raw.onnx", tmp_path / "adopted.onnx", form="detr", normalise=normalise
    )
    found = OrtSession(adopted, threads=1).run(batch.numpy())
    assert found.scores.shape == (1, QUERIES) and len(set(found.labels[0].tolist())) > 1
    np.testing.assert_allclose(found.scores[0], expected["scores"], atol=1e-4)
    ours = torch.cat(
        (torch.from_numpy(found.boxes_xyxy[0]), 100.0 * torch.from_numpy(found.labels[0])[:, None]),
        1,
    )
    theirs = torch.cat((expected["boxes"], 100.0 * expected["labels"][:, None]), 1)
    assert share_found(theirs, ours, 1e-3) == share_found(ours, theirs, 1e-3) == 1.0


def test_every_row_has_the_key_of_its_printed_row() -> None:
    from rfdetr_repro.paper.published import join_key, published_records
    from rfdetr_repro.records.record import Record

    printed = {
        join_key(record)[:3]
        for table in ("2", "3", "12", "13")
        for record in published_records(table)
    }
    ours = {
        name: join_key(Record("cost", models.model_id(name)))[:3] for name in models.model_names()
    }
    left = {key for key in printed if not key[0].startswith(("fastinst", "maskdino"))} - set(
        ours.values()
    )
    assert not left, "every end-to-end detector of the tables has a row"
    extra = {
        name
        for name, key in ours.items()
        if key not in printed and not name.endswith("@transformers")
    }
    # the permissive ones and the later ones are not the paper's
    later = ("yolox-", "yolov9-", "yolo12-", "yolo26-", "yoloe-", "rtdetrv2-", "deimv2-", "ec-")
    extra = {name for name in extra if not name.startswith(later)}
    assert extra == {
        "rfdetr-base",
        "rfdetr-large-deprecated",
        "rfdetr-seg-preview",
        "rtdetr-r34",
        "rtdetr-r50m",
        "llmdet-t",
    }


def test_the_scoreboards_names_are_known() -> None:
    from rfdetr_repro.paper.cells import table_rows
    from rfdetr_repro.tables.missing import bench_name

    rows = [row for table in ("2", "3", "4", "9", "12", "13", "14") for row in table_rows(table)]
    names = {bench_name(row) for row in rows if row.arch is None or row.identity.model.size}
    missing = {name for name in names if models.known_name(name) not in models.model_names()}
    # one architecture for each of 100 data sets
    searched = {f"rfdetr-{size}" for size in ("n", "s", "m", "l", "xl", "2xl")}
    assert missing == {"fastinst-r50-seg", "maskdino-r50-seg"} | searched
    assert (
        models.known_name("lwdetr-s") == "lwdetr-small"
        and models.known_name("yolov8-xl-seg") == "yolov8-x-seg"
    )


def tiny_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tiny(LibraryBaseline):
        def build(self, size: Any, num_classes: int) -> Any:
            if num_classes == CLASSES:
                return library_model("rtdetr")
            return super().build(size, num_classes)

    known = catalog.entry("rtdetr-r18")
    baseline = Tiny(CARD, RT_DETR.adapter.__name__, class_head=RT_DETR.class_head)
    size = replace(known.size, num_classes=CLASSES, hw=(SIDE, SIDE))
    monkeypatch.setitem(catalog.entries(), "rtdetr-r18", catalog.Entry(baseline, size))


def test_an_artifact_is_made_once_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_row(monkeypatch)
    made = models.model_artifact("rtdetr-r18", tmp_path)
    written = made.path.stat().st_mtime_ns
    again = models.model_artifact("rtdetr-r18", tmp_path)
    assert again.manifest == made.manifest and again.path.stat().st_mtime_ns == written
    model = made.manifest.model
    assert (model.family, model.name, model.size, model.weights) == (
        "rtdetr",
        "RT-DETR",
        "R18",
        "random",
    )
    assert made.manifest.params == sum(p.numel() for p in catalog.module("rtdetr-r18").parameters())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".onnx"]


def test_a_checkpoint_is_loaded_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_row(monkeypatch)
    theirs = library_model("rtdetr", seed=7)
    state = {
        name: value.clone()
        for name, value in theirs.state_dict().items()
        if not name.startswith("class_embed")
    }
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors"
    )
    artifact = models.model_artifact(
        "rtdetr-r18", tmp_path / "out", checkpoint=tmp_path / "model.safetensors"
    )
    random = models.model_artifact("rtdetr-r18", tmp_path / "out")
    assert (
        artifact.manifest.model.weights == "trained" and artifact.manifest.model.checkpoint_sha256
    )
    assert artifact.path != random.path and artifact.sha256 != random.sha256
    with torch.no_grad():
        assert smallest_lead(theirs, images()) > CLEAR
        expected = own_post_processing("rtdetr", theirs(images()))
    np.testing.assert_allclose(
        OrtSession(artifact, threads=1).run(images().numpy()).scores[0],
        expected["scores"],
        atol=1e-4,
    )


@pytest.mark.parametrize("case", ["pickle", "no head", "missing", "unknown", "shape"])
def test_a_file_that_does_not_fit_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_row(monkeypatch)
    state = {
        name: value.contiguous().clone()
        for name, value in library_model("rtdetr").state_dict().items()
    }
    first = "model.encoder_input_proj.0.0.weight"
    if case == "no head":
        del state[RT_DETR.class_head]
    elif case == "missing":
        del state[first]
    elif case == "unknown":
        state["other.weight"] = torch.zeros(1)
    elif case == "shape":
        state[first] = torch.zeros(1, 2)
    path = tmp_path / ("model.pth" if case == "pickle" else "model.safetensors")
    torch.save(state, path) if case == "pickle" else save_file(state, path)
    told = {
        "pickle": "must be safetensors",
        "no head": "has no model.decoder",
        "missing": "1 tensors missing",
        "unknown": "1 unknown, such as other.weight",
        "shape": "has the shape",
    }
    with pytest.raises(InputError, match=told[case]):
        models.model_artifact("rtdetr-r18", tmp_path / "out", checkpoint=path)
    assert not list((tmp_path / "out").glob("*"))


def test_what_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="measured with random weights only"):
        models.model_artifact("grounding-dino-t", tmp_path, checkpoint=Path(__file__))
    with pytest.raises(InputError, match="unknown model 'dfine-q'; did you mean dfine-."):
        models.model_artifact("dfine-q", tmp_path)

    def missing(*_: object) -> Any:
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(catalog.entry("dfine-n").baseline, "build", missing)
    with pytest.raises(InputError, match="dfine-n needs transformers 5 or later"):
        models.model_artifact("dfine-n", tmp_path)


def test_our_own_model_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import TINY

    monkeypatch.setitem(models.PRESETS, "nano", TINY)
    monkeypatch.setattr(
        models, "coco_labels", lambda: models.Labels(tuple("abcdefghijklmnopqr"), tuple(range(18)))
    )
    artifact = models.model_artifact("rfdetr-nano", tmp_path)
    found = OrtSession(artifact, threads=1).run(np.zeros((1, 3, *TINY.arch.input_hw), np.float32))
    assert found.scores.shape == (1, TINY.arch.queries)
    assert (artifact.manifest.model.family, artifact.manifest.model.size) == ("rfdetr", "N")
