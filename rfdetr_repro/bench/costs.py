"""Parameters and operations of the models of Tables 2, 3, 5, 9, 12 and 13 that can be built on this
machine, as Records (``source`` "cost").

python -m rfdetr_repro.bench.costs --out results/costs.jsonl --page docs/costs.md

Weights do not matter and are never allocated: everything is computed from shapes. Next to the
Records, ``NAME.csv`` states for every printed cell whether the cell is reproduced to its last
digit, and if not, why (``cost_cells``); the page states the same for a reader.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below: the program loads them when it needs them
    from rfdetr_repro.spec.launch import Program

    Program("rfdetr_repro.bench.command.costs").run()

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.baseline import FORMS, HasCounts, HasModule
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.paper.costs import NO_ATTENTION
from rfdetr_repro.paper.published import published_records
from rfdetr_repro.records.record import Cost, ModelId, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.flops import flops_by_part, total_flops
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.presets import ABLATION, PRESETS

from .counters import COUNTERS
from .models import model_artifact, model_id

log = logging.getLogger(__name__)

# the Record that is requested, and the function that computes it
Job = tuple[Record, Callable[[], Cost]]


def paper_models() -> list[str]:
    """Every size of ours, every baseline of this package that is of a family of the paper's
    tables.
    """
    printed = {record.model.family for record in published_records()}
    absent: dict[str, list[str]] = {}
    names = [f"rfdetr-{size}" for size in PRESETS]
    for name, known in catalog.entries().items():
        counted_there = _foreign(name)
        if known.size.family not in printed:
            continue
        if counted_there is not None and counted_there.cannot_count:
            absent.setdefault(counted_there.cannot_count, []).append(name)
        elif not known.is_plug_in:
            names.append(name)
    for reason, left_out in absent.items():
        log.info(f"not counted, for {reason}: {', '.join(left_out)}")
    return names


def check(names: Sequence[str], counters: Sequence[str]) -> None:
    """Raises :class:`InputError` for a model that none of ``counters`` can count."""
    for name in names:
        known = catalog.entries().get(name)
        if known is None or isinstance(known.baseline, HasCounts | HasModule):
            continue
        if "onnx" not in counters:
            raise InputError(
                f"the operations of {name} can be counted in its file only",
                hint="count them with --counters onnx",
            )


def jobs(
    names: Sequence[str], counters: Sequence[str], artifacts: str | Path = "results/artifacts"
) -> Iterator[Job]:
    """The counts to make: for RF-DETR the formulas of ``flops`` and PyTorch's counter, for
    baselines each counter on both forms.
    """
    for name in names:
        size = name.removeprefix("rfdetr-")
        if ("onnx" in counters and size in PRESETS) or ("onnx" in counters and not _star(name)):
            yield _job(model_id(name), "onnx", "deployed", partial(_onnx, name, artifacts))
        baseline = None if size in PRESETS else catalog.entry(name).baseline
        if isinstance(baseline, HasCounts):
            yield from _foreign_jobs(name, counters)
        elif size in PRESETS:
            row = PRESETS[size]
            yield from _own(model_id(name), row.model, row.arch, counters)
        elif isinstance(baseline, HasModule):
            for form, counter in product(FORMS, COUNTERS):
                if counter in counters:
                    count = partial(_counted, name, counter, form)
                    yield _job(model_id(name), counter, form, count)
    if "shapes" in counters and any(name.removeprefix("rfdetr-") in PRESETS for name in names):
        for step, row in ABLATION.items():
            model = ModelId(
                "rfdetr", "RF-DETR", arch=row.arch, variant=f"step {step}", weights="random"
            )
            yield _job(
                model, "shapes", NO_ATTENTION, partial(_shapes, row.model, row.arch, NO_ATTENTION)
            )


def _foreign_jobs(name: str, counters: Sequence[str]) -> Iterator[Job]:
    """The counts of a model that only its own package can build: the counts that the package
    prints, and those of ``counters``.
    """
    own = getattr(catalog.entry(name).baseline, "own_counter", "ultralytics")
    if not own:  # its package counts the deployed form, by PyTorch's counter
        count = partial(_by_package, name, "flopcountermode", "deployed")
        yield _job(model_id(name), "flopcountermode", "deployed", count)
        return
    for counter, form in product((own, *COUNTERS), FORMS):
        if counter in counters or counter == own:
            count = partial(_by_package, name, counter, form)
            yield _job(model_id(name), counter, form, count)


def line(record: Record) -> str:
    """One printed line: model, counter, form, parameters in millions, GFLOPs and GMACs."""
    cost = record.cost
    model = record.model
    if cost is None or cost.flops is None or cost.macs is None:
        raise InputError(f"Record {record.id} of {model.name} counts no operations")
    what = " ".join(filter(None, (model.name, model.size, model.variant)))
    params = "" if cost.params is None else f"{cost.params / 1e6:8.3f} M parameters "
    return (
        f"{what:24} {cost.counter}, {cost.form}: {params}{cost.flops / 1e9:10.3f} GFLOPs "
        f"{cost.macs / 1e9:10.3f} GMACs"
    )


def _job(model: ModelId, counter: str, form: str, count: Callable[[], Cost]) -> Job:
    return Record("cost", model, cost=Cost(counter=counter, form=form)), count


def _star(name: str) -> str:
    known = catalog.entries().get(name)
    return known.baseline.torch_only if known else ""


def _foreign(name: str) -> HasCounts | None:
    """The baseline of model ``name``, if it runs in a process of its own and counts there."""
    known = catalog.entries().get(name)
    return known.baseline if known and isinstance(known.baseline, HasCounts) else None


@cache
def _package_counts(name: str) -> Mapping[tuple[str, str], tuple[int, float]]:
    baseline = _foreign(name)
    if baseline is None:
        raise InputError(f"{name} does not count its own operations")
    return baseline.counts(catalog.entry(name).size)


def _by_package(name: str, counter: str, form: str) -> Cost:
    counted = _package_counts(name).get((counter, form))
    if counted is None:
        raise InputError(
            f"{counter} is not installed in {name}'s interpreter",
            hint=f"install {counter} there, or leave it out of --counters",
        )
    return Cost(counted[0], counted[1], counted[1] / 2, counter, form)


def _own(model: ModelId, config: ModelConfig, arch: Arch, counters: Sequence[str]) -> Iterator[Job]:
    if "shapes" in counters:
        for form in FORMS:
            yield _job(model, "shapes", form, partial(_shapes, config, arch, form))
    if "flopcountermode" in counters:
        yield _job(model, "flopcountermode", "deployed", partial(_deployed, config, arch))


def _shapes(config: ModelConfig, arch: Arch, form: str) -> Cost:
    """Counts by formula.

    The parameters include the weights of all query groups and DINOv2's mask token, which every
    released file holds.
    """
    deployed = form == "deployed"
    with torch.device("meta"):
        params = Detector(replace(config, groups=1) if deployed else config, arch).num_params()
    flops = total_flops(config, arch, "deploy" if deployed else "eager")
    if form == NO_ATTENTION:
        flops -= sum(
            value
            for part, value in flops_by_part(config, arch, "eager").items()
            if "attention" in part
        )
    return Cost(
        params + (0 if deployed else config.vit_dim), float(flops), flops / 2, "shapes", form
    )


def _deployed(config: ModelConfig, arch: Arch) -> Cost:
    with torch.device("meta"):
        subnet = Detector(replace(config, groups=1), arch).eval().requires_grad_(False)
        images = torch.empty(1, 3, *arch.input_hw)
    count = COUNTERS["flopcountermode"](_MasksToo(subnet), images)
    return Cost(subnet.num_params(), count.flops, count.macs, "flopcountermode", "deployed")


class _MasksToo(torch.nn.Module):
    """A segmentation model whose mask maps are part of the forward pass."""

    def __init__(self, subnet: Detector) -> None:
        super().__init__()
        self.subnet = subnet

    def forward(self, images: torch.Tensor) -> object:
        outputs = self.subnet(images)
        return outputs.mask_logits


def _counted(name: str, counter: str, form: str) -> Cost:
    with torch.device("meta"):
        module = catalog.module(name, form)
        images = torch.empty(1, 3, *catalog.entry(name).size.hw)
    params = sum(parameter.numel() for parameter in module.parameters())
    count = COUNTERS[counter](module, images)
    return Cost(params, count.flops, count.macs, counter, form)


def _onnx(name: str, folder: str | Path) -> Cost:
    manifest = model_artifact(name, folder).manifest
    return Cost(manifest.params, float(manifest.flops), manifest.flops / 2, "onnx", "deployed")
