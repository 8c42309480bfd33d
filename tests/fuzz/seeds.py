"""One valid input of every kind that a command reads.

Each seed is small, so that thousands of mutations of it can be tried.
"""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
from data_files import write_data
from PIL import Image
from samples_export import ARCH, CATEGORY_IDS, CONFIG, NAMES, meta, tiny_detector
from samples_run import run_records, write_run

from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import save_released
from rfdetr_repro.records.store import Store

CAMPAIGN = """base = "embedded"
name = "mine"
title = "parts"
engines = 6
candidates = 3
strategy = "race"
metric = "ap"
targets_ms = [2.5]
[space]
resolutions = [96, 128]
patches = [12, 16]
windows = [1, 2]
decoder_layers = [0, 1]
queries = [10, 25]
[train]
steps = 40
batch_size = 4
lr = 0.0002
[buffered]
buffer_ms = 50
"""


SPACE = """[space]
resolutions = [128]
queries = [25]
[sustained]
timeout_s = 5.0
[pretraining]
data = "coco"
lr = 0.001
ema_decay = 0.99
sampling = "uniform"
bfloat16 = true
"""


def write_seeds(folder: Path) -> Path:
    """Writes data, picture.png, model.safetensors, model.pth, model.onnx (+ model.json),
    foreign.onnx, run/, campaign.toml.
    """
    _coco(folder / "coco")
    _yolo(folder / "yolo")
    write_data(folder, NAMES, CATEGORY_IDS)
    _picture(1).save(folder / "picture.png")
    detector = tiny_detector()
    card = ModelCard(CONFIG, ARCH, NAMES, CATEGORY_IDS)
    save_detector(folder / "model.safetensors", detector.state_dict(), card)
    with redirect_stdout(None):  # what upstream's program cannot run
        save_released(folder / "model.pth", detector, card)
    export_onnx(detector.slice(ARCH), folder / "model.onnx", meta=meta())
    _foreign(folder / "foreign.onnx")
    write_run(folder / "run")
    store = folder / "run" / "records.jsonl"
    few = [record for record in run_records() if record.source == "protocol"][:3] + run_records()[
        :3
    ]
    store.unlink()
    Store(store).extend([replace(record, campaign="embedded") for record in few])
    shutil.rmtree(folder / "run" / "predictions")
    (folder / "campaign.toml").write_text(CAMPAIGN)
    (folder / "space.toml").write_text(SPACE)
    return folder


def _picture(seed: int, side: tuple[int, int] = (48, 40)) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (side[1], side[0], 3), dtype=np.uint8)
    )


def _coco(folder: Path) -> None:
    images = []
    annotations = []
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for number in range(2):
        _picture(number).save(folder / "val" / f"{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": 48, "height": 40})
        polygon = [4, 4, 20, 4, 20, 20, 4, 20]
        runs = {"size": [40, 48], "counts": [200, 10, 40 * 48 - 210]}
        for segmentation, crowd in (([polygon], 0), (runs, 1)):
            entry = {
                "id": len(annotations) + 1,
                "image_id": number + 1,
                "category_id": CATEGORY_IDS[len(annotations) % 3],
            }
            annotations.append(
                {
                    **entry,
                    "bbox": [4, 4, 16, 16],
                    "area": 256,
                    "iscrowd": crowd,
                    "segmentation": segmentation,
                }
            )
    categories = [
        {"id": number, "name": name, "supercategory": "x"}
        for number, name in zip(CATEGORY_IDS, NAMES, strict=True)
    ]
    document = {
        "info": {"description": "fuzz"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))


def _yolo(folder: Path) -> None:
    for number in range(2):
        for part in ("images", "labels"):
            (folder / part / "val").mkdir(parents=True, exist_ok=True)
        _picture(number).save(folder / "images" / "val" / f"{number}.png")
        (folder / "labels" / "val" / f"{number}.txt").write_text(
            "0 0.5 0.5 0.25 0.3\n2 0.2 0.3 0.1 0.1\n"
        )
    names = ", ".join(NAMES)
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/val\nval: images/val\nnc: 3\nnames: [{names}]\n"
    )


def _foreign(path: Path) -> None:
    """Somebody else's detector: boxes (1, 8, 4) as cxcywh in 0..1, logits (1, 8, 3), whatever the
    picture shows.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    constants = {
        "nil": np.zeros((), np.float32),
        "boxes_c": random.uniform(0.2, 0.4, (1, 8, 4)).astype(np.float32),
        "logits_c": random.normal(-2, 1, (1, 8, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nil"], ["zero"]),
        helper.make_node("Add", ["boxes_c", "zero"], ["pred_boxes"]),
        helper.make_node("Add", ["logits_c", "zero"], ["pred_logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [
            helper.make_tensor_value_info("pred_boxes", TensorProto.FLOAT, [1, 8, 4]),
            helper.make_tensor_value_info("pred_logits", TensorProto.FLOAT, [1, 8, 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
