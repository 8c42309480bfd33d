"""Every study's command runs at a small size, so that a changed signature is found here, and
refuses what it cannot use with exit code 2.
"""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.studies import (
    ap_coverage,
    attention_cpu,
    coco_evaluators,
    gather_limit,
    harness_overhead,
    int8_speed,
    nasbench_regret,
    onnx_exports,
    operators,
    race,
    ray_scaling,
    resampled_ap,
    sampling,
    search_parts,
    search_plan,
    shared_search,
    supernet_step,
    upstream_masks,
)
from benchmarks.subjects import pico_artifact
from rfdetr_repro.bench.interleaved import BLOCK
from rfdetr_repro.evaluation.coco import ImageDetections
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops import ms_deform_attn_reference
from rfdetr_repro.records.record import Latency, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.cluster.ray_pool import RayPool
from rfdetr_repro.search.evaluation import by_backbone
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.presets import PICO, PICO_SPACE
from rfdetr_repro.train.command import parser as train_parser

SMALL = Arch(64, 16, 1, 1, 10)
SPACE = SearchSpace((64,), (16,), (1,), (1, 2), (5, 10))
PICO_WEIGHTS = Path(race.__file__).parents[2] / "rfdetr_repro" / "weights" / "pico.safetensors"


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def fixed_times(slower: str) -> Callable[..., dict[str, np.ndarray]]:
    """Stands in for ``turns_ms``: runs every call once; ``slower`` takes twice the others' time."""

    def turns(calls: dict[str, Callable[[], Any]], rounds: int, **_: Any) -> dict[str, np.ndarray]:
        for call in calls.values():
            call()
        return {name: np.full((rounds, 1), 1.0 + (name == slower)) for name in calls}

    return turns


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (ap_coverage, ["--repeats", "0"]),
        (ap_coverage, ["--resamples", "-1"]),
        (attention_cpu, ["--rounds", "0"]),
        (coco_evaluators, ["--images", "-1"]),
        (coco_evaluators, ["--images", "1"]),
        (coco_evaluators, ["--max-dets", "0"]),
        (coco_evaluators, ["--per-image", "0"]),
        (harness_overhead, ["--rounds", "0"]),
        (harness_overhead, ["--onnx", "missing.onnx"]),
        (int8_speed, ["--rounds", "0"]),
        (int8_speed, ["--model", "missing.onnx", "missing.onnx"]),
        (nasbench_regret, ["--repeats", "1"]),
        (nasbench_regret, ["--folder", "missing"]),
        (onnx_exports, ["--rounds", "0"]),
        (race, ["--run", "missing", "--data", "missing"]),
        (race, ["--run", "missing", "--data", "missing", "--seeds", "0"]),
        (ray_scaling, ["--rounds", "0"]),
        (ray_scaling, ["--workers", "1"]),
        (resampled_ap, ["--rounds", "1"]),
        (sampling, ["--data", "missing", "--out", "missing", "--seeds", "0"]),
        (search_parts, ["--out", "missing.jsonl", "--only", "no such part"]),
        (search_plan, ["--records", "/dev/null/records.jsonl"]),
        (shared_search, ["--arch", "hello"]),
        (shared_search, ["--rounds", "0"]),
        (supernet_step, ["--steps", "0"]),
        (upstream_masks, ["--rounds", "0"]),
    ],
)
def test_bad_input_is_refused(
    study: ModuleType,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: Any = run_main(study.main, words)
    except SystemExit as ended:  # argparse's own
        code = ended.code
    assert code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("study", "module"),
    [
        (attention_cpu, "torch_ms_deform_attn"),
        (onnx_exports, "onnxscript"),
        (upstream_masks, "rfdetr.models.postprocess"),
    ],
)
def test_a_missing_package_is_named(
    study: ModuleType,
    module: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    if study is attention_cpu:
        monkeypatch.setattr(attention_cpu, "peers", dict)
    assert run_main(study.main, []) == 2
    package = module.split(".")[0].replace("_", "-")
    assert f"{package} is not installed; pip install" in capsys.readouterr().err.replace(
        ": pip", "; pip"
    )


def test_coverage_of_a_small_population(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ap_coverage, "MANY", 1000)
    better = ap_coverage.Population(12, 2, 0.0, 1.5)
    monkeypatch.setattr(ap_coverage, "CASES", {"12x2": better})
    first, second = better.true_aps()
    assert 0.2 < first < second < 1
    ap_coverage.main(["--repeats", "4", "--resamples", "50"])
    row = columns(capsys.readouterr().out.splitlines()[-1])
    assert row[:2] == ["12x2", f"{100 * first:.1f}"]
    assert all(cell in ("50.0 %", "75.0 %", "100.0 %") for cell in (row[3], row[5]))
    ap_coverage.main(["--repeats", "2", "--resamples", "0"])
    assert columns(capsys.readouterr().out.splitlines()[-1])[5:] == ["nan %", "nan %"]


@pytest.fixture
def peer_operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch-ms-deform-attn's forward and backward operator, by ``grid_sample`` where the package is
    not installed.
    """
    if importlib.util.find_spec(attention_cpu.PEER):
        yield
        return
    library = torch.library.Library(attention_cpu.PEER, "DEF")
    library.define(
        "backward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights, "
        "Tensor upstream, int step) -> (Tensor, Tensor, Tensor)"
    )

    def backward(value: Any, shapes: Any, starts: Any, *others: Any) -> Any:
        locations, weights, upstream, _ = others
        leaves = [one.detach().requires_grad_() for one in (value, locations, weights)]
        with torch.enable_grad():
            out = ms_deform_attn_reference(
                leaves[0], [tuple(size) for size in shapes.tolist()], *leaves[1:]
            )
        return torch.autograd.grad(out, leaves, upstream)

    library.impl("backward", backward, "CPU")
    monkeypatch.setattr(
        attention_cpu, "peers", lambda: {attention_cpu.PEER: ms_deform_attn_reference}
    )
    yield
    library._destroy()


def test_both_attention_operators_do_the_same_work(
    peer_operator: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(attention_cpu.CASES):
        monkeypatch.delitem(attention_cpu.CASES, name)
    monkeypatch.setitem(attention_cpu.CASES, "tiny", (1, 5, [(4, 4), (2, 2)], 2))
    made = attention_cpu.calls_by_pass("tiny")
    assert list(made) == ["forward", "gradient", "forward + backward"]
    for work in ("forward", "gradient"):
        ours, theirs = (made[work][name]() for name in ("ours", attention_cpu.PEER))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    attention_cpu.main(["--rounds", "1"])
    printed = capsys.readouterr().out
    assert printed.count("tiny, ") == 6 and printed.count("over ours") == 8


def test_evaluators_are_compared_with_pycocotools(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools")
    words = ["--images", "6", "--large", "2", "--per-image", "12", "--max-dets", "100"]
    assert coco_evaluators.main(words) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("not pycocotools' numbers: none")
    assert printed.count("\nrfdetr_repro ") == 4
    wrong = ("rfdetr_repro", lambda split: lambda *_: [0.0] * 12)
    monkeypatch.setitem(coco_evaluators.EVALUATORS, coco_evaluators.OURS, wrong)
    assert coco_evaluators.main([*words, "--only", "pycocotools", "rfdetr_repro"]) == 1


def test_the_protocol_is_timed_beside_a_bare_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = pico_artifact(tmp_path, SMALL)
    both = harness_overhead.compare(artifact, rounds=2, threads=1)
    assert all(times.shape == (2, BLOCK) and (times > 0).all() for times in both)
    for over, code in ((1.0, 0), (1.1, 1)):
        made_up = np.full((4, BLOCK), over), np.ones((4, BLOCK))
        monkeypatch.setattr(harness_overhead, "compare", lambda *_, found=made_up: found)
        assert harness_overhead.main(["--onnx", str(artifact.path), "--threads", "1"]) == code
        assert f"ratio {over:.4f}" in capsys.readouterr().out


def test_int8_forms_are_timed_beside_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def exported(name: str, folder: Path) -> Any:
        asked.append(name)
        return pico_artifact(folder, SMALL)

    monkeypatch.setattr(int8_speed, "model_artifact", exported)
    monkeypatch.setattr(int8_speed, "turns_ms", fixed_times(int8_speed.FLOAT))
    int8_speed.main(["--rounds", "2"])
    printed = capsys.readouterr().out
    assert asked == ["rfdetr-nano"]
    assert "onnxruntime int8, attention in fp32" in printed
    assert "onnxruntime int8                     1.00   2.0000" in printed
    told = dict(line.split(": ") for line in printed.splitlines() if line.startswith("int8"))
    assert set(told) == {"int8", "int8, attention in fp32"} and len(set(told.values())) == 2


def test_search_methods_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {name: nasbench_regret.METHODS[name] for name in ("random search", "successive halving")}
    monkeypatch.setattr(nasbench_regret, "METHODS", kept)
    space = SearchSpace((96, 128), (16,), (1,), (0, 2), (10, 25))
    monkeypatch.setattr(nasbench_regret, "PICO_SPACE", space)
    pytest.importorskip("matplotlib")
    nasbench_regret.main(["--repeats", "2", "--figure", str(tmp_path / "curves.png")])
    table = [columns(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert [row[0] for row in table] == ["method", *kept]
    paid = table[0].index("evaluations")
    assert table[1][paid] == "100.00 ± 0.00"
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(("slower", "code"), [("ours", 1), ("theirs", 0)])
def test_exports_are_compared(
    slower: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The peer's file is a copy of ours: PyTorch's exporter needs a package."""
    monkeypatch.setitem(onnx_exports.PRESETS, "pico", PICO)
    monkeypatch.setattr(onnx_exports, "NEEDED", {})
    monkeypatch.setattr(onnx_exports, "both", lambda row: (None, Detector(row.model, row.arch)))

    def copied(model: None, path: Path, contract: str, row: Any) -> None:
        shutil.copyfile(path.with_name(path.name.replace("theirs", "ours")), path)

    monkeypatch.setattr(onnx_exports, "export_theirs", copied)
    monkeypatch.setattr(onnx_exports, "turns_ms", fixed_times(slower))
    words = ["--sizes", "pico", "--contracts", "upstream", "--rounds", "2", "--threads", "1"]
    assert onnx_exports.main([*words, "--folder", str(tmp_path), "--profile"]) == code
    printed = capsys.readouterr().out
    assert "outputs 0.0e+00 apart" in printed
    assert printed.count("Conv ") == 2
    assert f"certainly slower: {'pico upstream' if code else 'nowhere'}" in printed


def test_operators_of_a_call() -> None:
    left = torch.ones(2, 3)
    found = operators.operator_ms({"sum": lambda: (left + left + left).sum()}, rounds=2)
    assert {name.split()[0] for name in found["sum"]} == {"aten.add", "aten.sum"}
    assert "aten.add 2x3 2x3" in found["sum"]
    sides = cycle([2, 3])
    with pytest.raises(ValueError, match="same operators every time"):
        operators.operator_ms({"changing": lambda: torch.ones(next(sides)) * 2}, rounds=2)


def made_up_run(wall_s: float, ap: float = 0.5) -> ray_scaling.Run:
    return ray_scaling.Run(5.0, wall_s, 10.0, 0.9, ((ap,),))


def test_the_work_of_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = ray_scaling.prepare(tmp_path, 1)
    groups = [ray_scaling.Group(tuple(group[:2])) for group in islice(by_backbone(PICO_SPACE), 2)]
    run = ray_scaling.turn(make, groups, 0)
    assert [len(ap) for ap in run.ap] == [2, 2] and 0 < run.occupancy <= 1
    inspect.signature(RayPool).bind(make, workers=2)  # without the seconds of a cluster's start
    asked: list[int] = []

    def turn(make: Any, groups: Sequence[Any], workers: int, ap: float = 0.5) -> ray_scaling.Run:
        asked.append(workers)
        return made_up_run({0: 18.0, 1: 20.0, 2: 10.0}[workers], ap)

    monkeypatch.setattr(ray_scaling, "prepare", lambda *_: make)
    monkeypatch.setattr(ray_scaling, "turn", turn)
    ray_scaling.main(["--rounds", "2"])
    assert sorted(asked) == [0, 0, 1, 1, 2, 2]
    assert "2 workers against 1: 2.00 times by wall time" in capsys.readouterr().out
    monkeypatch.setattr(ray_scaling, "turn", lambda *_: made_up_run(10.0))
    with pytest.raises(StatedFailure, match=r"1\.00 times is below"):
        ray_scaling.main(["--rounds", "1"])
    monkeypatch.setattr(ray_scaling, "turn", lambda *given: turn(*given, ap=float(given[2])))
    with pytest.raises(StatedFailure, match="different accuracies"):
        ray_scaling.main(["--rounds", "1"])


def test_resampled_ap_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resampled_ap, "COCO_IMAGES", 6)
    monkeypatch.setattr(resampled_ap, "COCO_CLASSES", 3)
    cases = list(resampled_ap.cases())
    assert len(cases) == 2 and len(cases[0][2].count) == 150
    line = resampled_ap.compared(*cases[1], rounds=2)
    assert float(line.split("at most ")[1]) < 1 / 101


def test_the_race_is_replayed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(PICO_WEIGHTS, tmp_path / "supernet.safetensors")
    store = Store(tmp_path / "records.jsonl")
    archs = [arch for group in by_backbone(PICO_SPACE) for arch in group]
    store.extend(
        [
            Record(
                "search",
                ModelId("rfdetr", arch.key, arch=arch),
                latency=Latency(total_flops(PICO.model, arch, "eager") / 1e9, method="modelled"),
            )
            for arch in archs
        ]
    )
    words = ["--run", str(tmp_path), "--data", str(folder), "--seeds", "1"]
    race.main(words)
    summary, seed = capsys.readouterr().out.splitlines()
    assert summary.startswith("162 configurations of 18 backbones, 2 images; best ap ")
    # two images are one stage, in which nothing is dropped
    assert "100.0% of the image evaluations, 100.0% of the backbone passes" in seed
    assert "hypervolume 100.00%, 162 survivors" in seed
    with pytest.raises(InputError, match="race rules"):
        race.main([*words, "--confidence", "2"])
    other = Store(tmp_path / "other.jsonl")
    other.append(Record("cost", ModelId("rfdetr", "another")))
    with pytest.raises(InputError, match="no modelled latency of 162 configurations"):
        race.latencies([other.path], archs)


def test_sampling_rules_are_trained_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train(words: Sequence[str]) -> None:
        args = train_parser().parse_args(words)  # refuses what the command does not know
        trained.append((args.sampling, args.steps, args.seed))
        args.out.mkdir(parents=True)

    archs = [arch for group in by_backbone(PICO_SPACE) for arch in group]
    monkeypatch.setattr(sampling, "train", train)
    monkeypatch.setattr(sampling, "accuracies", lambda *_: dict.fromkeys(archs, 0.25))
    monkeypatch.setattr(sampling, "read_log", lambda run: [{"seconds": 2.0}, {"seconds": 7.0}, {}])
    page = tmp_path / "page.md"
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "runs"), "--steps", "6"]
    words += ["--seeds", "2", "--set", "batch_size=2", "--page", str(page)]
    sampling.main(words)
    assert trained == [
        (rule, steps, seed)
        for rule, steps in (("uniform", 6), ("sandwich", 2), ("sandwich", 6))
        for seed in (0, 1)
    ]
    rows = [columns(line) for line in page.read_text().splitlines()[2:]]
    assert len(rows) == 3
    assert all(row[1:6] == ["25.0 / 25.0"] + ["25.0 / 25.0"] * 4 for row in rows), rows
    assert all(row[-1] == "7" for row in rows)
    sampling.main(words)  # what is kept is not trained again
    assert len(trained) == 6


@pytest.fixture
def small_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's space and supernet in the studies of a search are small ones."""
    for study in (search_parts, search_plan, shared_search):
        monkeypatch.setattr(study, "PAPER_SPACE", SPACE)
        monkeypatch.setattr(study, "PAPER_SUPERNET", PICO)


def test_every_part_of_a_search_is_timed_once(
    small_space: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_parts, "SCORED_IMAGES", 3)
    monkeypatch.setattr(search_parts, "SHARED", 2)
    monkeypatch.setattr(search_parts, "RESAMPLED_IMAGES", 4)
    monkeypatch.setattr(search_parts, "COCO_CLASSES", 3)
    monkeypatch.setattr(search_parts, "SIDES", (64,))
    out = tmp_path / "parts.jsonl"
    search_parts.main(["--out", str(out)])
    records = Store(out).read()
    assert [one.model.variant for one in records] == [part.name for part in search_parts.parts()]
    assert all(one.campaign == search_parts.CAMPAIGN and one.as_latency() for one in records)
    search_parts.main(["--out", str(out), "--only", "decoding", "export"])
    assert len(Store(out).read()) == len(records)


def test_a_plan_is_stored_and_replaces_the_earlier_one(
    small_space: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfdetr_repro.search.plan.TIMED_IMAGES", 40)
    monkeypatch.setattr(search_plan, "IMAGES", 100)
    store = Store(tmp_path / "records.jsonl")
    other = Record("cost", ModelId("rfdetr", "another"), campaign="another")
    store.append(other)
    search_plan.main(["--records", str(store.path)])
    once = store.read()
    assert once[0] == other
    search_plan.main(["--records", str(store.path)])
    assert [one.id for one in store.read()] == [one.id for one in once]
    rows = ("passes, 5,000 images", "decisions of a race", "latency model", "confirmation")
    projected = dict.fromkeys((*rows, "whole search, exhaustive"), 1234.5)
    section = search_plan.plan_section(once, projected, 10, 4)
    assert section.count("| 1,234.5 h |") == 5
    assert "the projection 10 engines and 4 candidates" in section
    assert search_plan.plan_section([other], projected, 10, 4) == ""


def test_shared_and_single_passes_agree(
    small_space: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--images", "1", "--rounds", "1", "--threads", "1", "--masks"]
    shared_search.main([*words, "--arch", SMALL.key])
    printed = capsys.readouterr().out
    assert printed.count("for 4 configurations on 1 images") == 2
    assert float(printed.split("largest difference ")[1]) < 1e-4
    boxes = np.array([[0, 0, 16, 16]], dtype=np.float32)
    one = ImageDetections(1, boxes, np.array([0.5], np.float32), np.array([0]))
    moved = ImageDetections(1, boxes + 16, one.scores, one.labels)
    assert shared_search.difference([one], [moved]) == pytest.approx(0.1)
    less = ImageDetections(1, boxes, one.scores - 0.25, one.labels)
    assert shared_search.difference([one], [less]) == pytest.approx(0.25)


@pytest.mark.parametrize("more", [[], ["--no-masks", "--arch", SMALL.key]])
def test_both_matchers_of_a_step_agree(
    more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = supernet_step.match_per_image
    agreed = []

    def both(stages: Any, targets: Any, *others: Any) -> Any:
        theirs = usual(stages, targets, *others)
        ours = whole_batch(stages, targets, *others)
        for one, other in zip(ours, theirs, strict=True):
            for pair in zip(one, other, strict=True):
                rows = [
                    dict(zip(*(side.tolist() for side in match), strict=True)) for match in pair
                ]
                agreed.append(rows[0] == rows[1])
        return theirs

    whole_batch = supernet_step.losses.match
    monkeypatch.setattr(supernet_step, "match_per_image", both)
    supernet_step.main(["--batch", "1", "--steps", "1", "--device", "cpu", *more])
    printed = capsys.readouterr().out
    assert agreed and all(agreed)
    assert "ours: " in printed and "grid_sample and per-image matching: " in printed
    for part in (
        *("backbone and projector", "two-stage and decoder", "matching", "losses", "backward"),
        *("clipping and optimizer", "moving average", "rest"),
    ):
        assert printed.count(f"{part} ") >= 2, part


def test_masks_are_compared_with_upstreams(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the package is not installed, PyTorch's resizing stands in for it."""

    class PostProcess:
        @staticmethod
        def _postprocess_masks(
            masks: Any,
            scores: Any,
            labels: Any,
            boxes: Any,
            queries: Any,
            sizes: Any,
            **more: float,
        ) -> list[dict[str, Any]]:
            kept = masks[0, queries[0, scores[0] > more["score_threshold"]]]
            large = torch.nn.functional.interpolate(
                kept[:, None], tuple(sizes[0].tolist()), mode="bilinear", align_corners=False
            )
            return [{"masks": large > 0}]

    if importlib.util.find_spec("rfdetr") is None:
        for name in ("rfdetr", "rfdetr.models", "rfdetr.models.postprocess"):
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(PostProcess=PostProcess))
        monkeypatch.setattr(upstream_masks, "version", lambda name: "0")
    monkeypatch.setattr(upstream_masks, "CASES", {"tiny": (60, 80, 3)})
    upstream_masks.main(["--rounds", "2"])
    row = columns(capsys.readouterr().out.splitlines()[-1])
    assert row[0] == "tiny" and int(row[-1]) <= 2


def test_the_gather_loop_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the flags of one kind of processor."""
    if gather_limit.gather_ms(0, 8, rounds=0) is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(gather_limit, "NATIVE", ())
    found = gather_limit.gather_ms(20, 8, rounds=2)
    assert found is not None and 0 < found < float("inf")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert gather_limit.gather_ms(16, 8) is None
