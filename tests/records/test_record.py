"""Record: what it refuses, what it keeps, and an identity that must never drift."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from samples_record import ARCH, SHA, fixed_record
from samples_run import protocol_record, run_records, search_record

from rfdetr_repro.records.record import (
    Accuracy,
    ArtifactId,
    Build,
    DataId,
    GpuState,
    Latency,
    Machine,
    ModelId,
    Paced,
    Record,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol


def test_every_sample_record_survives_a_round_trip():
    for record in run_records():
        line = record.to_json()
        assert Record.from_json(line) == record
        assert "\n" not in line and json.loads(line)["id"] == record.id


def test_absent_values_are_left_out_and_come_back_as_none():
    record = Record("search", ModelId("rfdetr", "x"), accuracy=Accuracy(0.5))
    assert "ap50" not in json.loads(record.to_json())["accuracy"]
    assert Record.from_json(record.to_json()).accuracy == Accuracy(0.5, None)


def test_the_id_of_a_fixed_record_is_frozen():
    """Changing what the id covers makes every stored campaign start again: do it only with a new
    schema.
    """
    assert fixed_record().id == "13317e4cb5eef6f9"


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": None},
        {"latency": Latency(9.0, artifact_sha256=SHA)},
        {
            "command": "other",
            "seed": 3,
            "env": {"torch": "2.13"},
            "started_at": "2025-01-01T00:00:00+00:00",
            "campaign": "other",
            "agreement": "relative difference from grid_sample in float64 2.1e-07",
        },
        {"artifact": ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 2000)},
    ],
)
def test_the_id_does_not_depend_on_results(change):
    assert fixed_record(**change).id == fixed_record().id


@pytest.mark.parametrize(
    "change",
    [
        {"source": "search"},
        {
            "model": ModelId(
                "rfdetr", "pico", "segment", "pico", arch=dataclasses.replace(ARCH, queries=10)
            )
        },
        {"data": DataId("embedded", "test", "ef" * 32, 300)},
        {"artifact": ArtifactId(SHA, SHA, "tensorrt", "fp32", 1000)},
        {"artifact": ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp16", 1000)},
        {"artifact": ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 1000, options="threads=1")},
        {"protocol": Protocol(mode="sustained")},
        {"machine": Machine("Other CPU", 2, 8.0, "Linux")},
    ],
)
def test_the_id_depends_on_the_request(change):
    assert fixed_record(**change).id != fixed_record().id


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": Accuracy(0.1, 0.2, artifact_sha256="00" * 32)},
        {"latency": Latency(3.5, artifact_sha256="00" * 32)},
        {"latency": Latency(3.5, artifact_sha256=None)},
        {"mask_accuracy": Accuracy(0.1, 0.2, artifact_sha256=None)},
        {"artifact": None},
    ],
)
def test_accuracy_and_latency_must_come_from_the_same_file(change):
    with pytest.raises(InputError, match="own artifact"):
        fixed_record(**change)


@pytest.mark.parametrize("part", ["accuracy", "mask_accuracy"])
def test_random_weights_have_latency_but_no_accuracy(part):
    random = ModelId("rfdetr", "x", weights="random")
    assert Record("search", random, latency=Latency(1.0, "modelled")).latency is not None
    with pytest.raises(InputError, match="random weights"):
        Record("search", random, **{part: Accuracy(0.1)})


@pytest.mark.parametrize("name", ["ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l"])
@pytest.mark.parametrize("value", [55.0, -0.01, math.nan])
def test_an_ap_in_percent_is_refused(name, value):
    with pytest.raises(InputError, match="store AP as 0..1"):
        Record("search", ModelId("rfdetr", "x"), accuracy=Accuracy(**{name: value}))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_latency_is_a_positive_number(value):
    with pytest.raises(InputError, match="positive"):
        Record("search", ModelId("rfdetr", "x"), latency=Latency(value))


def altered(**changes: object) -> str:
    fields = json.loads(protocol_record(ARCH).to_json())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = fields
        for parent in parents:
            place = place[parent]
        place[last] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (altered(surprise=1), "unknown fields"),
        (altered(latency__surprise=1), "unknown fields"),
        (altered(schema=2), "schema"),
        (altered(model__arch__resolution=160), "does not hash"),
        (altered(data__split="test"), "does not hash"),
        (altered(accuracy__ap=18.8), "fraction"),
        (altered(accuracy__ap="0.1"), "not float"),
        (altered(artifact__size_bytes=True), "not int"),
        (altered(artifact__size_bytes=1.5), "not int"),
        (altered(artifact__size_bytes=-1), "size_bytes -1 is not a finite positive number"),
        (altered(artifact__size_bytes=10**400), "size_bytes .* is not a finite positive number"),
        (altered(data__num_images=-1), "num_images -1 is not"),
        (altered(latency__median_ms=10**400), "median_ms is beyond the range"),
        (altered(seed=-1), "seed -1 is not from 0"),
        (altered(model__name=" "), "model.name is empty"),
        (altered(data__split=""), "data.split is empty"),
        (altered(model__arch__queries=10**400), "above its maximum"),
        (altered(model="pico"), "must be an object"),
        (altered(env={"torch": 2}), "env = 2 is not str"),
        (altered(model__arch__patch=0), "below its minimum"),
        ("[]", "not a Record"),
        ("3", "not a Record"),
        ('{"schema": 1}', "not a Record"),
        ('{"schema": 1', "not a Record"),
        ("", "not a Record"),
    ],
)
def test_a_line_that_is_not_a_record_is_refused_in_one_line(line, says):
    with pytest.raises(InputError, match=says) as caught:
        Record.from_json(line)
    assert "\n" not in str(caught.value)


def test_only_composed_data_is_synthetic():
    assert search_record(ARCH).data.synthetic
    assert not DataId("coco-val2017", "val").synthetic


def test_builds_pacing_and_gpu_state_survive_a_round_trip():
    latency = Latency(
        3.5,
        artifact_sha256=SHA,
        builds=(Build(SHA, 3.4, 64), Build("cd" * 32, 3.6, 64)),
        between_builds_ms=0.2,
        paced=Paced(30.0, 0.25, 0.0, 5.0, 0.1, 2),
        gpu=GpuState({"power": 0.5}, {"1980": 1.0}, power_w=300.0),
    )
    record = fixed_record(
        latency=latency, protocol=Protocol("paced", fps=30.0, min_time_s=1.0, settle_s=2.0)
    )
    line = record.to_json()
    assert (
        Record.from_json(line) == record and "p999_ms" not in line and "lateness_p99_ms" not in line
    )
    assert "paced" not in fixed_record().to_json() and "gpu_uuid" not in fixed_record().to_json()
    with pytest.raises(InputError, match="Record.latency.gpu"):
        Record.from_json(line.replace('"1980": 1.0', '"1980": "many"'))


@pytest.mark.parametrize(
    "change", [{"min_time_s": 1.0}, {"settle_s": 1.0}, {"mode": "paced", "fps": 30.0}]
)
def test_later_settings_enter_the_id_only_where_they_are_set(change):
    default = Protocol().settings()
    assert not {"fps", "min_time_s", "settle_s"} & set(default)
    changed = Protocol(**change)
    assert set(changed.settings()) - set(default) == set(change) - {"mode"}
    assert fixed_record(protocol=changed).id != fixed_record().id


def test_parts_that_lines_have_in_common_are_made_once_and_never_confused():
    """A part is recognised by its canonical text, in which 2, 2.0, true and "2" differ."""
    line = protocol_record(ARCH).to_json()
    first, second = Record.from_json(line), Record.from_json(line)
    assert first == second and first.machine is second.machine and first.data is second.data
    assert first.env == second.env and first.env is not second.env  # a dictionary can be changed
    fields = json.loads(line)
    fields.pop("digest")
    for cores in (True, 2.0, "2", [2], None):
        fields["machine"]["cores"] = cores
        with pytest.raises(InputError, match="cores"):
            Record.from_json(json.dumps(fields))
    fields["machine"] |= {"cores": 2, "surprise": 1}
    with pytest.raises(InputError, match=r"unknown fields \['surprise'\] of Record.machine"):
        Record.from_json(json.dumps(fields))
