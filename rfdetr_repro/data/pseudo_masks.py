"""Boxes -> masks with SAM 2, so that a data set with boxes only can train the mask head (v2
Appendix A: Objects365).

    python -m rfdetr_repro.data.pseudo_masks --data DIR --split train --model FOLDER --out FILE.json

FOLDER holds SAM 2 in transformers' form (config.json, safetensors), the user's own copy; nothing is
downloaded. Every box is one prompt. A mask is kept if the model trusts it (predicted IoU) and it
agrees with its box; otherwise the object keeps its box as a polygon, and its annotation states
which. Finished images are recorded in a file next to the result, one line per image, so that a
killed run continues. The published recipe names SAM 2 and nothing more (architecture facts section
9): the two limits are this project's choice.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below: the program loads them when it needs them
    from rfdetr_repro.spec.launch import Program

    Program("rfdetr_repro.data.pseudo_masks_command").run()

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.data.formats.layouts import locate
from rfdetr_repro.spec.errors import InputError, first_line
from rfdetr_repro.spec.files import (
    locked,
    open_input,
    output_path,
    parse_json,
    read_json,
    sha256_bytes,
    sha256_file,
    write_atomic,
)

from .census import print_census
from .coco import CocoSplit, read_split
from .coco_document import ImageKey, image_key
from .network_input import network_input
from .segmentation import rle_of_bitmap
from .source import DataSource

SMALLEST_IOU = 0.5  # predicted by the model
SMALLEST_BOX_IOU = 0.5  # of the mask's own box with the prompt
PROMPTS = 64  # boxes of one image at a time


@dataclass(frozen=True)
class Filter:
    """Least predicted IoU and least IoU of the mask's box with the prompt, both in 0..1."""

    iou: float = SMALLEST_IOU
    box_iou: float = SMALLEST_BOX_IOU


class Sam2:
    """SAM 2 on images: one embedding per image, one mask per box."""

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        """Loads the model in ``folder``. Raises :class:`InputError` where ``folder`` holds no SAM
        2, or transformers is not installed.
        """
        if not Path(folder, "config.json").is_file():
            raise InputError(
                "no SAM 2 model (config.json and safetensors)",
                folder,
                "save a model into this folder with save_pretrained",
            )
        try:
            from transformers import Sam2Model
        except ImportError as error:
            raise InputError(
                "transformers is not installed", hint="pip install transformers"
            ) from error
        try:
            model: Any = Sam2Model.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"cannot load SAM 2: {first_line(error)}", folder, "save the model again"
            ) from error
        self.model = model.to(device).eval()
        self.device = device
        side = model.config.prompt_encoder_config.image_size
        self.side = int(side if isinstance(side, int) else side[0])

    def masks(
        self, image: np.ndarray, boxes_xyxy: np.ndarray
    ) -> Iterator[tuple[np.ndarray, float]]:
        """Yields (bool (H, W), predicted IoU in 0..1) for each box; image uint8 (H, W, 3), boxes
        float (n, 4) xyxy in px.
        """
        import torch

        height, width = image.shape[:2]
        pixels = network_input([image], (self.side, self.side), normalised=True)
        scale = np.array([self.side / width, self.side / height] * 2, np.float32)
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self.device)
            embeddings = self.model.get_image_embeddings(batch)
            for start in range(0, len(boxes_xyxy), PROMPTS):
                prompts = torch.from_numpy(
                    boxes_xyxy[start : start + PROMPTS].astype(np.float32) * scale
                )[None].to(self.device)
                found = self.model(
                    image_embeddings=embeddings, input_boxes=prompts, multimask_output=False
                )
                logits = found.pred_masks[0, :, :1].float()
                trust = found.iou_scores[0, :, 0].float().cpu().tolist()
                for one, iou in zip(logits, trust, strict=True):
                    whole = torch.nn.functional.interpolate(
                        one[None], (height, width), mode="bilinear", align_corners=False
                    )
                    yield (whole[0, 0] > 0).cpu().numpy(), iou


def box_of(mask: np.ndarray) -> np.ndarray | None:
    """float (4,) xyxy in px around a bool mask; None if it is empty."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def judge(mask: np.ndarray, iou: float, box_xyxy: np.ndarray, limits: Filter) -> str:
    """ "kept", or the reason why the mask is not used."""
    found = box_of(mask)
    if found is None:
        return "empty"
    if iou < limits.iou:
        return "not trusted"
    corner = np.minimum(found[2:], box_xyxy[2:]) - np.maximum(found[:2], box_xyxy[:2])
    common = float(np.prod(corner.clip(0)))
    union = float(np.prod(found[2:] - found[:2]) + np.prod(box_xyxy[2:] - box_xyxy[:2])) - common
    return "kept" if common / union >= limits.box_iou else "off the box"


def label_image(
    sam: Sam2, image: np.ndarray, boxes_xyxy: np.ndarray, limits: Filter
) -> list[dict[str, Any]]:
    """For each box a dict {"segmentation", "area", "pseudo_mask": result of :func:`judge`}."""
    rows = []
    for (mask, iou), box in zip(sam.masks(image, boxes_xyxy), boxes_xyxy, strict=True):
        verdict = judge(mask, iou, box, limits)
        if verdict == "kept":
            rows.append(
                {
                    "segmentation": rle_of_bitmap(mask),
                    "area": int(mask.sum()),
                    "pseudo_mask": verdict,
                }
            )
        else:
            left, top, right, bottom = (float(value) for value in box)
            polygon = [[left, top, right, top, right, bottom, left, bottom]]
            rows.append(
                {
                    "segmentation": polygon,
                    "area": (right - left) * (bottom - top),
                    "pseudo_mask": verdict,
                }
            )
    return rows


@dataclass(frozen=True)
class Job:
    """The objects to label, checked completely before a model is loaded.

    ``document``: the COCO JSON of the split; ``by_image``: the annotations without a mask, by image
    id.
    """

    split: CocoSplit
    source: Path
    document: dict[str, Any]
    by_image: dict[ImageKey, list[dict[str, Any]]]
    out: Path


def read_job(data_dir: str | os.PathLike[str], split_name: str, out: str | Path) -> Job:
    """Reads the split like every command.

    Raises :class:`InputError` for data or an ``out`` that cannot be used.
    """
    out = Path(out)
    split = read_split(data_dir, split_name)
    print_census([split])
    source = locate(DataSource.of(data_dir), split_name).path
    if out.resolve() == source.resolve():
        raise InputError(
            "this is the file that is being read",
            out,
            "write to another file; your boxes stay as they are",
        )
    output_path(out)
    document = read_json(source) if source.suffix == ".json" else None
    if not isinstance(document, dict) or "annotations" not in document:
        raise InputError(
            "masks can be added to a COCO JSON file only",
            source,
            "convert the data set to COCO's form first",
        )
    by_image: dict[ImageKey, list[dict[str, Any]]] = {}
    for annotation in document["annotations"]:
        box = annotation.get("bbox")
        key = image_key(annotation["image_id"])
        if (
            box
            and not annotation.get("segmentation")
            and not annotation.get("iscrowd")
            and min(box[2:]) > 0
            and key is not None
        ):
            by_image.setdefault(key, []).append(annotation)
    return Job(split, source, document, by_image, out)


def pseudo_label(
    data_dir: str | Path, split_name: str, sam: Sam2, out: str | Path, limits: Filter | None = None
) -> dict[str, int]:
    """:func:`label` for the job of :func:`read_job`."""
    return label(read_job(data_dir, split_name, out), sam, limits)


def label(job: Job, sam: Sam2, limits: Filter | None = None) -> dict[str, int]:
    """Writes the split with a segmentation for every object as COCO JSON; returns the number of
    each verdict.

    Objects with a segmentation keep it, and so do crowds; the rest of the file stays unchanged.
    Finished work is in ``out`` + ".partial" until the end.
    """
    with locked(job.out, "writes this file"):
        return _write_labelled(job, sam, limits or Filter())


def _write_labelled(job: Job, sam: Sam2, limits: Filter) -> dict[str, int]:
    """The work of :func:`label`, under the lock of the output."""
    out = job.out
    document = job.document
    by_image = job.by_image
    done = _label_all(
        job.split,
        by_image,
        sam,
        limits,
        out.with_name(out.name + ".partial"),
        sha256_file(job.source),
    )
    verdicts: dict[str, int] = {}
    for image_id, objects in by_image.items():
        for annotation, row in zip(objects, done[image_id], strict=True):
            annotation.update(row)
            verdicts[row["pseudo_mask"]] = verdicts.get(row["pseudo_mask"], 0) + 1
    about = {"model": "SAM 2", "smallest_iou": limits.iou, "smallest_box_iou": limits.box_iou}
    document["info"] = {**(document.get("info") or {}), "pseudo_masks": about}
    write_atomic(out, json.dumps(document))
    out.with_name(out.name + ".partial").unlink()
    return verdicts


def _label_all(
    split: CocoSplit,
    by_image: dict[ImageKey, list[dict[str, Any]]],
    sam: Sam2,
    limits: Filter,
    partial: Path,
    source_sha256: str,
) -> dict[ImageKey, list[dict[str, Any]]]:
    """Image id -> results in order of its annotations; images in ``partial`` are not labelled
    again.
    """
    key = sha256_bytes(f"{source_sha256} {limits} {sam.model.config.to_json_string()}".encode())
    done = _read_partial(partial, key)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("a", encoding="utf-8") as stream:
        if not partial.stat().st_size:
            stream.write(json.dumps({"key": key}) + "\n")
        for index, info in enumerate(split.images):
            todo = by_image.get(info.id, [])
            if todo and info.id not in done:
                boxes = np.array([_xyxy(annotation["bbox"]) for annotation in todo], float)
                done[info.id] = label_image(sam, split.load_image(index), boxes, limits)
                stream.write(json.dumps({"image": info.id, "rows": done[info.id]}) + "\n")
                stream.flush()
    return done


def _read_partial(partial: Path, key: str) -> dict[ImageKey, list[dict[str, Any]]]:
    """Images that a stopped run finished. A torn last line is cut off; raises :class:`InputError`
    for the file of another run.
    """
    if not partial.exists():
        return {}
    with open_input(partial) as stream:
        whole = stream.read().rpartition(b"\n")[0]
    lines = whole.splitlines()
    try:
        first, *rest = [parse_json(line) for line in lines] or [{"key": key}]
        found = first["key"]
        done = {row["image"]: list(row["rows"]) for row in rest}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            "this file does not hold unfinished work of this command", partial, "remove the file"
        ) from error
    if found != key:
        raise InputError(
            "this file holds unfinished work on other data, or with another model or other limits",
            partial,
            "remove the file, or use the same data, model and limits again",
        )
    write_atomic(partial, whole + b"\n" if whole else b"")
    return done


def _xyxy(box_xywh: Sequence[float]) -> list[float]:
    x, y, width, height = box_xywh
    return [x, y, x + width, y + height]
