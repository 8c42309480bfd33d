"""Where modules were before the package was put in folders: old imports work until version 0.3.

An old name gives the module under its new name, with a :class:`DeprecationWarning`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "rfdetr_repro"
# modules whose names are now in several
PARTED = {
    "config": ("spec.arch", "spec.model_config", "spec.train_config"),
    "plots.campaign": ("plots.pareto", "plots.knobs"),
    "plots_campaign": ("plots.pareto", "plots.knobs"),
    "tables.computed": ("tables.published", "paper.cells"),
    "tables_computed": ("tables.published", "paper.cells"),
}
MOVED = {
    "ap_gaps": "records.ap_gaps",
    "ap_intervals": "records.ap_intervals",
    "bench.arguments": "bench.command.arguments",
    "bench.campaigns": "paper.campaigns",
    "bench.gpu_device": "bench.gpu.device",
    "bench.gpu_load": "bench.gpu.load",
    "bench.gpu_state": "bench.gpu.state",
    "bench.gpu_watch": "bench.gpu.watch",
    "bench.lane": "bench.loop",
    "bench.printing": "bench.command.printing",
    "bench.protocol": "bench.interleaved",
    "bench.rows": "bench.command.rows",
    "bench.samples": "records.samples",
    "bench.statistics": "records.statistics",
    "bench.uncertainty": "records.uncertainty",
    "boxes": "ops.boxes",
    "campaign": "spec.campaign",
    "coco_eval": "evaluation.coco",
    "coco_matches": "evaluation.matches",
    "codec": "spec.codec",
    "cost_cells": "paper.costs",
    "data.compose": "data.embedded.compose",
    "data.cvat": "data.formats.cvat",
    "data.datumaro": "data.formats.datumaro",
    "data.layouts": "data.formats.layouts",
    "data.letterbox": "data.network_input",
    "data.resizing": "data.network_input",
    "data.voc": "data.formats.voc",
    "data.xml_file": "data.formats.xml_file",
    "data.yaml_file": "data.formats.yaml_file",
    "data.yolo": "data.formats.yolo",
    "departures": "spec.departures",
    "detect": "evaluation.predict_images",
    "device": "ops.device",
    "errors": "spec.errors",
    "export.adopt_boxes": "export.adopt.boxes",
    "export.adopt_classes": "export.adopt.classes",
    "export.adopt_file": "export.adopt.file",
    "export.adopt_forms": "export.adopt.forms",
    "export.adopt_probe": "export.adopt.probe",
    "export.adopt_ranked": "export.adopt.ranked",
    "export.adopt_seen": "export.adopt.seen",
    "export.adopt_yolo": "export.adopt.yolo",
    "export.agreement": "runtime.agreement",
    "export.aten": "export.onnx.aten",
    "export.backends": "runtime.backends",
    "export.census": "export.tensorrt.census",
    "export.command": "export_command",
    "export.cuda_device": "export.tensorrt.cuda_device",
    "export.graph": "export.onnx.graph",
    "export.islands": "export.float32_regions",
    "export.nms": "export.onnx.nms",
    "export.onnx.flops": "export.onnx.shapes",
    "export.onnx_flops": "export.onnx.shapes",
    "export.onnx_shapes": "export.onnx.shapes",
    "export.openvino_session": "runtime.openvino",
    "export.ort_cuda_session": "runtime.ort_cuda",
    "export.session": "runtime.session",
    "export.surgery": "export.onnx.surgery",
    "export.tensorrt_session": "runtime.tensorrt",
    "export.torch_session": "runtime.torch",
    "export.trace": "export.onnx.trace",
    "files": "spec.files",
    "flops": "spec.flops",
    "labels": "spec.labels",
    "latency_protocol": "spec.protocol",
    "masks": "data.mask_logits",
    "model.checkpoint": "model.checkpoints.native",
    "model.container": "model.checkpoints.container",
    "model.layouts": "model.checkpoints.layouts",
    "model.pretrained": "model.checkpoints.pretrained",
    "model.released": "model.checkpoints.released",
    "model.unpickle": "model.checkpoints.unpickle",
    "model.upstream": "model.checkpoints.upstream",
    "model_check": "records.model_check",
    "pareto": "records.pareto",
    "pictures": "reproduce.pictures",
    "plots_detections": "plots.detections",
    "plots_pictures": "plots.pictures",
    "plots_published": "plots.published",
    "plots_sensitivity": "plots.sensitivity",
    "plots_style": "plots.style",
    "plots_training": "plots.training",
    "presets": "spec.presets",
    "ranges": "spec.ranges",
    "record": "records.record",
    "reproduce_after": "reproduce.after",
    "reproduce_plan": "reproduce.plan",
    "reproduce_summary": "reproduce.summary",
    "reproduce_train": "reproduce.training",
    "resize_rules": "spec.resize_rules",
    "search.many": "search.distributed",
    "search.shared": "search.evaluation",
    "search.ray_cluster": "search.cluster.ray_cluster",
    "search.ray_pool": "search.cluster.ray_pool",
    "search.ray_worker": "search.cluster.ray_actor",
    "search.workers": "search.cluster.pool",
    "sensitivity": "records.sensitivity",
    "store": "records.store",
    "tables_campaign": "tables.campaign",
    "tables_cells": "paper.cells",
    "tables.commands": "tables.missing",
    "tables.here": "tables.missing",
    "tables.timing": "tables.join",
    "tables_commands": "tables.missing",
    "tables_family": "tables.family",
    "tables_format": "tables.format",
    "tables_here": "tables.missing",
    "tables_intervals": "tables.intervals",
    "tables_join": "tables.join",
    "tables_modelled": "tables.modelled",
    "tables_paper": "tables.published",
    "tables_scoreboard": "tables.scoreboard",
    "tables_sensitivity": "tables.sensitivity",
    "tables_timing": "tables.join",
    "train.engine": "train.trainer",
    "upstream_classes": "api.upstream_classes",
    "train.scalars": "train.run_log",
    "train.settings": "spec.train_config",
    "train.start": "train.prepare",
    "validation": "evaluation.predict_split",
}
# of the folder baselines of the repository, which was no part of the package; baselines.py there
# stands for the folder
BASELINES = {
    "baselines.catalog": "baselines.catalog",
    "baselines.d_fine": "baselines.d_fine.adapter",
    "baselines.deployed": "baselines.deployed",
    "baselines.foreign": "baselines.package",
    "baselines.lw_detr": "baselines.lw_detr.adapter",
    "baselines.open_vocabulary": "baselines.open_vocabulary.adapter",
    "baselines.rt_detr": "baselines.rt_detr.adapter",
    "baselines.transformers_rf_detr": "baselines.rf_detr_transformers.adapter",
    "baselines.yolo_libre": "baselines.yolo_libre",
    "baselines.yolo_ultralytics": "baselines.yolo_ultralytics",
}


class _Alias(Loader):
    """Gives the module of the new name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, not a copy: there is one class ``Record``, whatever the path."""
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        told = f"{spec.name} is now {self.name}; the old name goes with version 0.3"
        warnings.warn(told, DeprecationWarning, stacklevel=2)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run already; the import system has put the old name into its spec."""
        module.__spec__ = self.spec


class _Joined(Loader):
    """A module with the public names of several."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name, "The names that this module had.")
        for name in self.names:
            found = vars(importlib.import_module(f"{PACKAGE}.{name}"))
            vars(module).update({key: value for key, value in found.items() if key[0] != "_"})
        told = f"{spec.name} is now {', '.join(self.names)}; the old name goes with version 0.3"
        warnings.warn(told, DeprecationWarning, stacklevel=2)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in BASELINES:
            return ModuleSpec(fullname, _Alias(f"{PACKAGE}.{BASELINES[fullname]}"))
        package, _, old = fullname.partition(".")
        if package == PACKAGE and old in PARTED:
            return ModuleSpec(fullname, _Joined(PARTED[old]))
        if package != PACKAGE or old not in MOVED:
            return None
        return ModuleSpec(fullname, _Alias(f"{PACKAGE}.{MOVED[old]}"))


def install() -> None:
    """Old names are looked for after everything that exists."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
