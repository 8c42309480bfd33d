"""Files as each exporter writes them: one scene with two objects.

The arrays are written by hand from what the exporters' own sources say: Ultralytics 8 (raw heads,
end-to-end rows, RT-DETR), YOLOv5, the deploy models of D-FINE, RT-DETR and DEIM, DETR's
post-processing, rfdetr 1.11, TensorFlow's object detection.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from samples_exported import ultralytics

from rfdetr_repro.bench.accuracy import run_on
from rfdetr_repro.export.adopt.adoption import Categories, Picture, adopt
from rfdetr_repro.runtime.session import OrtSession

WIDTH = 64
HEIGHT = 48
OBJECTS = np.array([[8.0, 8, 32, 24], [40, 20, 56, 40]])  # xyxy px
PETS = Categories((1, 2), ("cat", "dog"))
COCO_LIKE = Categories((3, 17, 90), ("car", "cat", "brush"))


def scene(ids: tuple[int, int] = (1, 2), count: int = 4) -> list[Callable[[], Picture]]:
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for x0, y0, x1, y1 in OBJECTS.astype(int):
        pixels[y0:y1, x0:x1] = (230, 40, 40)
    return [lambda: Picture(pixels, OBJECTS, np.array(ids))] * count


def relative(
    boxes: np.ndarray, order: str = "xyxy", size: tuple[int, int] = (WIDTH, HEIGHT)
) -> np.ndarray:
    return ordered(boxes / np.array(size * 2), order)


def ordered(boxes: np.ndarray, order: str) -> np.ndarray:
    low = boxes[..., :2]
    high = boxes[..., 2:]
    ways = {
        "xyxy": boxes,
        "cxcywh": np.concatenate([(low + high) / 2, high - low], -1),
        "xywh": np.concatenate([low, high - low], -1),
        "yxyx": boxes[..., [1, 0, 3, 2]],
    }
    return ways[order]


def letterboxed(boxes: np.ndarray) -> np.ndarray:
    """In an input of 64 x 64 the picture of 64 x 48 begins 8 px lower."""
    return boxes + np.array([0, 8, 0, 8])


def anchors(
    boxes: np.ndarray,
    classes: int,
    *,
    slots: tuple[int, int] = (0, 1),
    count: int = 2100,
    objectness: bool = False,
    copies: int = 5,
) -> np.ndarray:
    """(N, 4 + C) or (N, 5 + C): ``copies`` anchors at each object, the rest small and unsure."""
    lead = 5 if objectness else 4
    table = np.zeros((count, lead + classes), np.float32)
    table[:, :4], table[:, 4:] = boxes.min() / 3 + 1e-3, 0.001
    if objectness:
        table[:, 5:] = 0.4  # what a class would be if there were an object
    for index, (box, slot) in enumerate(zip(boxes, slots, strict=True)):
        for copy in range(copies):
            row = 10 * index + copy
            table[row, :4] = box * (1 + 0.01 * copy)
            table[row, 4] = 0.9 - 0.1 * copy if objectness else table[row, 4]
            table[row, lead + slot] = 0.95 if objectness else 0.9 - 0.1 * copy
    return table


def padded_rows(
    boxes: np.ndarray,
    *,
    labels: tuple[int, int] = (0, 1),
    count: int = 300,
    scores: Any = (0.9, 0.8),
) -> np.ndarray:
    rows = np.zeros((1, count, 6), np.float32)
    rows[0, :2, :4], rows[0, :2, 4], rows[0, :2, 5] = boxes, scores, labels
    return rows


def queries(
    boxes: np.ndarray,
    slots: int,
    *,
    used: tuple[int, int] = (0, 1),
    count: int = 100,
    low: float = -7.0,
) -> tuple[np.ndarray, np.ndarray]:
    logits = np.full((1, count, slots), low, np.float32)
    placed = np.full((1, count, 4), 0.03, np.float32)
    for index, slot in enumerate(used):
        logits[0, index, slot], placed[0, index] = 3, boxes[index]
    return placed, logits


def chosen(
    boxes: np.ndarray, *, labels: tuple[int, int] = (0, 1), kind: str = "int64", count: int = 300
) -> dict[str, np.ndarray]:
    named = {"labels": np.zeros((1, count), kind), "boxes": np.zeros((1, count, 4), np.float32)}
    named["labels"][0, :2], named["boxes"][0, :2] = labels, boxes
    named["scores"] = np.zeros((1, count), np.float32)
    named["scores"][0, :2] = 0.9, 0.8
    return named


class Case(NamedTuple):
    """``file``: arguments of :func:`detector`; ``said``: what the user says; ``form``: what the
    file must be taken for.
    """

    outputs: dict[str, np.ndarray]
    file: dict[str, Any]
    form: str
    said: dict[str, Any]
    categories: Categories = PETS
    ids: tuple[int, int] = (1, 2)


SQUARE = (1, 3, 64, 64)


def case(
    outputs: Any,
    form: str,
    *,
    categories: Categories = PETS,
    ids: tuple[int, int] = (1, 2),
    said: dict[str, Any] | None = None,
    **file: Any,
) -> Case:
    outputs = outputs if isinstance(outputs, dict) else {"output0": outputs}
    return Case(outputs, file, form, said or {}, categories, ids)


def pair(names: tuple[str, str], values: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(names, values, strict=True))


def softmax_queries(slots: int, used: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Every other query is sure that there is nothing, though its class logit is higher than that
    of the real ones.
    """
    boxes, logits = queries(relative(OBJECTS, "cxcywh"), slots, used=used, low=-8)
    logits[0, 2:, 0], logits[0, 2:, -1] = 6.0, 12.0
    logits[0, :2, -1] = -6
    return boxes, logits


def probable(boxes: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return boxes, 1 / (1 + np.exp(-logits))


def softmaxed(boxes: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    powers = np.exp(logits - logits.max(2, keepdims=True))
    return boxes, powers / powers.sum(2, keepdims=True)


def many_names(count: int = 80) -> list[str]:
    return ["dog", *(f"thing {index}" for index in range(count - 2)), "cat"]


CENTRES = relative(OBJECTS, "cxcywh")
LETTERED = letterboxed(OBJECTS)
LETTERED_CENTRES = ordered(LETTERED, "cxcywh")
LETTERED_IN_1 = relative(LETTERED, "cxcywh", (64, 64))
ONE = Categories((1,), ("cat",))
DETS = ("dets", "labels")
PRED = ("pred_boxes", "logits")
HALVES = {key: value.astype(np.float16) for key, value in pair(DETS, queries(CENTRES, 3)).items()}
MANY = anchors(LETTERED_CENTRES, 80, slots=(79, 0))


def yolo_kinds() -> dict[str, Case]:
    return {
        "YOLOv8 raw": case(
            anchors(LETTERED_CENTRES, 2).T[None], "yolo", image=SQUARE, metadata=ultralytics()
        ),
        "YOLOv8 raw, no metadata": case(anchors(LETTERED_CENTRES, 2).T[None], "yolo", image=SQUARE),
        "YOLO11 raw, boxes in 0..1": case(
            anchors(LETTERED_IN_1, 2).T[None], "yolo", image=SQUARE, metadata=ultralytics()
        ),
        "YOLO11 raw, as MANY anchors as numbers": case(
            anchors(LETTERED_CENTRES, 80, slots=(79, 0), count=84).T[None],
            "yolo",
            image=SQUARE,
            metadata=ultralytics(names=many_names()),
        ),
        "YOLO raw with boxes last": case(anchors(LETTERED_CENTRES, 2)[None], "yolo", image=SQUARE),
        "YOLO26 end to end": case(
            padded_rows(LETTERED), "rows", image=SQUARE, metadata=ultralytics(end2end="True")
        ),
        "YOLO26 end to end, boxes in 0..1": case(
            padded_rows(LETTERED / 64), "rows", image=SQUARE, metadata=ultralytics(end2end="True")
        ),
        "NMS inside, names in another order": case(
            padded_rows(LETTERED, labels=(1, 0)),
            "rows",
            image=SQUARE,
            metadata=ultralytics(names=("Dog", "cat")),
        ),
        "rows without metadata": case(padded_rows(OBJECTS), "rows"),
        "rows of the category ids": case(
            padded_rows(OBJECTS, labels=(17, 90)), "rows", categories=COCO_LIKE, ids=(17, 90)
        ),
        "YOLOv5 of MANY classes": case(
            anchors(LETTERED_CENTRES, 80, slots=(79, 0), objectness=True)[None],
            "yolo-objectness",
            image=SQUARE,
            metadata={"stride": "32", "names": str(dict(enumerate(many_names())))},
        ),
        "YOLOv5 of two classes, no metadata": case(
            anchors(LETTERED_CENTRES, 2, objectness=True)[None], "yolo-objectness", image=SQUARE
        ),
        "YOLOv5 of one class": case(
            anchors(LETTERED_CENTRES, 1, slots=(0, 0), objectness=True)[None],
            "yolo-objectness",
            image=SQUARE,
            categories=ONE,
            ids=(1, 1),
        ),
    }


def query_kinds() -> dict[str, Case]:
    return {
        "Ultralytics RT-DETR, rows": case(
            padded_rows(CENTRES), "rows", metadata=ultralytics(head="RTDETRDecoder")
        ),
        "Ultralytics RT-DETR, older": case(
            anchors(CENTRES, 80, slots=(79, 0), count=300, copies=1)[None],
            "rtdetr",
            metadata=ultralytics(
                head="", names=many_names(), description="Ultralytics rtdetr-l model"
            ),
        ),
        "RT-DETR of two classes, older": case(
            anchors(CENTRES, 2, count=300, copies=1)[None], "rtdetr"
        ),
        "RT-DETR of three classes, older": case(
            anchors(CENTRES, 3, slots=(1, 2), count=300, copies=1)[None],
            "rtdetr",
            categories=COCO_LIKE,
            ids=(17, 90),
        ),
        "DETR, ids and no object": case(pair(PRED, softmax_queries(4, (1, 2))), "detr-softmax"),
        "DETR, categories and no object": case(
            pair(PRED, softmax_queries(3, (0, 1))), "detr-softmax"
        ),
        "DETR, softmax inside": case(
            pair(PRED, softmaxed(*softmax_queries(3, (0, 1)))), "detr-softmax"
        ),
        "DETR of COCO": case(
            pair(PRED, softmax_queries(92, (17, 90))),
            "detr-softmax",
            categories=COCO_LIKE,
            ids=(17, 90),
        ),
        "DETR with a mask of pixels": case(
            pair(PRED, softmax_queries(3, (0, 1))),
            "detr-softmax",
            name="pixel_values",
            more_inputs={"pixel_mask": ("int64", ["batch", 48, 64])},
            image=["batch", 3, 48, 64],
        ),
        "upstream, class number is the id": case(
            pair(DETS, queries(CENTRES, 3, used=(1, 2))), "detr", name="input"
        ),
        "upstream, last slot empty": case(
            pair(DETS, queries(CENTRES, 3, used=(0, 1))), "detr", name="input"
        ),
        "upstream, exact classes": case(
            pair(DETS, queries(CENTRES, 2, used=(0, 1))), "detr", name="input"
        ),
        "upstream, four logits, labels first": case(
            dict(reversed(pair(DETS, queries(CENTRES, 4, used=(1, 2))).items())),
            "detr",
            categories=Categories((1, 2, 3), ("cat", "dog", "cow")),
        ),
        "upstream of COCO": case(
            pair(DETS, queries(CENTRES, 91, used=(17, 90))),
            "detr",
            categories=COCO_LIKE,
            ids=(17, 90),
            name="input",
        ),
        "upstream, batch open": case(
            pair(DETS, queries(CENTRES, 3, used=(1, 2))),
            "detr",
            name="input",
            image=["batch", 3, 48, 64],
            open_outputs=True,
        ),
        "logits with corners": case(pair(DETS, queries(relative(OBJECTS), 2, used=(0, 1))), "detr"),
    }


def other_kinds() -> dict[str, Case]:
    return {
        "D-FINE official": case(
            chosen(relative(OBJECTS)),
            "decoded",
            scaled_by="orig_target_sizes",
            more_inputs={"orig_target_sizes": ("int64", [1, 2])},
        ),
        "RT-DETR official, batch open, other order": case(
            dict(sorted(chosen(relative(OBJECTS)).items())),
            "decoded",
            image=["N", 3, 48, 64],
            scaled_by="orig_target_sizes",
            more_inputs={"orig_target_sizes": ("int64", ["N", 2])},
        ),
        "DEIM official, float size, ids as labels": case(
            chosen(relative(OBJECTS), labels=(1, 2), kind="int32"),
            "decoded",
            scaled_by="orig_target_sizes",
            more_inputs={"orig_target_sizes": ("float32", [1, 2])},
        ),
        "decoded in pixels": case(chosen(OBJECTS), "decoded"),
        "decoded as x, y, width, height": case(
            chosen(ordered(OBJECTS, "xywh")), "decoded", said={"boxes": "xywh-pixels"}
        ),
        "decoded, other names, floats as labels": case(
            {
                "det_boxes": chosen(OBJECTS)["boxes"],
                "det_classes": chosen(OBJECTS, kind="float32")["labels"],
                "det_scores": chosen(OBJECTS)["scores"],
                "num_dets": np.array([[2]], np.int32),
            },
            "decoded",
        ),
        "TensorFlow's object detection": case(
            {
                "detection_boxes": chosen(relative(OBJECTS, "yxyx"))["boxes"],
                "num_detections": np.float32([2]),
                "detection_classes": chosen(OBJECTS, kind="float32", labels=(1, 2))["labels"],
                "detection_scores": chosen(OBJECTS)["scores"],
            },
            "decoded",
            dtype="uint8",
            image=[1, 48, 64, 3],
        ),
        "boxes and scores": case(
            {"boxes": anchors(OBJECTS, 2)[None, :, :4], "scores": anchors(OBJECTS, 2)[None, :, 4:]},
            "boxes-scores",
        ),
        "boxes and scores, a chosen few": case(
            pair(("pred_boxes", "pred_scores"), probable(*queries(OBJECTS, 2))), "boxes-scores"
        ),
        "float16 in and out": case(HALVES, "detr", dtype="float16"),
        "uint8, channels last": case(
            padded_rows(OBJECTS), "rows", dtype="uint8", image=[1, 48, 64, 3]
        ),
        "float32, channels last": case(padded_rows(OBJECTS), "rows", image=[1, 48, 64, 3]),
        "float16, size open": case(
            MANY.T[None],
            "yolo",
            dtype="float16",
            image=["batch", 3, "height", "width"],
            open_outputs=True,
            metadata=ultralytics(names=many_names()),
        ),
        "size open, named": case(
            padded_rows(OBJECTS),
            "rows",
            image=["b", 3, "h", "w"],
            said={"shape": (48, 64)},
            open_outputs=True,
        ),
        "opset 20": case(anchors(LETTERED_CENTRES, 2).T[None], "yolo", image=SQUARE, opset=20),
    }


KINDS = {**yolo_kinds(), **query_kinds(), **other_kinds()}


def found_on(
    path: Path, tmp_path: Path, of: Case, **more: Any
) -> tuple[Any, np.ndarray, list[int]]:
    """(artifact, boxes in px of the picture, category ids) of what is found with confidence, best
    first.
    """
    pictures = scene(of.ids)
    said = {"categories": of.categories, "pictures": pictures, **of.said, **more}
    artifact = adopt(path, tmp_path / "adopted.onnx", **said)
    found = run_on(OrtSession(artifact, threads=1), pictures[0]().pixels)
    sure = found.scores[0] > 0.5
    ids = [artifact.manifest.category_ids[label] for label in found.labels[0][sure]]
    return artifact, found.boxes_xyxy[0][sure] * [WIDTH, HEIGHT, WIDTH, HEIGHT], ids
