"""Shared by ``test_bench_command.py`` and others: models, run, sessions."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples_bench import FakeSession, fake_artifact

from rfdetr_repro.bench.command import runtimes
from rfdetr_repro.bench.command.run import main
from rfdetr_repro.export import trial
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.runtime import backends
from rfdetr_repro.spec.errors import InputError, run_main

FEW = ["--samples", "16", "--builds", "2"]
QUICK = [*FEW, "--buffer-ms", "0"]


@pytest.fixture(autouse=True)
def sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are a few bytes: no runtime opens them."""

    def open_session(
        artifact: Artifact, backend: str = "onnxruntime", *, threads: int = 2, **options: Any
    ) -> FakeSession:
        if artifact.manifest.model.name == "broken":
            raise InputError("the model does not load", artifact.path, "export it again")
        session = FakeSession(artifact, runtime=backend)
        graph = bool(options.get("cuda_graph"))
        session.cuda_graph = graph or backend == "torch-graph"
        session.artifact_id = replace(session.artifact_id, options=f"cuda_graph={graph}")
        return session

    monkeypatch.setattr(backends, "open_session", open_session)
    monkeypatch.setattr(backends, "check_backend", lambda *_: None)
    # whatever else is installed here
    monkeypatch.setattr(runtimes, "installed_on_cpu", lambda: ["onnxruntime"])
    monkeypatch.setattr(trial, "tried", lambda artifact: artifact)  # the files hold no models


def run(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, str, str]:
    short = FEW if "buffer-sweep" in arguments else QUICK  # the sweep has waits of its own
    code = run_main(main, [*arguments, *short, "--out", str(folder / "out" / "s.jsonl")])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def models(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str, int | None]]:
    """Two known names; the list collects the requested names."""
    asked: list[tuple[str, str, int | None]] = []

    def model_artifact(
        name: str,
        into: Path,
        *,
        checkpoint: str | None = None,
        to: str = "onnx",
        inject: int | None = None,
    ) -> Artifact:
        asked.append((name, to, inject))
        if name not in ("rfdetr-medium", "dfine-m"):
            raise InputError(f"unknown model {name!r}")
        return fake_artifact(folder, name, weights="trained" if checkpoint else "random")

    known = SimpleNamespace(
        model_names=lambda: ("rfdetr-medium", "dfine-m"), model_artifact=model_artifact
    )
    monkeypatch.setitem(sys.modules, "rfdetr_repro.bench.models", known)
    return asked
