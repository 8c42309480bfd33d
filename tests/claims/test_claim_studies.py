"""The studies behind the claims: Records with resampled APs, nothing computed twice, and everything
checked before anything is spent.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="studies evaluate models")

from rfdetr_repro import claims_command
from rfdetr_repro.claims.catalog import ALONE, STUDIES, claims_named
from rfdetr_repro.claims.pairs import SHARED, STUDY, has_resamples
from rfdetr_repro.claims.verdicts import ONE_SEED, UNDECIDED, judged
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.records.store import Store
from rfdetr_repro.reproduce import claim_studies
from rfdetr_repro.reproduce.claim_studies import RECORDS, StudyRequest, run_study
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO_WEIGHTS

SPACE = SearchSpace((96,), (16,), (1, 2), (1, 2), (25,))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = EmbeddedConfig(train_images=8, val_images=12, test_images=1)
    return DataSource.of(write_embedded(tmp_path_factory.mktemp("data") / "embedded", config))


def test_given_weights_are_evaluated_once_and_judged(data, tmp_path, monkeypatch):
    request = StudyRequest(STUDIES["weights"], tmp_path, data, space=SPACE, device="cpu")
    records = run_study(request)
    assert [record.model.arch for record in records] == list(SPACE)
    assert all(has_resamples(one) and one.source == one.campaign == STUDY for one in records)
    # a stand-alone subnet gives the same AP
    detector, _, sha256 = load_supernet(PICO_WEIGHTS)
    arch = Arch.parse("r96-p16-w1-d1-q25")
    split = read_split(data, "val")
    alone = single_detections(detector.slice(arch), split, masks=False)
    (ours,) = [one for one in records if one.model.arch == arch]
    assert ours.accuracy.ap == pytest.approx(CocoEvaluator(split).accuracy(alone).ap, abs=1e-9)
    assert ours.model.checkpoint_sha256 == sha256 and ours.data.sha256 == split.sha256

    # a killed run leaves a torn line: only its backbone is evaluated again
    path = tmp_path / RECORDS
    path.write_bytes(path.read_bytes()[:-200])
    evaluated = []
    real = claim_studies.shared_detections

    def counted(detector, split, archs, **more):
        evaluated.append(list(archs))
        return real(detector, split, archs, **more)

    monkeypatch.setattr(claim_studies, "shared_detections", counted)
    again = run_study(request)
    assert [len(group) for group in evaluated] == [1]
    assert [one.accuracy for one in again] == [one.accuracy for one in records]
    run_study(request)
    assert len(evaluated) == 1

    (claim,) = judged(Store(path).read(), claims_named("4"))
    depth = next(one for one in claim.findings if one.comparison.id == "4.1")
    assert depth.pairs == 2 and ONE_SEED in depth.reason + depth.effect.over


def test_one_split_of_the_data_has_the_annotations_of_the_whole_set(data, tmp_path):
    config = EmbeddedConfig(train_images=8, val_images=12, test_images=1)
    folder = write_embedded(tmp_path / "data", config, workers=1, splits=("val",))
    assert not (folder / "train").exists()
    assert read_split(folder, "val").sha256 == read_split(data, "val").sha256
    write_embedded(folder, config, workers=1)
    assert read_split(folder, "train").sha256 == read_split(data, "train").sha256


@pytest.mark.slow
def test_both_sides_are_trained_with_each_seed_and_two_seeds_decide_nothing(data, tmp_path):
    space = replace(SPACE, resolutions=(160,), decoder_layers=(2,))
    request = StudyRequest(
        STUDIES["sharing"], tmp_path, data, 2, 1, "cpu", processes=1, space=space
    )
    records = run_study(request)
    base = [one for one in records if one.model.arch == records[0].model.arch]
    assert {(one.model.variant, one.seed) for one in base} == {
        (side, seed) for side in (ALONE, SHARED) for seed in (0, 1)
    }
    assert len({one.model.checkpoint_sha256 for one in records}) == 4
    (claim,) = judged(records, claims_named("1"))
    assert claim.word == UNDECIDED and claim.findings[0].pairs == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "weights"], "needs a folder"),
        (["--run", "weight", "--out", "x"], "did you mean weights"),
        (["--run", "weights", "--out", "x", "--records", "."], "no meaning with --run"),
        (["--run", "weights", "--out", "x", "--seeds", "3"], "trains nothing"),
        (["--seeds", "3"], "no meaning without --run"),
        (["--stated", "--run", "weights"], "no meaning with --stated"),
        (["--run", "sharing", "--out", "x", "--seeds", "0"], "whole number from 1"),
        (["--run", "sharing", "--out", "x", "--claim", "4"], "not about claim 4"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        claims_command.main(words)
    assert not list(tmp_path.iterdir())


def test_data_without_val_are_refused_before_any_training(data, tmp_path):
    source = tmp_path / "data"
    (source / "annotations").mkdir(parents=True)
    name = "annotations/instances_train.json"
    (source / name).write_bytes((data.root / name).read_bytes())
    (source / "train").symlink_to(data.root / "train")
    request = StudyRequest(STUDIES["sharing"], tmp_path / "out", DataSource.of(source), steps=1)
    with pytest.raises(InputError, match="val"):
        run_study(request)
    assert not list((tmp_path / "out").glob("*-0"))
