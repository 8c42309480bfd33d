"""A tiny campaign of four commands: compose a data set, label it with pseudo masks, reproduce,
search on Ray workers.

Every part of the real thing is there: processes that compose and train, a race, engines, confirmed
files, patch sizes beyond the space, fine-tuning, pictures, report, store. Two widely separated
resolutions keep the order of the latencies, on which the choices rest, the same in every run.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGES = {"train": 24, "val": 40, "test": 6}  # of those composed; a race begins with 30
CAMPAIGN = """
base = "embedded"
name = "kills"
data = "{data}"
engines = 6
most_engines = 6
candidates = 4
strategy = "race"
finetune_steps = 4
search_masks = true

[space]
resolutions = [64, 128]
patches = [16]
windows = [1]
decoder_layers = [0, 1, 2]
queries = [25]

[train]
steps = 8
batch_size = 4
evaluate_every = 4
checkpoint_every = 3
warmup_steps = 1

[buffered]
buffer_ms = 5.0
min_samples = 8
max_samples = 8

[sustained]
min_samples = 8
max_samples = 8
"""


@dataclass(frozen=True)
class Command:
    """``words`` follow ``python -m``; ``prepare`` makes its input and is never killed; ``moments``:
    names of :mod:`watch`.
    """

    name: str
    words: tuple[str, ...]
    weight: int  # how often it is killed, beside the others
    moments: tuple[str, ...] = ()
    prepare: Callable[[], None] = field(default=lambda: None)

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", *self.words]


def commands(folder: Path, sam: Path, ray: bool) -> list[Command]:
    """The campaign in ``folder``; ``sam``: see :func:`samples_sam.write_sam`."""
    data = folder / "set"
    boxes = folder / "boxes"
    run = folder / "run"
    made = [
        Command("compose", _compose(folder), 1, ("pool", "part")),
        Command(
            "masks",
            _label(boxes, sam),
            1,
            ("labels", "part"),
            lambda: _boxes_only(folder / "composed", boxes),
        ),
        Command(
            "reproduce",
            ("rfdetr_repro.reproduce", "--campaign", str(folder / "kills.toml"), "--out", str(run)),
            6,
            ("part", "process", "checkpoint", "race", "store", "finetune", "pictures", "report"),
            lambda: _with_masks(folder, boxes, data),
        ),
    ]
    if ray:
        searched = folder / "searched"
        words = (
            "rfdetr_repro.search",
            "--run",
            str(searched),
            "--data",
            str(data),
            "--strategy",
            "race",
            "--workers",
            "ray",
        )
        few = (
            "--worker-count",
            "2",
            "--engines",
            "6",
            "--most-engines",
            "6",
            "--candidates",
            "1",
            "--mode",
            "sustained",
        )
        made.append(
            Command(
                "search", words + few, 3, ("workers", "store"), lambda: _supernet_of(run, searched)
            )
        )
    return made


def _compose(folder: Path) -> tuple[str, ...]:
    return (
        "rfdetr_repro.data.embedded",
        "--out",
        str(folder / "composed"),
        "--train-images",
        "160",
        "--side",
        "64",
    )


def _label(boxes: Path, sam: Path) -> tuple[str, ...]:
    limits = ("--smallest-iou", "0", "--smallest-box-iou", "0")
    words = (
        "rfdetr_repro.data.pseudo_masks",
        "--data",
        str(boxes),
        "--split",
        "train",
        "--model",
        str(sam),
    )
    return (*words, "--out", str(boxes / "masks.json"), *limits)


def _annotations(folder: Path, split: str) -> Path:
    return folder / "annotations" / f"instances_{split}.json"


def _boxes_only(composed: Path, boxes: Path) -> None:
    """The train split without its masks."""
    if boxes.exists():
        return
    document = _first(json.loads(_annotations(composed, "train").read_text()), IMAGES["train"])
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    _annotations(boxes, "train").parent.mkdir(parents=True)
    _annotations(boxes, "train").write_text(json.dumps(document))
    (boxes / "train").symlink_to(composed / "train")


def _with_masks(folder: Path, boxes: Path, data: Path) -> None:
    """The set that is trained on, and the campaign's file."""
    if data.exists():
        return
    _annotations(data, "train").parent.mkdir(parents=True)
    shutil.copyfile(boxes / "masks.json", _annotations(data, "train"))
    for split in ("val", "test"):
        document = json.loads(_annotations(folder / "composed", split).read_text())
        _annotations(data, split).write_text(json.dumps(_first(document, IMAGES[split])))
    for split in IMAGES:
        (data / split).symlink_to(folder / "composed" / split)
    (folder / "kills.toml").write_text(CAMPAIGN.format(data=data))


def _first(document: dict[str, Any], count: int) -> dict[str, Any]:
    """The document of the first ``count`` images."""
    images = document["images"][:count]
    known = {image["id"] for image in images}
    found: Iterable[dict[str, Any]] = (
        one for one in document["annotations"] if one["image_id"] in known
    )
    return {**document, "images": images, "annotations": list(found)}


def _supernet_of(run: Path, searched: Path) -> None:
    searched.mkdir(exist_ok=True)
    if not (searched / "supernet.safetensors").exists():
        shutil.copyfile(run / "supernet.safetensors", searched / "supernet.safetensors")
