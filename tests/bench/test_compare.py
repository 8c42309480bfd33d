"""Two stores: joined by request, judged by raw samples, machines kept apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_record import SHA, fixed_record

from rfdetr_repro.bench.command.compare import main
from rfdetr_repro.bench.compare import compare_stores
from rfdetr_repro.records.record import ArtifactId, DataId, Machine, Record
from rfdetr_repro.records.samples import SET_ASIDE, Series, load_samples, save_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.protocol import Protocol

# a GPU whose driver did not tell its name
SILENT = Machine("A", 2, 8.0, "Linux", "unknown", gpu_uuid="GPU-1")


def store(
    folder: Path, ms: float, *, seed: int = 0, spread: float = 0.005, **changes: object
) -> Path:
    """A store with one Record of 128 samples around ``ms``."""
    samples = ms * np.exp(np.random.default_rng(seed).normal(0, spread, 128))
    record: Record = fixed_record(**changes)
    digest = save_samples(folder, Series.of(samples))
    record = replace(
        record,
        latency=replace(record.latency, median_ms=float(np.median(samples)), samples_sha256=digest),
    )
    Store(folder / "store.jsonl").append(record)
    return folder / "store.jsonl"


def sessions(folder: Path, ms: float, *, between: float, count: int, seed: int = 0) -> list[Path]:
    """Stores of one model, each measured in a session with a level of its own."""
    levels = ms * np.exp(np.random.default_rng(seed).normal(0, between, count))
    return [
        store(folder / f"{index}", level, seed=10 * seed + index)
        for index, level in enumerate(levels)
    ]


@pytest.mark.parametrize(("ms", "word"), [(8.0, "FASTER"), (12.0, "SLOWER"), (10.0, "SAME")])
def test_several_sessions_are_judged(ms: float, word: str, tmp_path: Path) -> None:
    old = sessions(tmp_path / "a", 10.0, between=0.001, count=3)
    (pair,) = compare_stores(old, sessions(tmp_path / "b", ms, between=0.001, count=3, seed=1))
    assert pair.verdict is not None and pair.verdict.word == word and pair.note == ""
    assert (
        pair.verdict.interval_ms.low <= pair.verdict.difference_ms <= pair.verdict.interval_ms.high
    )


def test_one_session_of_each_is_undecided_unless_sessions_are_known(tmp_path: Path) -> None:
    old = store(tmp_path / "a", 10.0)
    new = store(tmp_path / "b", 12.0, seed=1)
    (pair,) = compare_stores(old, new)
    assert (
        pair.verdict.word == "UNDECIDED"
        and pair.verdict.interval_ms is None
        and "one session of each" in pair.verdict.reason
    )
    (pair,) = compare_stores(old, new, between=0.02)
    assert pair.verdict.word == "SLOWER"
    # a store that is given twice is no second session
    (pair,) = compare_stores([old, old], [new, new])
    assert pair.verdict.word == "UNDECIDED"


def test_sessions_of_one_model_are_seldom_told_apart(tmp_path: Path) -> None:
    """Sessions 3 % apart, samples that are sure of 0.2 %: three of each side are honest, their
    samples alone are not.
    """
    words = []
    for seed in range(20):
        sides = [
            sessions(tmp_path / f"{seed}{side}", 10.0, between=0.03, count=3, seed=2 * seed + side)
            for side in (0, 1)
        ]
        words.append(compare_stores(*sides)[0].verdict.word)
    assert sum(word in ("FASTER", "SLOWER") for word in words) <= 3


def test_another_backbone_is_another_model(tmp_path: Path) -> None:
    model = fixed_record().model
    old = store(tmp_path / "a", 10.0)
    new = store(tmp_path / "b", 12.0, model=replace(model, backbone="dinov3-pico"))
    found = {pair.reason for pair in compare_stores(old, new) if pair.verdict is None}
    assert found == {"not in the old store", "not in the new store"}


def test_samples_set_aside_do_not_count(tmp_path: Path) -> None:
    old = store(tmp_path / "a", 10.0)
    new = store(tmp_path / "b", 10.0, seed=1)
    (record,) = Store(new).read()
    slow = Series.of(
        np.concatenate(
            [np.full(256, 30.0), load_samples(new.parent, record.latency.samples_sha256).ms]
        )
    )
    marked = slow._replace(mark=np.repeat([SET_ASIDE, 0], [256, 128]))
    Store(new).append(
        replace(
            record, latency=replace(record.latency, samples_sha256=save_samples(new.parent, marked))
        )
    )
    (pair,) = compare_stores(old, new, between=0.0)
    assert pair.verdict.word == "SAME"


def test_other_machines_are_marked_and_left_alone(tmp_path: Path) -> None:
    old = store(tmp_path / "a", 10.0)
    new = store(tmp_path / "b", 20.0, machine=Machine("Other CPU", 2, 8.0, "Linux"))
    (pair,) = compare_stores(old, new)
    assert (
        pair.verdict is None
        and pair.note == "Example CPU -> Other CPU"
        and "another machine" in pair.reason
    )
    (pair,) = compare_stores(old, new, any_machine=True, between=0.02)
    assert pair.verdict is not None and pair.verdict.word == "SLOWER" and "Other CPU" in pair.note


def test_changed_options_and_files_are_noted(tmp_path: Path) -> None:
    other = ArtifactId("cd" * 32, "cd" * 32, "onnxruntime-cpu", "fp32", 1, "ort=2")
    moved = replace(fixed_record().latency, artifact_sha256="cd" * 32)
    new = store(tmp_path / "b", 10.0, artifact=other, latency=moved, accuracy=None)
    (pair,) = compare_stores(store(tmp_path / "a", 10.0), new)
    assert pair.note == "no options -> ort=2; file abababab -> cdcdcdcd"


def test_other_requests_do_not_join(tmp_path: Path) -> None:
    for index, change in enumerate(
        (
            {"protocol": Protocol("sustained")},
            {"protocol": Protocol(flush_l2=True)},
            {"artifact": ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp16", 1)},
            {"latency": replace(fixed_record().latency, cuda_graph=True)},
        )
    ):
        new = store(tmp_path / str(index), 10.0, **change)
        pair, lost = compare_stores(store(tmp_path / f"old{index}", 10.0), new)
        assert (
            pair.verdict is None and lost.verdict is None and lost.reason == "not in the new store"
        )
        assert (
            pair.reason
            == "not in the old store, which has the model by onnxruntime-cpu fp32 buffered 200 ms "
            "engine"
        )


def test_other_models_are_told_on_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(fixed_record().model, name="other")
    old = store(tmp_path / "a", 10.0)
    new = store(tmp_path / "b", 10.0, model=other)
    assert [pair.reason for pair in compare_stores(old, new)] == [
        "not in the old store",
        "not in the new store",
    ]
    assert run_main(main, [str(old), str(new)]) == 0
    assert capsys.readouterr().out.endswith("0 of 2 rows compared\n")
    assert run_main(main, [str(old), str(new), "--fail-slower"]) == 1


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (DataId("coco", "val", "ef" * 32, 300), "embedded -> coco"),
        (DataId("embedded", "val", "00" * 32, 300), "embedded -> embedded, of other content"),
        (None, "embedded -> no data set"),
    ],
)
def test_other_pictures_get_no_verdict(data: DataId | None, told: str, tmp_path: Path) -> None:
    new = store(tmp_path / "b", 20.0, data=data, accuracy=None)
    for any_machine in (False, True):
        (pair,) = compare_stores(
            store(tmp_path / "a", 10.0), new, between=0.01, any_machine=any_machine
        )
        assert pair.verdict is None and told in pair.reason


@pytest.mark.parametrize(
    ("old", "new", "compared"),
    [
        (None, None, False),
        (Machine("unknown", 2, 8.0, "Linux"), Machine("unknown", 2, 8.0, "Linux"), False),
        # the CPU runs too
        (Machine("A", 2, 8.0, "Linux", "T4"), Machine("B", 2, 8.0, "Linux", "T4"), False),
        (Machine("A", 2, 8.0, "Linux", "T4"), Machine("A", 2, 8.0, "Linux", "T4"), True),
        (SILENT, replace(SILENT, gpu_uuid="GPU-2"), False),
        (SILENT, SILENT, True),
    ],
)
def test_machines_that_are_not_known_are_not_the_same(
    old: Machine | None, new: Machine | None, compared: bool, tmp_path: Path
) -> None:
    stores = store(tmp_path / "a", 10.0, machine=old), store(tmp_path / "b", 12.0, machine=new)
    (pair,) = compare_stores(*stores, between=0.01)
    assert (pair.verdict is not None) is compared and compared is ("machine" not in pair.reason)
    (pair,) = compare_stores(*stores, between=0.01, any_machine=True)
    assert pair.verdict is not None


def test_a_store_without_measured_latencies_is_refused(tmp_path: Path) -> None:
    old = store(tmp_path / "a", 10.0)
    Store(tmp_path / "b.jsonl").append(fixed_record(latency=None))
    with pytest.raises(InputError, match="no measured latencies"):
        compare_stores(old, tmp_path / "b.jsonl")


def test_lost_samples_leave_a_row_uncompared(tmp_path: Path) -> None:
    old = store(tmp_path / "a", 10.0)
    new = store(tmp_path / "b", 10.0, seed=1)
    for file in (tmp_path / "a" / "samples").iterdir():
        file.unlink()
    (pair,) = compare_stores(old, new)
    assert pair.verdict is None and "cannot read" in pair.reason


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = str(store(tmp_path / "a", 10.0))
    slow = str(store(tmp_path / "b", 12.0, seed=1))
    assert run_main(main, [old, slow]) == 0
    out = capsys.readouterr().out
    assert (
        "buffered 200 ms engine, new: UNDECIDED against old, +1." in out
        and "1 of 1 rows compared: 1 UNDECIDED" in out
    )
    assert "(no interval): one session of each" in out
    assert run_main(main, [old, slow, "--fail-slower"]) == 1  # nothing could be decided
    known = ["--between-sessions", "0.02"]
    assert run_main(main, [old, slow, *known]) == 0
    out = capsys.readouterr().out
    assert (
        "buffered 200 ms engine, new: SLOWER than old, +1." in out
        and "1 of 1 rows compared: 1 SLOWER" in out
    )
    assert (
        run_main(main, [old, slow, "--fail-slower", *known]) == 1
        and run_main(main, [slow, old, "--fail-slower", *known]) == 0
    )
    assert run_main(main, [old, slow, "--fail-slower", "--margin", "0.5", *known]) == 0
    assert run_main(main, [old, str(tmp_path / "none.jsonl")]) == 2
    assert (
        run_main(main, [old]) == 2 and run_main(main, [old, slow, "--between-sessions", "-1"]) == 2
    )
    with open(slow, "a") as stream:
        stream.write('{"torn')  # a run killed in the middle of a line
    assert run_main(main, [old, slow]) == 0


def test_command_with_several_sessions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [str(path) for path in sessions(tmp_path / "a", 10.0, between=0.002, count=3)]
    new = [str(path) for path in sessions(tmp_path / "b", 12.0, between=0.002, count=3, seed=1)]
    assert run_main(main, ["--old", *old, "--new", *new, "--fail-slower"]) == 1
    assert "1 of 1 rows compared: 1 SLOWER" in capsys.readouterr().out
    assert run_main(main, [old[0], new[0], "--old", *old[1:], "--new", *new[1:]]) == 0
    assert "1 of 1 rows compared: 1 SLOWER" in capsys.readouterr().out
