"""The interface that upstream's users know:

    model = RFDETR("nano", weights="rf-detr-nano.pth")        # or "seg-medium", or a run's folder
    model.train(dataset_dir="my_data", epochs=50, batch_size=4, grad_accum_steps=4, lr=1e-4,
                output_dir="runs/mine")
    detections = model.predict("street.jpg", threshold=0.5)   # supervision.Detections

Labels are contiguous inside the program; ``class_id`` is the data set's own category id. The map is
printed and stored in every file.
"""

from __future__ import annotations

import copy
import logging
import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rfdetr_repro.bench.accuracy import label_map
from rfdetr_repro.data.census import check_usable
from rfdetr_repro.data.coco import read_held_out, read_split, read_splits
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections
from rfdetr_repro.evaluation.matches import measured
from rfdetr_repro.evaluation.predict_images import Found, Picture, as_pictures, detect
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.export.artifact import Artifact, ArtifactMeta
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.onnx.graph import OPSET
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import load_pretrained, save_released
from rfdetr_repro.model.checkpoints.upstream import export_words
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops.device import choose_device
from rfdetr_repro.records.ap_intervals import with_range
from rfdetr_repro.records.record import Accuracy, ModelId
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import writable_folder
from rfdetr_repro.spec.labels import Labels
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.presets import PRESETS, Preset, preset
from rfdetr_repro.spec.resize_rules import describe, with_antialias
from rfdetr_repro.train.prepare import cpu_weights
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.trainer import MODEL
from rfdetr_repro.train.upstream_words import from_upstream

from .fine_tuning import checked_shape, observers, run_folder, starting_detector
from .upstream_methods import UpstreamMethods

log = logging.getLogger(__name__)


class RFDETR(UpstreamMethods):
    """A detector with its classes. ``size``: a preset's name, a checkpoint file, or a run's folder.

    ``weights``: a checkpoint to read into that size (released, transformers, DINOv2, or a file of
    this package); without ``weights`` a preset starts from random numbers, which is printed.
    ``arch``: another architecture of a supernet's space, such as a frontier point of its search.
    ``device``: "cpu", "cuda" or "cuda:N"; by default a GPU if there is one; the device is printed.
    ``antialias``: whether :meth:`predict`, :meth:`evaluate` and exported files resize pictures with
    antialiasing; by default the rule follows from the origin of the weights (:mod:`.resize_rules`)
    and is printed. ``labels``: what the labels of a file from another program mean, where the file
    does not prove it: "from-0" (upstream since 1.6), "from-1" (before), "coco", or the names of all
    labels in order.

    Raises :class:`InputError` for an unknown size, and for files that cannot be used.
    """

    def __init__(
        self,
        size: str | Path = "nano",
        weights: str | Path | None = None,
        *,
        arch: str | None = None,
        device: str | None = None,
        antialias: bool | None = None,
        labels: str | Sequence[str] | None = None,
    ) -> None:
        """See the class for the arguments."""
        logs.show_unless_configured()
        self.device = choose_device(device)
        source = Path(size) / MODEL if Path(size).is_dir() else Path(size)
        if str(size) in PRESETS or (weights is not None and not source.is_file()):
            row = preset(str(size))
            if weights is None:
                self.detector, self.card, self.sha256 = _random(row)
            else:
                self.detector, self.card, self.sha256 = load_pretrained(weights, str(size), labels)
        elif source.is_file() and weights is None:
            self.detector, self.card, self.sha256 = load_pretrained(source, labels=labels)
        else:
            raise InputError(
                f"{str(size)!r} is not a size, a file or a run", hint=f"sizes: {', '.join(PRESETS)}"
            )
        self.trained = weights is not None or str(size) not in PRESETS
        if arch is not None:
            self.detector = self.detector.slice(Arch.parse(arch))
            self.card = replace(
                self.card, config=self.detector.config, arch=self.detector.arch, space=None
            )
        if antialias is not None:
            self.card = replace(self.card, resize=with_antialias(self.card.resize_rule, antialias))
        self.detector.to(self.device)
        log.info(f"{self.labels.describe()}; {describe(self.card.resize_rule)}; on {self.device}")
        if not self.trained:
            log.info("random weights: train the model, or give weights")

    @property
    def labels(self) -> Labels:
        """Names and category ids of the labels."""
        return Labels(self.card.class_names, self.card.category_ids, self.card.notes)

    @property
    def class_names(self) -> dict[int, str]:
        """Category id -> name."""
        return dict(zip(self.card.category_ids, self.card.class_names, strict=True))

    # -- use ---------------------------------------------------------------------------------------

    def predict(
        self,
        images: Picture | Iterable[Picture],
        threshold: float = 0.5,
        shape: tuple[int, int] | None = None,
    ) -> Any:
        """``supervision.Detections`` of one picture, or a list of them for a list, tuple, generator
        or batch.

        A picture is a path, the bytes of a file, an open file, a Pillow image, an array uint8 or
        float in 0..1 of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4), or a tensor uint8 or
        float in 0..1 of shape (3, H, W); a batch is an array (B, H, W, channels) or a tensor (B, 3,
        H, W). Files and Pillow images are rotated by their EXIF orientation. ``class_id`` is the
        category id, ``data["class_name"]`` its name; boxes are in px of the picture; masks are bool
        (k, H, W). ``threshold``: least score, 0..1. ``shape``: input (height, width) in px instead
        of the model's own, both divisible by patch x windows.

        Raises :class:`InputError` for pictures that cannot be decoded, and without the package
        supervision.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise InputError(
                "supervision is not installed", hint="pip install supervision, or use .detect()"
            ) from error

        pictures, many = as_pictures(images)
        found = self.detect(pictures, threshold, shape)
        names = np.array(self.card.class_names, dtype=object)
        ids = np.array(self.card.category_ids)
        detections = [
            Detections(
                xyxy=one.boxes_xyxy,
                mask=one.masks,
                confidence=one.scores,
                class_id=ids[one.labels],
                data={"class_name": names[one.labels].astype(str)},
            )
            for one in found
        ]
        return detections if many else detections[0]

    def detect(
        self,
        images: Iterable[Picture],
        threshold: float = 0.5,
        shape: tuple[int, int] | None = None,
    ) -> list[Found]:
        """Detections of several pictures like :meth:`predict`, without supervision; labels are
        contiguous.
        """
        return detect(
            self.detector,
            list(images),
            threshold,
            arch=self._arch(shape),
            resize=self.card.resize_rule,
        )

    def _arch(self, shape: tuple[int, int] | None) -> Arch:
        own = self.detector.arch
        if shape is None:
            return own
        try:
            height, width = (operator.index(side) for side in shape)
        except (TypeError, ValueError) as error:
            raise InputError(f"shape {shape!r} is not (height, width) in whole px") from error
        return own.with_input(height, width)

    def evaluate(
        self,
        dataset_dir: str | os.PathLike[str],
        split: str = "val",
        shape: tuple[int, int] | None = None,
        drop_bad: bool = False,
    ) -> dict[str, Accuracy | None]:
        """COCO metrics in PyTorch: {"boxes": ..., "masks": ... or None}.

        Every detection is passed to the evaluator (no score threshold), which counts 100 per image
        and class, as in COCO. ``ap_low`` and ``ap_high`` are the 95 % interval of AP over other
        images of the same kind (from 10 images on). ``dataset_dir``: a data set in any format of
        docs/data.md. ``shape``: as in :meth:`predict`. ``drop_bad`` leaves out rows that cannot be
        used. Raises :class:`InputError` for random weights, and for data that cannot be used.
        """
        if not self.trained:
            raise InputError(
                "a model with random weights has no accuracy",
                hint="train the model, or give weights",
            )
        chosen = read_split(DataSource.of(dataset_dir).dropping(drop_bad), split)
        check_usable([chosen])
        arch = self._arch(shape)
        labels = label_map(self.card, chosen)
        masks = self.card.config.masks
        if masks and (why := chosen.why_no_mask_ap()):
            log.info(f"masks not measured: {why}")
            masks = False
        if turned := chosen.rotations_line():
            log.info(turned)
        given = single_detections(
            self.detector, chosen, masks=masks, arch=arch, resize=self.card.resize_rule
        )
        found = [_relabelled(one, labels) for one in given]
        evaluator = CocoEvaluator(chosen)
        return {
            "boxes": measured(evaluator, found),
            "masks": measured(evaluator, found, "segm") if masks else None,
        }

    def export(
        self,
        path: str | Path | None = None,
        contract: str | None = None,
        name: str | None = None,
        shape: tuple[int, int] | None = None,
        **words: Any,
    ) -> Artifact:
        """Writes an ONNX file with its manifest. ``contract`` "decoded": input RGB in 0..1, output
        ranked detections; "upstream": as upstream exports (``input`` normalised -> ``dets``,
        ``labels``, ``masks``), for deployments that expect this form.

        ``shape``: as in :meth:`predict`. Without ``path`` the call follows upstream: ``output_dir``
        ("output") gets ``inference_model.onnx`` with upstream's contract. Upstream's other keywords
        are accepted where they describe this file; others raise :class:`InputError`, which names a
        substitute.
        """
        folder = export_words(words, OPSET)
        if path is not None and folder is not None:
            raise InputError("both a path and output_dir", hint="give one of them")
        if path is None:
            path = writable_folder(folder or "output") / "inference_model.onnx"
            contract = contract or "upstream"
            log.info(f"{path}, contract {contract!r}")
        arch = self._arch(shape)
        weights = "trained" if self.trained else "random"
        model = ModelId(
            "rfdetr",
            name or f"rfdetr-{arch.key}",
            weights=weights,
            checkpoint_sha256=self.sha256,
            trained_in=self.card.precision,
        )
        meta = ArtifactMeta(
            model, self.card.class_names, self.card.category_ids, self.card.resize_rule
        )
        on_cpu = self.detector if self.device.type == "cpu" else copy.deepcopy(self.detector).cpu()
        return export_onnx(on_cpu.slice(arch), path, meta=meta, contract=contract or "decoded")

    def save(self, path: str | Path) -> str:
        """Writes this package's safetensors file, or upstream's layout for ``.pth`` and ``.pt``;
        returns the file's SHA-256.
        """
        if Path(path).suffix in (".pth", ".pt"):
            height, width = self.card.arch.input_hw
            if height != width:
                log.info(
                    f"upstream's layout has squares only: upstream's program will not run the "
                    f"model at {height}x{width}"
                )
            return save_released(path, self.detector, self.card)
        return save_detector(path, self.detector.state_dict(), self.card)

    # -- upstream's other names --------------------------------------------------------------------

    @classmethod
    def from_checkpoint(cls, path: str | Path, **settings: Any) -> RFDETR:
        """The model of a file. ``settings``: arguments of the constructor except the size, which
        the file determines.
        """
        settings.pop("trust_checkpoint", None)  # no file is trusted, and no file runs anything here
        return RFDETR(path, **settings)

    # -- training ----------------------------------------------------------------------------------

    def train(
        self,
        dataset_dir: str | os.PathLike[str],
        epochs: int = 100,
        batch_size: int | Literal["auto"] = 4,
        grad_accum_steps: int | None = None,
        lr: float = 1e-4,
        output_dir: str | Path = "output",
        resume: bool | str | Path | None = True,
        **changes: Any,
    ) -> Path:
        """Fine-tunes all weights on the train split of a data set in a format of docs/data.md;
        returns the path of the model's file.

        Upstream's keywords with upstream's defaults: one random size per step (``multi_scale``), at
        least five steps per epoch, an evaluation after each epoch, and the best of averaged and raw
        weights on the val split. Differences are printed before the start; an unknown keyword, or a
        value that is not supported, raises an :class:`InputError` that names a substitute. Fields
        of ``TrainConfig`` may be given by name, such as ``lr_encoder`` and ``seed``.
        ``grad_accum_steps`` None is 4.

        An unfinished run in ``output_dir`` with the same settings is resumed (``resume`` False
        refuses such a run; a path names the run's folder or a file in it). ``shape``: (height,
        width) in px to train at, stored in the file. ``processes=N`` share each batch on the CPU
        (default: by its cores); ``loader_threads=N`` decode pictures (default: one per core).
        ``drop_bad=True`` leaves out rows of the data that cannot be used,
        and prints their number. ``batch_size="auto"`` takes what fits into memory, with 16 images
        per step. ``freeze``: parts of the model that keep their weights, such as "backbone".

        ``callbacks``: objects of :class:`~rfdetr_repro.TrainingCallback`; ``augment`` and
        ``sampler``: functions of :class:`~rfdetr_repro.data.hooks.Hooks`; ``tensorboard``,
        ``wandb`` and ``mlflow`` (with ``project`` and ``run``, their names) send curves to these
        programs.
        """
        from rfdetr_repro.data.hooks import Hooks
        from rfdetr_repro.train.loggers import loggers
        from rfdetr_repro.train.recipe import Recipe

        callbacks = observers(changes.pop("callbacks", None))
        hooks = Hooks(changes.pop("augment", None), changes.pop("sampler", None))
        processes = changes.pop("processes", None)
        loader_threads = changes.pop("loader_threads", None)
        shape = changes.pop("shape", None)
        drop_bad = changes.pop("drop_bad", False)
        folder = run_folder(output_dir, resume)
        source = DataSource.of(dataset_dir).dropping(drop_bad)
        splits = read_splits(source)
        split = splits["train"]
        base = {
            "epochs": epochs,
            "batch_size": batch_size,
            "grad_accum_steps": 4 if grad_accum_steps is None else grad_accum_steps,
        }
        stated = {} if grad_accum_steps is None else {"grad_accum_steps": grad_accum_steps}
        asked = from_upstream(len(split), base, {"lr": lr, **changes}, "val" in splits, stated)
        curves = loggers(asked.loggers, asked.project, asked.run_name)
        shape = checked_shape(asked, self.detector, self.device, split, shape)
        measured_after = ("val", "test") if asked.run_test else ("val",)
        splits |= read_held_out(source, split.classes, measured_after[1:])
        start = starting_detector(self.detector, self.card, splits, source)
        request = TrainRequest(
            recipe=Recipe(Preset(start.config, self._arch(shape)), asked.train),
            split=split,
            folder=folder,
            held_out={"val": splits["val"]} if "val" in splits else {},
            initial=cpu_weights(start),
            device=self.device,
            processes=processes,
            loader_threads=loader_threads,
            tensorboard=asked.tensorboard,
            callbacks=[*curves, *callbacks],
            hooks=hooks or None,
            auto_batch=asked.auto_batch,
            pictures=True,
        )
        log.info("\n".join(asked.lines))
        run = train(request)
        if run.best is not None:
            log.info(run.best.describe())
        self.detector, self.card, self.sha256 = load_pretrained(run.model)
        self.detector.to(self.device)
        self.trained = True
        for name in measured_after:
            if name in splits:
                boxes = self.evaluate(source, name)["boxes"]
                log.info(
                    f"{name} box AP {with_range(boxes)}, AP50 {percent(boxes.ap50)}"
                    if boxes
                    else ""
                )
        return run.model


def _random(row: Preset) -> tuple[Detector, ModelCard, str]:
    torch.manual_seed(0)
    detector = Detector(row.model, row.arch).eval()
    count = row.model.num_classes
    names = tuple(f"class {index}" for index in range(count))
    return (
        detector,
        ModelCard(row.model, row.arch, names, tuple(range(count)), notes="random weights"),
        "",
    )


def _relabelled(found: ImageDetections, labels: np.ndarray) -> ImageDetections:
    """The detections with the labels of the split; classes that the split lacks are left out."""
    mapped = labels[found.labels]
    kept = np.flatnonzero(mapped >= 0)
    masks = None if found.masks_rle is None else [found.masks_rle[row] for row in kept.tolist()]
    return replace(
        found,
        boxes_xyxy=found.boxes_xyxy[kept],
        scores=found.scores[kept],
        labels=mapped[kept],
        masks_rle=masks,
    )
