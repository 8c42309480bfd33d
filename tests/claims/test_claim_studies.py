"""The studies behind the claims: Records with resampled APs, nothing computed twice, and everything
checked before anything is spent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

pytest.importorskip("torch", reason="studies evaluate models")

import torch

from rfdetr_repro import claims_command
from rfdetr_repro.claims.catalog import claims_named
from rfdetr_repro.claims.pairs import SHARED, STUDY, has_resamples
from rfdetr_repro.claims.studies import (
    ALONE,
    DRAWN,
    PRETRAINED,
    QUICK_STEPS,
    STARTS,
    STUDIES,
    TUNED_AFTER,
    UNRANKED,
)
from rfdetr_repro.claims.verdicts import OVER_IMAGES, UNDECIDED, judged
from rfdetr_repro.data.coco import Sample, read_split
from rfdetr_repro.data.domains.dataset import DomainConfig, write_domain
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.loader import evaluation_batches
from rfdetr_repro.data.network_input import Letterbox, network_input
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.ops.boxes import paired_iou
from rfdetr_repro.records.record import NEVER_TRAINED
from rfdetr_repro.records.store import Store
from rfdetr_repro.reproduce import claim_costs, claim_studies
from rfdetr_repro.reproduce.claim_costs import cost_of
from rfdetr_repro.reproduce.claim_studies import (
    PRETRAINING,
    RECORDS,
    StudyRequest,
    mixing,
    read_data,
    run_study,
    stored_records,
    with_mixed_queries,
)
from rfdetr_repro.reproduce.claim_trainings import PadToSquare, Scale, detections, prepared
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.spec.presets import PICO_SPACE, PICO_WEIGHTS
from rfdetr_repro.spec.resize_rules import ANTIALIASED, LETTERBOX

SPACE = SearchSpace((96,), (16,), (1, 2), (1, 2), (25,))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = EmbeddedConfig(train_images=8, val_images=12, test_images=1)
    return DataSource.of(write_embedded(tmp_path_factory.mktemp("data") / "embedded", config))


@pytest.fixture
def started(monkeypatch):
    """The requests of all trainings, in the order in which they started."""
    requests = []
    real = claim_studies.train

    def noted(request):
        requests.append(request)
        return real(request)

    monkeypatch.setattr(claim_studies, "train", noted)
    return requests


def test_given_weights_are_evaluated_once_and_judged(data, tmp_path, monkeypatch):
    request = StudyRequest(STUDIES["weights"], tmp_path, data, space=SPACE, device="cpu")
    loaded = []

    def load(path):
        loaded.append(path)
        return load_supernet(path)

    monkeypatch.setattr(claim_studies, "load_supernet", load)
    records = run_study(request)
    assert loaded == [PICO_WEIGHTS]
    drawn = [record for record in records if record.model.variant is None]
    assert [record.model.arch for record in drawn] == list(SPACE)
    fresh = [record for record in records if record.model.variant == NEVER_TRAINED]
    assert len(fresh) + len(drawn) == len(records)
    assert {record.model.arch.patch for record in fresh} == {14, 18, 20}
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
    assert depth.pairs == 2 and depth.effect.over == OVER_IMAGES


def test_one_split_of_the_data_has_the_annotations_of_the_whole_set(data, tmp_path):
    config = EmbeddedConfig(train_images=8, val_images=12, test_images=1)
    folder = write_embedded(tmp_path / "data", config, workers=1, splits=("val",))
    assert not (folder / "train").exists()
    assert read_split(folder, "val").sha256 == read_split(data, "val").sha256
    write_embedded(folder, config, workers=1)
    assert read_split(folder, "train").sha256 == read_split(data, "train").sha256


@pytest.mark.slow
def test_both_sides_are_trained_with_each_seed_and_stored_seeds_are_not_repeated(
    data, tmp_path, started
):
    space = replace(SPACE, resolutions=(128,), windows=(1,), decoder_layers=(2,))
    first = StudyRequest(
        STUDIES["sharing"], tmp_path / "first", data, 1, 1, "cpu", processes=1, space=space
    )
    records = run_study(first)
    base = records[0].model.arch
    started.clear()
    more = replace(first, folder=tmp_path / "more", seeds=2, known=records)
    splits = read_data(more)
    assert [part in cost_of(more, splits).words for part in ("1 x", "2 trainings stored")] == [
        True,
        True,
    ]
    both = run_study(more)  # 9 characters: the digest in the name of the folder
    assert [one.folder.name[:-9] for one in started] == [
        "trained-alone-1",
        "trained-in-the-supernet-1",
    ]
    assert {(one.model.variant, one.seed) for one in both if one.model.arch == base} == {
        (side, seed) for side in (ALONE, SHARED) for seed in (0, 1)
    }
    assert len({one.model.checkpoint_sha256 for one in both}) == 4
    # the supernets alone were evaluated with patch sizes that no step drew
    fresh = [one for one in both if one.model.variant == NEVER_TRAINED]
    assert {one.model.arch.patch for one in fresh}.isdisjoint(space.patches)
    assert {one.model.checkpoint_sha256 for one in fresh} == {
        one.model.checkpoint_sha256 for one in both if one.model.variant == SHARED
    }
    assert all("1 step" in one.model.name for one in both)
    (claim,) = judged(both, claims_named("1"))
    (pair,) = claim.findings  # two seeds: the interval is over the images of one training
    assert claim.word == UNDECIDED and pair.pairs == 1 and "1 other training" in pair.reason
    assert "from the pico backbone" in claim.findings[0].scale.words

    started.clear()
    assert run_study(replace(more, folder=tmp_path / "last", known=both)) == both and not started
    # another number of steps is another training
    ready = prepared(
        replace(more.scale, steps=2), STUDIES["sharing"].trained[0], 0, splits["train"]
    )
    assert stored_records(more, ready, splits["val"]) is None


def test_a_start_keeps_the_backbone_of_the_package_and_draws_the_rest(data):
    split = read_split(data, "train")
    side = STUDIES["sharing"].trained[0]
    start = {name: Scale(1, name, SPACE) for name in STARTS if name != PRETRAINED}
    assert prepared(start["random"], side, 0, split).initial is None
    one, other = (prepared(start["backbone"], side, seed, split) for seed in (0, 1))
    given = load_supernet(PICO_WEIGHTS)[0].state_dict()
    for name, tensor in one.initial.items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, given[name]) and torch.equal(tensor, other.initial[name])
    assert not torch.equal(one.initial["decoder.query_feat"], other.initial["decoder.query_feat"])
    tuned = STUDIES["finetuning"].trained[1]
    ready = prepared(Scale(1, PRETRAINED, SPACE), tuned, 0, split, split)
    assert [before.side.variant for before in ready.earlier()] == [
        SHARED,
        "pretraining of dinov2-pico",
    ]
    whole = prepared(start["weights"], side, 0, split).initial
    assert torch.equal(whole["decoder.query_feat"], given["decoder.query_feat"])
    assert len({one.sha256, other.sha256, prepared(start["random"], side, 0, split).sha256}) == 3
    # the words of a start from packaged weights name these weights
    digits = sha256_file(PICO_WEIGHTS)[:8]
    assert [name for name, scale in start.items() if scale.words.endswith(digits)] == [
        "backbone",
        "weights",
    ]


@pytest.mark.slow
def test_each_form_of_backbone_is_pretrained_once_and_starts_every_seed(
    data, tmp_path, monkeypatch, started
):
    images = EmbeddedConfig(train_images=8, val_images=1, test_images=1)
    request = StudyRequest(
        replace(STUDIES["forms"], trained=STUDIES["forms"].trained[1:2]),
        tmp_path,
        data,
        2,
        1,
        "cpu",
        processes=1,
        start="pretrained",
        pretraining_images=images,
    )
    splits = read_data(request)
    monkeypatch.setattr(claim_costs, "probed", lambda *_: (1.0, 5.0))
    cost = cost_of(request, splits)
    assert cost.seconds == 2 * (1 + 5) + 4  # a pretraining of four steps
    (side,) = request.study.trained
    before = prepared(request.scale, side, 0, splits["train"], splits[PRETRAINING]).pretraining
    planned = {before.sha256}  # by a study before this one
    assert cost_of(request, splits, planned).seconds == 2 * (1 + 5)
    records = run_study(request, splits)
    assert [one.folder.name[:-9] for one in started] == [
        "pretraining-of-dinov3-pico-0",
        "dinov3-pico-pretrained-alike-0",
        "pretraining-of-dinov3-pico-0",
        "dinov3-pico-pretrained-alike-1",
    ]
    first, one, _, other = started
    assert first.folder == started[2].folder and first.recipe.train.steps == 4
    pretrained = load_supernet(first.folder / "supernet.safetensors")[0].state_dict()
    for name in (name for name in one.initial if name.startswith("backbone.")):
        assert torch.equal(one.initial[name], pretrained[name])
        assert torch.equal(other.initial[name], pretrained[name])
    assert not torch.equal(one.initial["decoder.query_feat"], other.initial["decoder.query_feat"])
    words = "1 steps from backbones pretrained alike for 4 steps"
    assert all(record.model.name.endswith(words) for record in records)
    started.clear()
    again = replace(request, known=records)
    assert run_study(again, splits) == records and not started
    # one seed more needs no other pretraining
    assert cost_of(replace(again, seeds=3), splits).seconds == 1 + 5
    elsewhere = replace(again, seeds=3, folder=tmp_path / "elsewhere")
    assert cost_of(elsewhere, splits).seconds == (1 + 5) + 4


@pytest.mark.slow
def test_fine_tuning_starts_from_the_supernet_of_its_seed(data, tmp_path, monkeypatch, started):
    study = STUDIES["finetuning"]
    space = replace(SPACE, resolutions=(128,), windows=(1,), decoder_layers=(2,))
    request = StudyRequest(
        replace(study, trained=study.trained[:2]),
        tmp_path,
        data,
        1,
        3,
        "cpu",
        processes=1,
        space=space,
    )
    monkeypatch.setattr(claim_costs, "probed", lambda *_: (1.0, 5.0))
    splits = read_data(request)
    assert cost_of(request, splits).seconds == (3 + 5) + (2 + 5)
    records = run_study(request, splits)
    (tuned,) = [one for one in records if one.model.variant == TUNED_AFTER]
    supernet, again, further = started
    # the second request finds the supernet complete
    assert supernet.folder == again.folder and supernet.recipe.space == space
    assert (supernet.recipe.train.steps, further.recipe.train.steps) == (3, 2)
    assert further.recipe.space is None and tuned.model.arch.key == study.trained[1].tuned
    weights = load_supernet(supernet.folder / "supernet.safetensors")[0].state_dict()
    assert all(torch.equal(further.initial[name], one) for name, one in weights.items())
    other = prepared(request.scale, study.trained[1], 1, read_split(data, "train"))
    assert other.pretraining.recipe.train.seed == other.recipe.train.seed == 1
    # the pair is the same architecture before and after, whatever else the supernet was tried at
    (claim,) = judged(records, claims_named("3"))
    pairs = {one.comparison.id: one.pairs for one in claim.findings}
    assert pairs == {"3.1": 0, "3.2": 0, "3.3": 1}
    words = STARTS["backbone"]
    for start, pairs in (("weights", (1, 0, 0)), ("random", (0, 0, 1)), ("pretrained", (0, 0, 1))):
        others = [
            replace(
                one, model=replace(one.model, name=one.model.name.replace(words, STARTS[start]))
            )
            for one in records
        ]
        (claim,) = judged(others, claims_named("3"))
        assert tuple(one.pairs for one in claim.findings) == pairs
    supernets = [one for one in records if one is not tuned]
    # without its folder the supernet has to be trained again
    elsewhere = replace(request, known=supernets, folder=tmp_path / "elsewhere")
    assert cost_of(elsewhere, splits).seconds == (2 + 5) + 3
    started.clear()
    assert run_study(replace(request, known=records)) == records and not started


def test_every_side_of_every_study_is_a_recipe_of_its_own():
    scale = Scale(100, "backbone", PICO_SPACE)
    sides = {side.variant: side for study in STUDIES.values() for side in study.trained}
    # a random backbone of the same form, and pretrained backbones, differ in the start alone
    assert len({str(scale.recipe(side, 0)) for side in sides.values()}) == len(sides) - 4
    drawn = scale.recipe(sides[DRAWN], 0)
    steps = [arch for step in range(60) for arch in drawn.archs_of_step(step)]
    assert {(arch.decoder_layers, arch.queries) for arch in steps} == {
        (depth, queries) for depth in (1, 2) for queries in (10, 15, 25)
    }
    assert {arch.backbone for arch in steps} == {scale.recipe(sides[ALONE], 0).preset.arch.backbone}
    assert {arch.key for arch in steps} == {arch.key for arch in drawn.possible_archs()}
    with pytest.raises(InputError, match="search space"):
        replace(drawn, space=None).check()


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (50, 50)])
def test_padding_in_training_is_the_letterbox_of_evaluation(size):
    rng = numpy.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3)).astype(numpy.uint8)
    boxes = numpy.array([[3, 5, 20, 31]], numpy.float32)
    masks = rng.random((1, *size)) < 0.5
    sample = Sample(image, boxes, numpy.zeros(1, numpy.int64), masks, 1)
    padded = PadToSquare()(sample, rng)
    side = max(size)
    assert padded.image.shape == (side, side, 3) and padded.masks.sum() == masks.sum()
    inputs = [
        network_input([picture], (side, side), rule)
        for picture, rule in ((image, LETTERBOX), (padded.image, ANTIALIASED))
    ]
    assert numpy.array_equal(*inputs)
    back = Letterbox(size, (32, 32)).boxes_of_picture(padded.boxes_xyxy / side)
    assert back == pytest.approx(boxes / numpy.array([size[1], size[0]] * 2), abs=1e-6)


def test_padded_pictures_are_detected_where_they_are(data, tmp_path):
    """A model that was never trained with padding still finds objects in padded pictures, so a
    wrong way back from the padded input would leave no AP.
    """
    source = write_domain(tmp_path, "night", DomainConfig(1, 12, 1), workers=1)
    split = read_split(source, "val")
    detector, card, _ = load_supernet(PICO_WEIGHTS)
    best = {}
    for padded in (False, True):
        (found,) = detections(detector, split, [card.arch], padded).values()
        overlaps = []
        for index, image in enumerate(found):
            boxes = torch.as_tensor(split.sample(index, False).boxes_xyxy)
            ours = torch.as_tensor(numpy.asarray(image.boxes_xyxy, numpy.float32))
            overlaps.append(paired_iou(boxes[:, None], ours).amax(1))
        best[padded] = float(torch.cat(overlaps).mean())
    assert best[True] > 0.8 * best[False] > 0.1


def test_mixed_queries_predict_the_same_as_a_whole_and_other_ones_of_fewer(data):
    detector, _, _ = load_supernet(PICO_WEIGHTS)
    split = read_split(data, "val")
    all_of_them, fewer = (Arch.parse(f"r96-p16-w1-d2-q{count}") for count in (25, 10))
    order = mixing(all_of_them, 25)
    assert sorted(order) == list(range(25)) != order
    images = next(evaluation_batches(split, (96, 96), 4)).images
    with torch.inference_mode():
        mixed = with_mixed_queries(detector, 25, order)
        ranked, shuffled = (model(images, all_of_them).logits for model in (detector, mixed))
        assert torch.allclose(ranked[:, order], shuffled, atol=1e-4)
        kept = mixed(images, fewer).logits
        assert not torch.allclose(kept, detector(images, fewer).logits, atol=1e-2)
        same = with_mixed_queries(detector, 25, list(range(25)))
        ours, own = same(images, fewer).logits, detector(images, fewer).logits
        assert torch.allclose(ours, own, atol=1e-4)


def test_queries_dropped_at_random_are_records_of_the_same_weights(data, tmp_path):
    request = StudyRequest(STUDIES["order"], tmp_path, data, space=replace(SPACE, queries=(10, 25)))
    records = run_study(request)
    assert {one.model.variant for one in records} == {UNRANKED}
    assert {one.model.arch.queries for one in records} == {10}
    ranked = run_study(
        replace(request, study=STUDIES["weights"], space=replace(SPACE, queries=(10, 25)))
    )
    (claim,) = judged([*records, *ranked], claims_named("8"))
    (found,) = [one for one in claim.findings if one.comparison.id == "8.4"]
    assert found.pairs == 4 and found.effect.low is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "weights"], "needs a folder"),
        (["--run", "weight", "--out", "x"], "did you mean weights"),
        (["--run", "backbones", "--out", "x", "--start", "weights"], "write --start backbone"),
        (["--run", "order", "--out", "x", "--quick"], "trains nothing"),
        (["--plan"], "no meaning without --run"),
        (["--run", "weights", "--out", "x", "--seeds", "3"], "trains nothing"),
        (["--seeds", "3"], "no meaning without --run"),
        (["--stated", "--run", "weights"], "no meaning with --stated"),
        (["--run", "sharing", "--out", "x", "--seeds", "0"], "whole number from 1"),
        (["--run", "sharing", "--out", "x", "--claim", "5"], "not about claim 5"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        claims_command.main(words)
    assert not list(tmp_path.iterdir())


def test_a_run_of_all_studies_has_one_request_for_each_and_keeps_their_own_start(tmp_path):
    given = ["--run", "all", "--out", str(tmp_path), "--start", "weights", "--quick"]
    requests = claims_command.requests_of(claims_command.parser().parse_args(given), None, given)
    assert [one.study.id for one in requests] == list(STUDIES)
    starts = {one.study.id: one.start for one in requests}
    assert starts.pop("backbones") == "backbone" and starts.pop("forms") == "pretrained"
    assert set(starts.values()) == {"weights"}
    assert {(one.seeds, one.steps) for one in requests} == {(3, QUICK_STEPS)}
    # the Records of the package are known, so that given weights are not evaluated again
    weights = requests[0]
    assert len(weights.known) >= len(PICO_SPACE) and not weights.store.path.exists()


@pytest.fixture
def without_val(data, tmp_path):
    source = tmp_path / "data"
    (source / "annotations").mkdir(parents=True)
    name = "annotations/instances_train.json"
    (source / name).write_bytes((data.root / name).read_bytes())
    (source / "train").symlink_to(data.root / "train")
    return source


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "WITHOUT_VAL"], "val"),
        (["--processes", "256"], "cannot be split over 256 processes"),
    ],
)
def test_the_last_study_is_checked_before_the_first_is_paid(
    words, said, without_val, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(claim_studies, "run_study", lambda *_: pytest.fail("something was spent"))
    monkeypatch.setattr(claim_studies, "write_embedded", lambda *_, **__: data.root)
    monkeypatch.setattr(claim_studies, "write_domain", lambda *_, **__: data.root)
    words = [str(without_val) if word == "WITHOUT_VAL" else word for word in words]
    with pytest.raises(InputError, match=said):
        claims_command.main(["--run", "all", "--out", str(tmp_path / "out"), "--quick", *words])


def test_a_plan_counts_a_training_once_and_no_stored_evaluation(data, tmp_path, monkeypatch):
    monkeypatch.setattr(claim_costs, "probed", lambda *_: (1.0, 5.0))
    request = StudyRequest(STUDIES["sharing"], tmp_path, data, seeds=2, steps=10, device="cpu")
    splits = read_data(request)
    first = cost_of(request, splits)
    assert first.seconds == 2 * 2 * (10 + 5) and len(first.trainings) == 4
    after = cost_of(replace(request, study=STUDIES["dropping"]), splits, first.trainings)
    assert after.seconds == 2 * (10 + 5) and "2 trainings of a study before" in after.words

    given = StudyRequest(STUDIES["order"], tmp_path, data, device="cpu", space=SPACE)
    split = {"val": splits["val"]}
    assert cost_of(given, split).words.startswith("order: 0 configurations")
    given = replace(given, space=replace(SPACE, queries=(10, 25)))
    assert cost_of(given, split).words.startswith("order: 4 configurations")
    records = run_study(given, split)
    assert cost_of(replace(given, known=records[1:], folder=tmp_path / "b"), split).seconds == 1


def test_data_without_val_are_refused_before_any_training(without_val, tmp_path):
    request = StudyRequest(
        STUDIES["sharing"], tmp_path / "out", DataSource.of(without_val), steps=1
    )
    with pytest.raises(InputError, match="val"):
        run_study(request)
    assert not list((tmp_path / "out").glob("*-0"))
