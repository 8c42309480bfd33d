"""``rfdetr-repro nasbench``: what is held, answers, latencies from Records, refused arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples_nasbench import small_bench, small_latencies, small_part

from rfdetr_repro.nasbench.bench import LATENCIES
from rfdetr_repro.nasbench.latency import Latencies
from rfdetr_repro.nasbench.space import SPACE
from rfdetr_repro.nasbench_command import main
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.search.latency_model import LatencyModel
from rfdetr_repro.search.nasbench_latency import latencies_from
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO

PICO_RECORDS = Path(__file__).resolve().parents[2] / "results" / "pico.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_part().write(tmp_path / "seed0-val.npz")
    small_latencies().write(tmp_path / LATENCIES)
    return tmp_path


def test_what_is_held(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(folder)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("18 architectures\n  resolutions: 64, 96\n")
    assert "seed 0 on val: 40 images, best AP" in told and "weights: made up" in told
    assert "onnxruntime-1: 2 measured, the others modelled with a median error of 1.0%" in told
    (folder / LATENCIES).unlink()
    main(["--folder", str(folder)])
    assert "latencies: none" in capsys.readouterr().out


def test_an_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "r96-p16-w1-d2-q10"
    main(["--folder", str(folder), "--arch", key, "--first", "10"])
    told = capsys.readouterr().out
    answer = small_bench().query(key, images=10)
    assert answer.ap is not None and answer.mask_ap is not None
    expected = f"AP {100 * answer.ap:.2f}, mask AP {100 * answer.mask_ap:.2f} on 10 images"
    assert told.startswith(f"{key}, seed 0, val: {expected}\n") and "ms, modelled" in told
    assert "rounded down" not in told
    main(["--folder", str(folder), "--arch", "r97-p16-w1-d2-q10"])
    assert "resolution 97 -> 96 px (rounded down" in capsys.readouterr().out


def test_latencies_come_from_records(tmp_path: Path) -> None:
    """Measured engines keep their latency; the others follow the model fitted to all of them."""
    assert main(["--latencies", str(PICO_RECORDS), "--folder", str(tmp_path)]) == 0
    archs = tuple(SPACE)
    runtime = Latencies.read(tmp_path / LATENCIES, archs).runtime("onnxruntime-1")
    engines = [one for one in read_stores([PICO_RECORDS]) if one.source == "engine"]
    assert runtime.about["engines"] == len(engines) == len(runtime.measured) >= 18
    known = [one.model.arch for one in engines]
    medians = [one.latency.median_ms for one in engines if one.latency]
    assert sorted(value[0] for value in runtime.measured.values()) == sorted(medians)
    model = LatencyModel.fit([arch for arch in known if arch], medians, PICO.model)
    for place in range(0, len(archs), 100):
        predicted = model.predict(archs[place])
        assert runtime.modelled_ms[place] == pytest.approx(predicted, abs=1e-4)
    assert 0 < runtime.error_median < runtime.error_p95 < 0.2
    with pytest.raises(InputError, match="0 measured engines on openvino fp32"):
        latencies_from(engines, "openvino fp32", 1, "sustained", archs, PICO.model)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--first", "5"], "--first has no meaning without --arch"),
        (["--training", "long"], "--training has no meaning without --build"),
        (["--build", "FILE"], "a build lacks an argument"),
        (["--build", "FILE", "--first", "3"], "--first has no meaning with --build"),
        (["--latencies", "FILE"], "the latencies need a folder"),
        (["--latencies", "FILE", "--arch", "r96"], "--arch has no meaning with --latencies"),
        (["--folder", "NOWHERE"], "no part of the benchmark"),
    ],
)
def test_arguments_without_meaning_are_refused(tmp_path: Path, words: list[str], told: str) -> None:
    given = tmp_path / "given"
    given.write_text("", encoding="utf-8")
    named = {"FILE": str(given), "NOWHERE": str(tmp_path)}
    with pytest.raises(InputError, match=told):
        main([named.get(word, word) for word in words])
