"""Many models in one run, on doubles of sessions: phases, interleaving, storing, resuming,
failing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_bench import FakeSession, fake_artifact
from samples_coco import random_document, write_folder

from rfdetr_repro.bench import cells
from rfdetr_repro.bench import confirm as module
from rfdetr_repro.bench.cells import Context, Row
from rfdetr_repro.bench.confirm import confirm_all
from rfdetr_repro.bench.twin import stored_twin
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.records.record import AP_RULE, Accuracy
from rfdetr_repro.records.samples import BLOCK, load_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol

QUICK: dict[str, Any] = dict(warmup=1, min_samples=32, max_samples=32, buffer_ms=0.0)
PROTOCOL = Protocol(**QUICK)


@pytest.fixture
def split(tmp_path: Path) -> CocoSplit:
    return read_split(write_folder(tmp_path / "data", random_document(0), "val"), "val")


def row(
    folder: Path,
    name: str,
    opened: list[FakeSession] | None = None,
    splits: tuple[CocoSplit, ...] = (),
    **kind: str,
) -> Row:
    artifact = fake_artifact(folder, name, **kind)

    def open_build(build: int) -> FakeSession:
        session = FakeSession(artifact)
        if opened is not None:
            opened.append(session)
        return session

    return Row(artifact, open_build, splits)


def test_builds_are_fresh_sessions_interleaved_and_pooled(tmp_path: Path) -> None:
    opened: list[FakeSession] = []
    store = Store(tmp_path / "s.jsonl")
    outcome = confirm_all({"m": row(tmp_path, "m", opened)}, [Protocol(builds=3, **QUICK)], store)
    (record,) = outcome.records["m"]
    latency = record.latency
    assert (
        len(opened) == 3
        and latency.num_samples == 96
        and [b.num_samples for b in latency.builds] == [32] * 3
    )
    medians = [build.median_ms for build in latency.builds]
    assert latency.between_builds_ms == max(medians) - min(medians)
    assert load_samples(tmp_path, latency.samples_sha256).layout == tuple(
        (b, r) for b in range(3) for r in range(32 // BLOCK)
    )
    assert store.read() == [record]


def test_engines_of_one_file_have_hashes_of_their_own(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path)
    rows = {
        "m": Row(
            artifact,
            lambda build: FakeSession(artifact, engine=f"{build}" * 64, runtime="tensorrt"),
        )
    }
    (record,) = confirm_all(
        rows, [Protocol(builds=3, **QUICK)], Store(tmp_path / "s.jsonl")
    ).records["m"]
    assert [build.sha256 for build in record.latency.builds] == ["0" * 64, "1" * 64, "2" * 64]
    assert record.artifact.sha256 == record.latency.artifact_sha256 == "0" * 64
    assert record.artifact.onnx_sha256 == artifact.sha256


def test_the_gpus_own_time_stands_beside_the_hosts(tmp_path: Path) -> None:
    class OnGpu(FakeSession):
        def launch(self) -> None:
            self.gpu_ms = 2.5

    artifact = fake_artifact(tmp_path)
    rows = {
        "gpu": Row(artifact, lambda build: OnGpu(artifact, runtime="tensorrt")),
        "cpu": row(tmp_path, "cpu"),
    }
    records = confirm_all(rows, [PROTOCOL], Store(tmp_path / "s.jsonl")).records
    assert (
        records["gpu"][0].latency.gpu_median_ms == 2.5
        and records["cpu"][0].latency.gpu_median_ms is None
    )


def test_accuracy_comes_before_any_latency(
    tmp_path: Path, split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(
        cells, "accuracy_of", lambda s, *_, **__: log.append("accuracy") or (accuracy(s), None)
    )
    measure: Callable[..., Any] = module.measure_interleaved
    monkeypatch.setattr(
        module, "measure_interleaved", lambda *a, **k: log.append("latency") or measure(*a, **k)
    )
    rows = {name: row(tmp_path, name, splits=(split,)) for name in "ab"}
    confirm_all(rows, [PROTOCOL, Protocol("sustained", **QUICK)], Store(tmp_path / "s.jsonl"))
    assert log == ["accuracy", "accuracy", "latency", "latency"]


def accuracy(session: FakeSession, ap: float = 0.5) -> Accuracy:
    return Accuracy(ap, artifact_sha256=session.artifact_id.sha256, rule=AP_RULE)


def test_a_finished_cell_is_stored_while_others_run(tmp_path: Path) -> None:
    """The slow model's run looks into the store: the quick one is there before it is done
    itself.
    """
    store = Store(tmp_path / "s.jsonl")
    seen = []

    class Slow(FakeSession):
        def launch(self) -> None:
            seen.append([record.model.name for record in store.read()])

    slow = fake_artifact(tmp_path, "slow")
    rows = {"quick": row(tmp_path, "quick"), "slow": Row(slow, lambda build: Slow(slow))}
    protocol = Protocol(warmup=0, min_samples=16, max_samples=48, buffer_ms=0.0, relative_ci=1e-9)
    confirm_all(rows, [protocol], store)
    done = Store(tmp_path / "s.jsonl").read()
    assert {record.model.name for record in done} == {"quick", "slow"} and seen[0] == []

    class Killed(FakeSession):
        def launch(self) -> None:
            self.log.append("launch")
            if len(self.log) > 40:
                raise KeyboardInterrupt

    store = Store(tmp_path / "t.jsonl")
    rows["slow"] = Row(slow, lambda build: Killed(slow))
    with pytest.raises(KeyboardInterrupt):
        confirm_all(
            rows,
            [Protocol(warmup=0, min_samples=16, max_samples=16, buffer_ms=0.0), protocol],
            store,
        )
    # of the first protocol
    assert {record.model.name for record in store.read()} == {"quick", "slow"}


def test_an_interrupted_run_keeps_its_accuracies(
    tmp_path: Path, split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        cells, "accuracy_of", lambda s, *_, **__: asked.append("") or (accuracy(s), None)
    )
    monkeypatch.setattr(
        module, "measure_interleaved", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    store = Store(tmp_path / "s.jsonl")
    rows = {"m": row(tmp_path, "m", splits=(split,))}
    with pytest.raises(KeyboardInterrupt):
        confirm_all(rows, [PROTOCOL], store)
    (kept,) = store.read()
    assert kept.accuracy.ap == 0.5 and kept.latency is None
    monkeypatch.undo()
    monkeypatch.setattr(cells, "accuracy_of", lambda *_, **__: pytest.fail("evaluated again"))
    (record,) = confirm_all(rows, [PROTOCOL], store).records["m"]
    assert record.accuracy.ap == 0.5 and record.latency is not None and store.read() == [record]


def test_another_protocol_takes_the_stored_accuracy(
    tmp_path: Path, split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "accuracy_of", lambda s, *_, **__: (accuracy(s), None))
    store = Store(tmp_path / "s.jsonl")
    rows = {"m": row(tmp_path, "m", splits=(split,))}
    confirm_all(rows, [PROTOCOL], store)
    monkeypatch.setattr(cells, "accuracy_of", lambda *_, **__: pytest.fail("evaluated again"))
    assert (
        confirm_all(rows, [Protocol("sustained", **QUICK)], store).records["m"][0].accuracy.ap
        == 0.5
    )


def test_an_accuracy_of_an_older_rule_is_not_taken(
    tmp_path: Path, split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a Record says what it said; a new one stands beside it with the AP of today's rule."""
    older = lambda s, *_, **__: (replace(accuracy(s, 0.4), rule=None), None)  # noqa: E731
    monkeypatch.setattr(cells, "accuracy_of", older)
    store = Store(tmp_path / "s.jsonl")
    rows = {"m": row(tmp_path, "m", splits=(split,))}
    confirm_all(rows, [PROTOCOL], store)
    monkeypatch.setattr(cells, "accuracy_of", lambda s, *_, **__: (accuracy(s), None))
    assert confirm_all(rows, [PROTOCOL], store).records["m"][0].accuracy.ap == 0.5
    assert store.read()[-1].accuracy.rule == AP_RULE


def test_rows_that_fail_leave_the_others_alone(tmp_path: Path) -> None:
    broken, wrong, endless = (
        fake_artifact(tmp_path, name) for name in ("broken", "wrong", "endless")
    )

    class Broken(FakeSession):
        def launch(self) -> None:
            raise RuntimeError("node 7: no kernel")

    class Endless(FakeSession):
        score = float("nan")

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.score = float("nan")

    rows = {
        "broken": Row(broken, lambda build: Broken(broken)),
        "good": row(tmp_path, "good"),
        "wrong": Row(wrong, lambda build: FakeSession(fake_artifact(tmp_path, "other"))),
        "endless": Row(endless, lambda build: Endless(endless)),
        "late": Row(fake_artifact(tmp_path, "late"), lambda build: late(tmp_path, build)),
    }
    outcome = confirm_all(rows, [Protocol(builds=2, **QUICK)], Store(tmp_path / "s.jsonl"))
    assert list(outcome.records) == ["good"]
    told = {name: str(error) for name, error in outcome.failures.items()}
    assert "does not run (node 7: no kernel)" in told["broken"] and "one file" in told["wrong"]
    assert "not finite" in told["endless"] and told["late"] == "no second engine"
    assert all("\n" not in line for line in told.values())


def late(folder: Path, build: int) -> FakeSession:
    if build:
        raise InputError("no second engine")
    return FakeSession(fake_artifact(folder, "late"))


def test_what_is_stored_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s.jsonl")
    rows = {name: row(tmp_path, name) for name in "ab"}
    first = confirm_all({"a": rows["a"]}, [PROTOCOL], store)
    measured: list[list[str]] = []
    measure: Callable[..., Any] = module.measure_interleaved
    monkeypatch.setattr(
        module,
        "measure_interleaved",
        lambda calls, *a, **k: measured.append(list(calls)) or measure(calls, *a, **k),
    )
    both = confirm_all(rows, [PROTOCOL], store, context=Context("later"))
    assert measured == [["b"]] and both.records["a"] == first.records["a"]


def test_random_weights_and_mixed_threads(tmp_path: Path, split: CocoSplit) -> None:
    rows = {
        "m": row(tmp_path, "m", splits=(split,), weights="random"),
        "n": row(tmp_path, "n", weights="random"),
    }
    outcome = confirm_all(rows, [PROTOCOL], Store(tmp_path / "s.jsonl"))
    assert "no accuracy" in str(outcome.failures["m"]) and outcome.records["n"][0].accuracy is None
    with pytest.raises(InputError, match="same number of threads"):
        confirm_all(rows, [PROTOCOL, Protocol(threads=5)], Store(tmp_path / "s.jsonl"))


def test_a_failure_is_raised_for_a_single_artifact(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path)
    with pytest.raises(StatedFailure, match="one file"):
        module.confirm(
            artifact,
            [],
            [PROTOCOL],
            Store(tmp_path / "s.jsonl"),
            session=FakeSession(fake_artifact(tmp_path, "x")),
        )


def test_a_row_is_measured_twice_by_sessions_of_its_own(tmp_path: Path) -> None:
    opened: list[FakeSession] = []
    rows = {"a": row(tmp_path, "a", opened), "b": row(tmp_path, "b")}
    store = Store(tmp_path / "s.jsonl")
    records = confirm_all(rows, [Protocol(builds=2, **QUICK)], store, twin="always").records
    first = records["a"][0].latency
    other = records["b"][0].latency
    assert (
        len(opened) == 4
        and other.itself is None
        and first.itself is not None
        and len(store.read()) == 2
    )
    assert first.session == other.session is not None
    twice = load_samples(tmp_path, first.itself.samples_sha256)
    assert len(twice.ms) == 64 and first.itself.median_ms == np.median(twice.ms)
    assert stored_twin(tmp_path, first) == first.itself
    assert (
        first.itself.verdict in ("SAME", "FASTER", "SLOWER", "UNDECIDED")
        and f"{first.itself.difference:+.2%}" in first.itself.told
    )


def test_sessions_are_opened_in_turns_over_the_rows(tmp_path: Path) -> None:
    opened: list[tuple[str, int]] = []

    def told(name: str) -> Row:
        artifact = fake_artifact(tmp_path, name)

        def open_build(build: int) -> FakeSession:
            opened.append((name, build))
            return FakeSession(artifact)

        return Row(artifact, open_build)

    store = Store(tmp_path / "s.jsonl")
    protocols = [Protocol(builds=3, **QUICK)]
    confirm_all({"a": told("a"), "b": told("b")}, protocols, store, twin="always")
    first = [("a", 0), ("b", 0), ("a", 3)]  # builds 3 to 5 are those of the second time
    second = [("a", 4), ("b", 1), ("a", 1)]
    third = [("a", 2), ("b", 2), ("a", 5)]
    assert opened == first + second + third


def test_no_latency_is_measured_with_the_session_that_ran_over_a_split(
    tmp_path: Path, split: CocoSplit
) -> None:
    opened: list[FakeSession] = []
    rows = {"m": row(tmp_path, "m", opened, (split,))}
    store = Store(tmp_path / "s.jsonl")
    outcome = confirm_all(rows, [PROTOCOL, replace(PROTOCOL, mode="sustained")], store)
    assert not outcome.failures and len(opened) == 2  # both protocols share the second session
    evaluated, measured = (len(session.log) for session in opened)
    assert 0 < evaluated < measured
    again = confirm_all(rows, [replace(PROTOCOL, builds=2)], store)
    assert not again.failures and len(opened) == 4  # the accuracy is stored: both are measured


def test_once_in_a_store_and_campaign(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.jsonl")
    context = Context("c")
    for name in "abc":
        confirm_all({name: row(tmp_path, name)}, [PROTOCOL], store, context=context, twin="once")
    assert [record.latency.itself is not None for record in store.read()] == [True, False, False]
    sustained = Protocol("sustained", **QUICK)
    (record,) = confirm_all(
        {"d": row(tmp_path, "d")}, [sustained], store, context=context, twin="once"
    ).records["d"]
    assert record.latency.itself is not None  # of another protocol
    paced = Protocol("paced", fps=500.0, **QUICK)
    (record,) = confirm_all({"e": row(tmp_path, "e")}, [paced], store, twin="always").records["e"]
    assert record.latency.itself is None


def test_a_second_time_that_fails_is_told_and_the_row_is_kept(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path)

    class Broken(FakeSession):
        def launch(self) -> None:
            if len(self.log) > 6:
                raise RuntimeError("gone")
            super().launch()

    rows = {"m": Row(artifact, lambda build: Broken(artifact) if build else FakeSession(artifact))}
    outcome = confirm_all(rows, [PROTOCOL], Store(tmp_path / "s.jsonl"), twin="always")
    (record,) = outcome.records["m"]
    assert record.latency.itself is None and record.latency.num_samples == 32
    assert "RuntimeError: gone" in str(outcome.failures["m, second time"])


def test_an_interrupt_keeps_the_row_that_waits_for_its_second_time() -> None:
    session = module._Session({}, PROTOCOL, module.Outcome())
    session.add_twin("m")
    finished: list[tuple[Any, ...]] = []
    session._finish = lambda *found: finished.append(found)  # type: ignore[method-assign]
    session.done("m", "what was measured")  # type: ignore[arg-type]
    assert finished == []
    session.end()
    session.end()
    assert finished == [("m", "what was measured", None)]
