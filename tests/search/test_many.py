"""A whole search by workers: the numbers of one process, whoever dies; who may not take part;
engines on a machine alone.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples_many import FatalSource, attempts
from samples_pool import two_machines
from tiny import TINY

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet, save_detector
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search import command, engines, evaluation
from rfdetr_repro.search import distributed as many
from rfdetr_repro.search.cluster.pool import LocalPool
from rfdetr_repro.search.cluster.ray_pool import RayPool
from rfdetr_repro.search.evaluation import shared_detections
from rfdetr_repro.search.latency_model import LatencyModel, RelativeError, features
from rfdetr_repro.search.request import SearchRequest
from rfdetr_repro.search.run import open_search
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, EXIT_OK, run_main
from rfdetr_repro.spec.protocol import Protocol

ray = pytest.importorskip(
    "ray", reason="the many-machine search needs ray (pip install 'rfdetr-repro[ray]')"
)
SPACE = SearchSpace((48, 64, 96), (16,), (1, 2), (0, 2), (3, 10))
GROUPS = len({arch.backbone for arch in SPACE})
QUICK = Protocol(mode="buffered", buffer_ms=0.0, warmup=1, min_samples=3, max_samples=3)
RACE = ("--strategy", "race", "--first", "0.4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/supernet.safetensors and a data folder beside it."""
    folder = tmp_path_factory.mktemp("many")
    data = write_embedded(
        folder / "data", EmbeddedConfig(64, train_images=2, val_images=60, test_images=1), workers=1
    )
    write_supernet(folder / "run", data, seed=0)
    name_what_is_found(folder / "run", data)
    return folder


def write_supernet(run: Path, data: Path, seed: int) -> None:
    """Random weights, far enough from their initial zeros for APs that differ."""
    classes = read_split(data, "val").classes
    torch.manual_seed(seed)
    model = replace(TINY.model, num_classes=len(classes.names))
    state = {
        name: value + 0.05 * torch.randn_like(value)
        for name, value in Detector(model, TINY.arch).state_dict().items()
    }
    run.mkdir(exist_ok=True)
    card = ModelCard(model, TINY.arch, tuple(classes.names), tuple(classes.category_ids), SPACE)
    save_detector(run / "supernet.safetensors", state, card)


def name_what_is_found(run: Path, data: Path) -> None:
    """Takes the best detections of one architecture for the objects of the val split: APs of the
    others are then not all zero.
    """
    detector, _, _ = load_supernet(run / "supernet.safetensors")
    split = read_split(data, "val")
    rows: list[dict[str, Any]] = []
    for found in shared_detections(detector, split, [TINY.arch], masks=True)[TINY.arch]:
        boxes = found.boxes_xyxy.astype(float).clip(0, 64)
        inside = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(1) > 4)
        for place in inside[np.argsort(-found.scores[inside])][:3]:
            left, top, *corner = boxes[place].tolist()
            size = corner[0] - left, corner[1] - top
            row = {
                "id": len(rows) + 1,
                "image_id": found.image_id,
                "iscrowd": 0,
                "bbox": [left, top, *size],
            }
            assert found.masks_rle is not None
            category = split.classes.category_ids[found.labels[place]]
            rle = found.masks_rle[place]
            text = rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"]
            rows.append(
                {
                    **row,
                    "category_id": category,
                    "area": size[0] * size[1],
                    "segmentation": {**rle, "counts": text},
                }
            )
    path = data / "annotations" / "instances_val.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": rows}))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(EMBEDDED, buffered=QUICK, sustained=replace(QUICK, mode="sustained"))
    monkeypatch.setattr("rfdetr_repro.spec.campaign.EMBEDDED", short)


@pytest.fixture
def latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of measured engines: milliseconds that grow with tokens, layers and queries."""

    def fitted(search: Any, *rest: Any) -> tuple[LatencyModel, RelativeError, int]:
        cost = {"constant": 1.0, "tokens": 0.01, "decoder_layers": 0.3, "queries": 0.02}
        names = features(TINY.arch, search.card.config)
        model = LatencyModel({name: cost.get(name, 0.0) for name in names}, search.card.config)
        return model, RelativeError(0.01, 0.02, 0.03), 0

    monkeypatch.setattr(engines, "fit_latency", fitted)


@pytest.fixture
def one_thread() -> None:
    """As workers have: with as many threads, one library on one processor adds in one order, so
    that all results are equal to the last bit. With another number of threads, or on another
    processor, they are equal up to rounding, and an AP may differ.
    """
    torch.set_num_threads(1)  # ends with the test (conftest.py)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines(cpus=2) as cluster:
        yield cluster


def search(run: Path, place: Path, *more: str) -> int:
    folders = ["--run", str(run), "--data", str(place / "data"), "--device", "cpu"]
    return run_main(
        command.main,
        [
            *folders,
            "--metric",
            "mask_ap",
            "--engines",
            "6",
            "--most-engines",
            "6",
            "--candidates",
            "1",
            *more,
        ],
    )


def by_workers(cluster: Any) -> tuple[str, ...]:
    return "--workers", "ray", "--address", cluster.address, "--worker-count", "2"


def copy_of(place: Path, name: Path) -> Path:
    return Path(shutil.copytree(place / "run", name))


def accuracies(records: list[Record], *sources: str) -> dict[str, Any]:
    """By id; an artifact's accuracy names its SHA-256 too."""
    return {
        one.id: (one.model.arch, one.accuracy, one.mask_accuracy)
        for one in records
        if one.source in sources
    }


def stages(run: Path) -> dict[str, list[np.ndarray]]:
    """What a race keeps of every image: who was matched with what, by file."""
    found = {path.name: np.load(path) for path in (run / "race").iterdir()}
    return {name: [file[key] for key in file] for name, file in found.items()}


def refuse(*arguments: Any, **named: Any) -> None:
    raise AssertionError("work of the workers, done in the process of the search")


class Watched(RayPool):
    """Says of every result how many workers there were and how many CPUs the cluster had left."""

    seen: list[tuple[bool, int, float]] = []

    def run(self, items: Any) -> Iterator[tuple[Any, Any]]:
        for pair in super().run(items):
            self.seen.append(
                (self.exclusive, self.size, self.ray.available_resources().get("CPU", 0))
            )
            yield pair


@pytest.mark.parity
@pytest.mark.usefixtures("one_thread")
def test_the_exhaustive_search_gives_the_numbers_of_one_process(
    place: Path,
    tmp_path: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """And its engines are measured by one worker that has a machine of two CPUs to itself, before
    the others begin.
    """
    run = copy_of(place, tmp_path / "run")
    alone = copy_of(place, tmp_path / "alone")
    Watched.seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(many, "RayPool", Watched)
        patch.setattr(evaluation, "shared_detections", refuse)
        patch.setattr(engines, "measure_here", refuse)
        assert search(run, place, *by_workers(cluster)) == EXIT_OK
    request.getfixturevalue("latencies")  # which say nothing about accuracy
    assert search(alone, place) == EXIT_OK
    ours, theirs = (Store(folder / "records.jsonl").read() for folder in (run, alone))
    found = accuracies(ours, "search")
    assert found == accuracies(theirs, "search") and {arch for arch, *_ in found.values()} == set(
        SPACE
    )
    # not all zero, nor all alike
    assert len({accuracy.ap for _, accuracy, _ in found.values()}) > GROUPS
    assert sum(record.source == "engine" for record in ours) == 6
    assert (
        Watched.seen[0] == (True, 1, 2.0)
        and [exclusive for exclusive, *_ in Watched.seen[1:]] == [False] * GROUPS
    )
    assert {size for _, size, _ in Watched.seen[1:]} <= {1, 2}


@pytest.mark.usefixtures("latencies", "one_thread")
def test_a_race_whose_worker_is_killed_gives_the_numbers_of_one_process(
    place: Path,
    tmp_path: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = copy_of(place, tmp_path / "run")
    alone = copy_of(place, tmp_path / "alone")
    assert search(alone, place, *RACE) == EXIT_OK
    capfd.readouterr()
    monkeypatch.setattr(many, "EvaluationSource", FatalSource)
    monkeypatch.setattr(evaluation, "shared_detections", refuse)
    assert search(run, place, *RACE, *by_workers(cluster)) == EXIT_OK
    said = [line for line in capfd.readouterr().err.splitlines() if "worker on" in line]
    assert len(said) == 1 and " lost: " in said[0]
    tried, (killed, fatal) = (
        [line.split(" ", 1) for line in attempts(run)],
        (run / "killed").read_text().split(" ", 1),
    )
    assert [killed, fatal] in tried and tried[-1][0] != killed
    assert Counter(item for _, item in tried) == Counter(
        {item: 2 if item == fatal else 1 for _, item in tried}
    )
    ours, theirs = (Store(folder / "records.jsonl").read() for folder in (run, alone))
    lines, undisturbed = (
        (folder / "records.jsonl").read_text().splitlines() for folder in (run, alone)
    )
    # nothing twice: beyond one line a Record are those that the confirmed files refitted
    assert len(lines) == len(undisturbed)
    assert accuracies(ours, "search", "protocol") == accuracies(theirs, "search", "protocol")
    # their modelled latencies are not compared: the fit takes the confirmed files in, and those
    # were really timed
    assert {one.id for one in ours} == {one.id for one in theirs}
    assert json.loads((run / "race.json").read_text()) == json.loads(
        (alone / "race.json").read_text()
    )
    here = stages(run)
    there = stages(alone)
    assert here.keys() == there.keys() and len(here) == len({item for _, item in tried}) > GROUPS
    assert all(
        np.array_equal(one, other)
        for name in here
        for one, other in zip(here[name], there[name], strict=True)
    )


@pytest.mark.usefixtures("latencies")
@pytest.mark.parametrize("other", ["checkpoint", "data"])
def test_a_worker_that_sees_other_files_is_refused(
    place: Path,
    tmp_path: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    other: str,
) -> None:
    """As where each machine has a folder of its own, under the same path: the search has read its
    files, then they change.
    """
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    run = copy / "run"
    plain = many.Workers.join

    def join(workers: many.Workers, asked: Any) -> None:
        plain(workers, asked)
        if other == "checkpoint":
            write_supernet(run, copy / "data", seed=1)
        else:
            file = copy / "data" / "annotations" / "instances_val.json"
            content = json.loads(file.read_text())
            content["annotations"].pop()
            file.write_text(json.dumps(content))

    monkeypatch.setattr(many.Workers, "join", join)
    before = load_supernet(run / "supernet.safetensors")[2], read_split(copy / "data", "val").sha256
    assert search(run, copy, *by_workers(cluster)) == EXIT_BAD_INPUT
    after = load_supernet(run / "supernet.safetensors")[2], read_split(copy / "data", "val").sha256
    (changed,) = [index for index in range(2) if before[index] != after[index]]
    told = (
        f"the file of a worker ({after[changed][:12]}) differs from the file of the search "
        f"({before[changed][:12]}) "
        f"({copy}"
    )
    lines = [line for line in capfd.readouterr().err.splitlines() if "worker" in line]
    assert len(lines) == 2 + 1 and all("the same folder" in line for line in lines)
    # the last line is about both machines, and may be shortened in its middle
    assert all(told in line for line in lines[:2]) and "the file of a worker" in lines[2]
    assert all(" refused: InputError: " in line for line in lines[:2]) and lines[2].startswith(
        "error: no worker is left; "
    )
    assert not Store(run / "records.jsonl").read()


def test_engines_are_measured_while_no_other_worker_works(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a search: its workers go first, and come again after."""
    log: list[Any] = []
    made: list[Any] = []

    class Logged(LocalPool):
        def __init__(self, make: Any, workers: int, address: str, **options: Any) -> None:
            super().__init__(make)
            made.append(make)
            log.append(("open", workers, address, options))

        def close(self) -> None:
            super().close()
            log.append("close")

    monkeypatch.setattr(many, "RayPool", Logged)
    run = copy_of(place, tmp_path / "run")
    workers = many.Workers(run, place / "data", 2, "a:1", force=True)
    request = SearchRequest(run, place / "data", command="x", device="cpu")
    workers.join(open_search(request))
    item = evaluation.Whole((TINY.arch,))
    (first,) = workers.run_items([item])
    assert list(workers.run_items([])) == [] and set(
        workers.measure(engines.Engines((TINY.arch,), QUICK))
    ) == {TINY.arch}
    assert list(workers.run_items([item])) == [first]
    workers.close()
    workers.close()
    evaluating = ("open", 2, "a:1", {"gpus": 0.0})
    measuring = ("open", 1, "a:1", {"exclusive": True, "threads": QUICK.threads, "gpus": 0.0})
    assert log == [evaluating, "close", measuring, "close", evaluating, "close"]
    assert [one.force for one in made if isinstance(one, engines.EngineSource)] == [True]
