"""What is not known is not taken for fine: numbers of Records, settings made in Python,
suppression, AP of absent classes.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from samples_record import fixed_record

from rfdetr_repro.bench.command.printing import gate
from rfdetr_repro.bench.interleaved import measure
from rfdetr_repro.bench.suppression import _per_run
from rfdetr_repro.export.onnx.nms import Nms
from rfdetr_repro.records.record import Accuracy, Cost, Latency, Machine, ModelId, Record
from rfdetr_repro.records.statistics import compare
from rfdetr_repro.search.deployment import Deployment
from rfdetr_repro.search.engines import Fit
from rfdetr_repro.search.race import Rules
from rfdetr_repro.search.targets import Targets
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.train_config import TrainConfig

NAN = math.nan
STEADY = np.linspace(9.9, 10.1, 64)
MODEL = ModelId("rfdetr", "x")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Protocol("odd"),
        lambda: Protocol(batch=0),
        lambda: Protocol(warmup=-1),
        lambda: Protocol(buffer_ms=NAN),
        lambda: Protocol(threads=2.5),
        lambda: Protocol(builds=True),
        lambda: Protocol(flush_l2="no"),
        lambda: SearchSpace((), (16,), (1,), (2,), (10,)),
        lambda: SearchSpace((-64,), (16,), (1,), (2,), (10,)),
        lambda: SearchSpace(("128",), (16,), (1,), (2,), (10,)),
        lambda: SearchSpace((128.0,), (16,), (1,), (2,), (10,)),
        lambda: SearchSpace(128, (16,), (1,), (2,), (10,)),
        lambda: Arch(128, 16, 1, 2, -5),
        lambda: Arch("128", 16, 1, 2, 5),
        lambda: TrainConfig(ema_decay=5),
        lambda: TrainConfig(lr=-1),
        lambda: TrainConfig(lr=NAN),
        lambda: TrainConfig(steps=0),
        lambda: TrainConfig(sampling="odd"),
        lambda: replace(EMBEDDED, strategy="odd"),
        lambda: replace(EMBEDDED, metric="odd"),
        lambda: replace(EMBEDDED, name="/abs"),
        lambda: replace(EMBEDDED, targets_ms=(NAN,)),
        lambda: Rules(confidence=NAN),
        lambda: Rules(margin=NAN),
        lambda: Rules(growth=NAN),
        lambda: Targets((NAN,)),
        lambda: Targets((1.0, NAN)),
        lambda: Targets((math.inf,)),
        lambda: Targets("2.3"),
        lambda: Targets.parse("nan"),
        lambda: Targets((1.0,), NAN),
        lambda: Deployment("odd"),
        lambda: Fit(0),
        lambda: Fit(-1),
        lambda: Fit(10, -5),
        lambda: Fit(10, 20).within(NAN),
        lambda: Nms(score=NAN),
        lambda: Nms(iou=2.0),
        lambda: Nms(kind="odd"),
        lambda: Nms(candidates=0),
        lambda: measure(lambda: None, "buffered"),
        lambda: compare(STEADY, STEADY, margin=NAN),
        lambda: compare(STEADY, STEADY, margin=-1),
    ],
)
def test_settings_made_in_python_are_checked_when_they_are_made(make) -> None:
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize(
    "parts",
    [
        {"latency": Latency(1.0, p90_ms=NAN)},
        {"latency": Latency(1.0, p90_ms=-3.0)},
        {"latency": Latency(1.0, heldout_error=math.inf)},
        {"latency": Latency(1.0, num_samples=-1)},
        {"latency": Latency(0.0)},
        {"latency": Latency(NAN)},
        {"latency": Latency("1.0")},
        {"latency": Latency(1.0, method="odd")},
        {"latency": Latency(1.0, throttled="")},
        {"accuracy": Accuracy(NAN)},
        {"accuracy": Accuracy(0.9, ap_low=0.1, ap_high=0.2)},
        {"cost": Cost(params=-1)},
        {"cost": Cost(flops=NAN)},
        {"machine": Machine("cpu", 2, NAN, "Linux")},
        {"model": ModelId("rfdetr", "x", task="odd")},
        {"model": ModelId("rfdetr", "x", weights="odd")},
    ],
)
def test_a_record_holds_no_number_that_is_none(parts) -> None:
    with pytest.raises(InputError):
        Record(**{"source": "search", "model": MODEL, **parts})


def test_an_absent_class_has_no_ap_and_is_no_zero() -> None:
    record = Record("search", MODEL, accuracy=Accuracy(None, None))
    assert Record.from_json(record.to_json()).accuracy.ap is None and '"ap"' not in record.to_json()


def test_the_gate_looks_at_boxes_where_masks_have_no_ap() -> None:
    """A split without masks leaves the AP of masks unknown; the loss of the boxes was then not
    looked at.
    """
    rows = []
    for precision, ap in (("fp32", 0.5), ("fp16", 0.1)):
        record = fixed_record(
            mask_accuracy=Accuracy(None, artifact_sha256=fixed_record().artifact.sha256)
        )
        accuracy = replace(record.accuracy, ap=ap)
        rows.append(
            replace(
                record, accuracy=accuracy, artifact=replace(record.artifact, precision=precision)
            )
        )
    told, lost = gate({"m": rows}, 1.0)
    assert len(told) == 1 and lost == told and "FP16 10.0 AP, FP32 50.0" in lost[0]


def test_a_profile_that_names_no_kernel_of_the_suppression_is_not_zero_ms() -> None:
    runs = [{"name": "model_run", "ts": 10 * i, "dur": 9} for i in range(8)]
    other = [
        {"cat": "Node", "name": "conv_kernel_time", "ts": 10 * i + 1, "dur": 4} for i in range(8)
    ]
    assert _per_run([*runs, *other]) is None and _per_run([]) is None
