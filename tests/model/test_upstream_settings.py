"""What upstream's settings and class names in a file mean, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from rfdetr_repro.model.checkpoints.upstream import IMPLEMENTED, check_settings
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import COCO_NAMES, UNUSED, coco_labels, labels_of_checkpoint

SHAPES = {"masks": True, "ffn": 2048, "vit_depth": 12}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bbox_reparam", False),
        ("lite_refpoint_refine", False),
        ("two_stage", False),
        ("layer_norm", False),
        ("rms_norm", True),
        ("decoder_norm", "Identity"),
        ("num_channels", 4),
        ("mask_downsample_ratio", 2),
        ("use_grouppose_keypoints", True),
        ("num_keypoints_per_class", [0, 17]),
        ("num_decoder_registers", 4),
        ("dual_projector", True),
        ("encoder", "dinov2_registers_windowed_small"),
        ("encoder", "dinov2_windowed_large"),
        ("segmentation_head", False),
        ("dim_feedforward", 1024),
        ("window_block_indexes", [0, 3]),
    ],
)
def test_settings_that_change_the_meaning_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        check_settings({"out_feature_indexes": [3, 6, 9, 12], name: value}, {}, SHAPES)


def test_settings_of_the_future_are_refused_unless_they_are_off() -> None:
    check_settings({}, {"shiny_new_thing": False, "license": "Apache-2.0", "compile": True}, SHAPES)
    with pytest.raises(InputError, match="shiny_new_thing=3"):
        check_settings({}, {"shiny_new_thing": 3}, SHAPES)


def test_what_released_files_say_is_implemented() -> None:
    """Settings of the published files, as upstream 1.4.1 writes them for every size."""
    said = {name: values[0] for name, values in IMPLEMENTED.items()}
    said |= {
        "window_block_indexes": [0, 1, 2, 4, 5, 7, 8, 10, 11],
        "out_feature_indexes": [3, 6, 9, 12],
        "dim_feedforward": 2048,
    }
    check_settings({**said, "segmentation_head": True, "num_keypoints_per_class": []}, {}, SHAPES)


# -- labels ----------------------------------------------------------------------------------------

NAMES = ["cat", "dog"]
# fields of upstream's own argument parser
OLD = {"class_names": NAMES, "cutoff_epoch": 0, "set_cost_class": 2}


@pytest.mark.parametrize(
    ("said", "logits", "expected"),
    [
        (OLD, 3, (UNUSED, "cat", "dog")),
        ({"class_names": NAMES, "rfdetr_version": "1.8.2"}, 3, ("cat", "dog", UNUSED)),
        ({"class_names": NAMES, "rfdetr_version": "1.11.2"}, 3, ("cat", "dog", UNUSED)),
        ({"class_names": NAMES, "rfdetr_version": "1.11.2"}, 6, ("cat", "dog", *[UNUSED] * 4)),
        # 1.6: without a version
        (
            {"class_names": NAMES, "accelerator": "auto", "eval_interval": 1},
            3,
            ("cat", "dog", UNUSED),
        ),
        ({"class_names": NAMES}, 2, ("cat", "dog")),
        ({"id2label": {"0": "cat", "1": "dog"}}, 2, ("cat", "dog")),
        ({"id2label": {0: "cat", 2: "dog"}}, 4, ("cat", UNUSED, "dog", UNUSED)),
    ],
)
def test_proved_conventions(said: dict[str, Any], logits: int, expected: tuple[str, ...]) -> None:
    assert labels_of_checkpoint(said, logits).names == expected


@pytest.mark.parametrize(
    ("said", "logits"),
    [
        ({"class_names": NAMES}, 3),  # nothing tells the version
        # 1.5: contiguous labels, with or without a grouping category before them
        ({**OLD, "progress_bar": False}, 3),
        ({**OLD, "class_names": NAMES}, 4),
        # a grouping category took one label, which one is not told
        ({"class_names": NAMES, "rfdetr_version": "1.8.2"}, 4),
        ({"class_names": ["person", "car"]}, 91),
    ],
)
def test_conventions_that_cannot_be_proved_are_asked_for(said: dict[str, Any], logits: int) -> None:
    with pytest.raises(InputError, match=r"from-0.*from-1"):
        labels_of_checkpoint(said, logits)
    assert labels_of_checkpoint(said, logits, "from-0").names[:2] == tuple(said["class_names"])
    assert labels_of_checkpoint(said, logits, "from-1").names[1:3] == tuple(said["class_names"])


@pytest.mark.parametrize(
    "said",
    [
        {"id2label": {"0": "cat", str(10**12): "dog"}},  # would need a name for every label below
        {"id2label": {"-1": "cat"}},
        {"id2label": {"0": ""}},
        {"class_names": ["cat", "\x1b[2J"]},
    ],
)
def test_labels_that_cannot_be_meant_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="give the names of all labels"):
        labels_of_checkpoint(said, 2)


def test_given_labels() -> None:
    assert labels_of_checkpoint({}, 3, ["a", "b", "c"]).names == ("a", "b", "c")
    assert labels_of_checkpoint({}, 91, "coco") == coco_labels()
    assert labels_of_checkpoint({**OLD, "class_names": dict(COCO_NAMES)}, 91) == coco_labels()
    for convention, logits in (("from-2", 3), ("coco", 3), (["a", "b"], 1)):
        with pytest.raises(InputError):
            labels_of_checkpoint({"class_names": NAMES}, logits, convention)
