"""The benchmark's file and its answers: what is stored comes back, what is asked is paid once, and
bad questions are refused.
"""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_nasbench import CLASSES, SMALL, made_up, small_bench, small_latencies, small_part

from rfdetr_repro.evaluation.matches import THRESHOLDS, Matches, Objects, average_precision
from rfdetr_repro.nasbench.bench import LATENCIES, NasBench, shuffled
from rfdetr_repro.nasbench.columns import KINDS, Part, Ranked, ranked
from rfdetr_repro.spec.errors import InputError

ARCHS = tuple(SMALL)


@pytest.mark.parametrize("seed", range(4))
def test_ap_of_what_is_kept_is_the_evaluators_on_every_subset(seed: int) -> None:
    """Detections that were left out and places that were changed move no AP, to the last bit."""
    rng = np.random.default_rng(seed)
    objects = rng.integers(0, 3, (30, CLASSES))
    label, image, score, boxes, masks = made_up(ARCHS[seed], objects, rng)
    order = np.lexsort((-score, label, image))
    kept = ranked(label, image, score, boxes, masks, CLASSES)
    assert len(kept.place) < len(label)
    for size in (1, 2, 7, 30):
        places = np.sort(rng.choice(30, size, replace=False))
        inside = np.isin(np.arange(30), places)
        for kind, accepted in zip(KINDS, (boxes, masks), strict=True):
            whole = Matches(*(c[order] for c in (image, label, score, accepted, 0 * accepted)))
            expected = average_precision(whole, Objects(objects), places, range(THRESHOLDS))
            assert kept.average_precision(kind, objects, inside) == expected


def test_a_part_comes_back_and_is_the_same_bytes(tmp_path: Path) -> None:
    part = small_part()
    part.write(tmp_path / "seed0-val.npz")
    read = Part.read(tmp_path / "seed0-val.npz")
    assert read.about == part.about and read.archs == ARCHS
    for name in ("objects", "ap", "counts", "place", "pattern"):
        np.testing.assert_array_equal(getattr(read, name), getattr(part, name))
    read.write(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "seed0-val.npz").read_bytes()


@pytest.mark.parametrize("images", [40, 300])
def test_steps_of_places_need_no_wider_numbers(tmp_path: Path, images: int) -> None:
    part = small_part(images=images)
    part.write(tmp_path / "seed0-val.npz")
    np.testing.assert_array_equal(Part.read(tmp_path / "seed0-val.npz").place, part.place)


def test_no_count_is_too_large_for_a_file(tmp_path: Path) -> None:
    """More detections of a class, and more images, than 16 bits can count."""
    images, many = 70_000, 66_000
    space = {"resolutions": [64], "patches": [16], "windows": [1], "decoder_layers": [0]}
    about = {**small_part().about, "space": {**space, "queries": [5]}}
    found = Ranked(np.array([many]), np.arange(images - many, images), np.full(many, 1))
    part = Part.of(about, np.ones((images, 1), int), np.array([[0.5, 0.0]]), [found])
    part.write(tmp_path / "seed0-val.npz")
    read = Part.read(tmp_path / "seed0-val.npz")
    np.testing.assert_array_equal(read.counts, part.counts)
    np.testing.assert_array_equal(read.place, part.place)


def test_a_damaged_file_is_refused_or_read_and_never_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "seed0-val.npz"
    small_part().write(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(300):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[rng.integers(len(whole)) :]
        else:
            content[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            NasBench.load(tmp_path)
        except InputError as error:
            assert "seed0-val.npz" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("shape", ["(3,,", "(9000000000000000,)", "(30000000000000000000000,)"])
def test_a_damaged_header_of_an_array_is_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "seed0-val.npz"
    small_part().write(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118)
    files["objects.npy"] = b"\x93NUMPY\x01\x00" + b"\x76\x00" + header
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=r"seed0-val\.npz") as caught:
        NasBench.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["seed", "split", "space", "training", "format"])
def test_a_file_without_its_origin_is_refused(tmp_path: Path, missing: str) -> None:
    about = {name: value for name, value in small_part().about.items() if name != missing}
    replace(small_part(), about=about).write(tmp_path / "seed0-val.npz")
    with pytest.raises(InputError, match=r"seed0-val\.npz"):
        NasBench.load(tmp_path)


def test_two_files_of_one_seed_and_split_are_refused(tmp_path: Path) -> None:
    for name in ("seed0-val.npz", "seed00-val.npz"):
        small_part().write(tmp_path / name)
    with pytest.raises(InputError, match="another file holds seed 0 on val too"):
        NasBench.load(tmp_path)


def test_image_evaluations_are_paid_once() -> None:
    bench = small_bench()
    arch = ARCHS[4]
    first = bench.query(arch, images=10)
    assert (first.images, first.paid, bench.evaluations) == (10, 10, 10)
    assert bench.query(arch.key, images=25).paid == 15
    assert bench.query(arch, images=shuffled(40)[:12]).paid == 0
    assert bench.query(arch).paid == 15
    assert bench.query(arch, seed=1, images=3).paid == 3
    assert (bench.evaluations, bench.queries) == (43, 5)
    bench.forget()
    assert bench.query(arch, images=10) == first


def test_the_whole_split_answers_with_the_stored_ap() -> None:
    bench = small_bench()
    for arch in ARCHS:
        answer = bench.query(arch)
        one = bench.matches(arch)
        every = np.ones(40, dtype=bool)
        found = [one.average_precision(kind, bench.part().objects, every) for kind in KINDS]
        assert [answer.ap, answer.mask_ap] == found
    assert len({bench.query(arch).ap for arch in ARCHS}) > 10


def test_latencies_are_measured_or_modelled(tmp_path: Path) -> None:
    bench = small_bench()
    small_latencies().write(tmp_path / LATENCIES)
    small_part().write(tmp_path / "seed0-val.npz")
    loaded = NasBench.load(tmp_path)
    for one in (bench, loaded):
        assert one.latency(ARCHS[0]).measured and one.latency(ARCHS[0]).error is None
        modelled = one.latency(ARCHS[1])
        assert not modelled.measured and modelled.error == 0.01 and modelled.low is None
        with pytest.raises(InputError, match="choose one of onnxruntime-1"):
            one.latency(ARCHS[0], "abacus")
    assert list(loaded.parts) == [(0, "val")] and loaded.archs == ARCHS


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ({"arch": "r64-p16-w1-d0-q6"}, "not in the benchmark's space"),
        ({"arch": "large"}, "not an architecture"),
        ({"seed": 7}, "does not hold seed 7 on val"),
        ({"split": "test"}, "does not hold seed 0 on test"),
        ({"images": 0}, "0 images of a split of 40"),
        ({"images": 41}, "41 images"),
        ({"images": True}, "True images"),
        ({"images": [3, 40]}, "not places of images"),
        ({"images": [-1]}, "not places of images"),
        ({"images": [0.5]}, "not places of images"),
        ({"images": []}, "not places of images"),
    ],
)
def test_bad_questions_are_refused_and_free(question: dict[str, object], told: str) -> None:
    bench = small_bench()
    with pytest.raises(InputError, match=told):
        bench.query(**{"arch": ARCHS[0], **question})  # type: ignore[arg-type]
    assert bench.evaluations == 0


def test_a_resolution_that_rounds_to_the_same_input_is_the_same_architecture() -> None:
    bench = small_bench()
    assert bench.query("r70-p16-w1-d1-q10") == small_bench().query("r64-p16-w1-d1-q10")


def test_folders_and_files_that_hold_no_benchmark_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part of the benchmark"):
        NasBench.load(tmp_path)
    path = tmp_path / "seed0-val.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="not a part of the benchmark"):
        NasBench.load(tmp_path)
    small_part().write(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, members["low.npy"] if name == "high.npy" else content)
    with pytest.raises(InputError, match=r"seed0-val.npz"):
        NasBench.load(tmp_path)
    small_part().write(path)
    (tmp_path / LATENCIES).write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(InputError, match="not a file of latencies"):
        NasBench.load(tmp_path)
