"""What a label means: contiguous indices inside the program, original category ids outside, and the
map between the two, which is stored and printed.

Label conventions changed between upstream releases, which is the most frequent cause of shifted
classes. So the convention of a checkpoint is stated wherever a checkpoint is read. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InputError
from .ranges import is_text

# COCO's 80 detection classes by category id; ids 1..90 have ten holes.
COCO_NAMES = dict(
    zip(
        (id_ for id_ in range(1, 91) if id_ not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)),
        [
            "person",
            "bicycle",
            "car",
            "motorcycle",
            "airplane",
            "bus",
            "train",
            "truck",
            "boat",
            "traffic light",
            "fire hydrant",
            "stop sign",
            "parking meter",
            "bench",
            "bird",
            "cat",
            "dog",
            "horse",
            "sheep",
            "cow",
            "elephant",
            "bear",
            "zebra",
            "giraffe",
            "backpack",
            "umbrella",
            "handbag",
            "tie",
            "suitcase",
            "frisbee",
            "skis",
            "snowboard",
            "sports ball",
            "kite",
            "baseball bat",
            "baseball glove",
            "skateboard",
            "surfboard",
            "tennis racket",
            "bottle",
            "wine glass",
            "cup",
            "fork",
            "knife",
            "spoon",
            "bowl",
            "banana",
            "apple",
            "sandwich",
            "orange",
            "broccoli",
            "carrot",
            "hot dog",
            "pizza",
            "donut",
            "cake",
            "chair",
            "couch",
            "potted plant",
            "bed",
            "dining table",
            "toilet",
            "tv",
            "laptop",
            "mouse",
            "remote",
            "keyboard",
            "cell phone",
            "microwave",
            "oven",
            "toaster",
            "sink",
            "refrigerator",
            "book",
            "clock",
            "vase",
            "scissors",
            "teddy bear",
            "hair drier",
            "toothbrush",
        ],
        strict=True,
    )
)
UNUSED = "(unused)"
_MOST_LABELS = 100_000  # a larger label is a mistake, and all below it would be given a name
# conventions that a caller may state where a file does not
CONVENTIONS = ("from-0", "from-1", "coco")

LABELS_HELP = (
    "what the labels of a file from another program mean, where the file does not state it: from-0 "
    "(upstream since 1.6), from-1 (upstream before 1.6), coco (COCO's category ids), or the names "
    "of all labels in order, separated by commas"
)


def labels_given(text: str | None) -> str | list[str] | None:
    """The value of ``--labels``: an item of :data:`CONVENTIONS`, or the list of all label names,
    which commas separate on the command line.
    """
    if text is None or text in CONVENTIONS:
        return text
    return [name.strip() for name in text.split(",")]


@dataclass(frozen=True)
class Labels:
    """Label i is called ``names[i]`` and means ``category_ids[i]`` of the data; ``note`` states how
    this is known.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    note: str = ""

    def describe(self, limit: int = 12) -> str:
        """One line, e.g. ``labels (from the data): 0 = cat (id 17), 1 = dog (id 18)``."""
        used = [
            (i, name, id_)
            for i, (name, id_) in enumerate(zip(self.names, self.category_ids, strict=True))
            if name != UNUSED
        ]
        shown = ", ".join(f"{i} = {name} (id {id_})" for i, name, id_ in used[:limit])
        more = f", and {len(used) - limit} more" if len(used) > limit else ""
        return f"labels{f' ({self.note})' if self.note else ''}: {shown}{more}"


def coco_labels() -> Labels:
    """The labels of the released COCO checkpoints: 91 logits, each of which is its category id; 0
    and the ten ids that COCO does not use are unused.
    """
    names = tuple(COCO_NAMES.get(id_, UNUSED) for id_ in range(91))
    return Labels(names, tuple(range(91)), "COCO category ids")


def labels_of_checkpoint(
    stated: Mapping[str, Any], num_classes: int, convention: str | Sequence[str] | None = None
) -> Labels:
    """The label map of a checkpoint from another program with ``num_classes`` logits.

    ``stated`` is what the checkpoint states about itself. ``convention`` settles what the file
    leaves open: "from-0" (label i is the i-th name), "from-1" (label 0 is unused), "coco" (91
    logits, label = COCO's category id), or the names of all labels in order. Without
    ``convention``, a file whose convention cannot be proved raises an :class:`InputError` that
    names the choices.
    """
    names = _names_of(stated)
    if convention is not None and not isinstance(convention, str):
        if len(convention) != num_classes:
            message = f"{len(convention)} names for {num_classes} labels"
            raise InputError(
                message,
                hint=f"name each label in order, and write {UNUSED!r} for a label without a class",
            )
        return _padded(tuple(str(name) for name in convention), num_classes, 0, "names as given")
    if convention not in (None, *CONVENTIONS):
        raise InputError(
            f"unknown labels {convention!r}",
            hint=f"choose {', '.join(CONVENTIONS)}, or give the names",
        )
    if convention == "coco":
        if num_classes != len(coco_labels().names):
            raise InputError(
                f"COCO's category ids need 91 logits, the file has {num_classes}",
                hint="choose from-0 or from-1",
            )
        return coco_labels()
    if convention is not None:
        if not names:
            raise InputError(
                "the file names no classes", hint="give the names of all labels in order"
            )
        return _padded(
            names,
            num_classes,
            CONVENTIONS.index(convention),
            f"names in the file, labels {convention} as given",
        )
    return _stated(stated, names, num_classes)


def _stated(stated: Mapping[str, Any], names: tuple[str, ...], num_classes: int) -> Labels:
    """The label map that the file itself proves."""
    if not names:
        if num_classes == 91:
            return coco_labels()
        return Labels(
            tuple(f"class {i}" for i in range(num_classes)),
            tuple(range(num_classes)),
            "the file names no classes",
        )
    if (
        num_classes == 91
        and len(names) == len(COCO_NAMES)
        and set(names) == set(COCO_NAMES.values())
    ):
        return coco_labels()
    if not stated.get("class_names"):  # each label has its number in id2label
        return _padded(names, num_classes, 0, "id2label of config.json")
    if len(names) == num_classes:
        ids = tuple(int(id_) for id_ in stated.get("category_ids") or range(num_classes))
        if len(ids) != num_classes or len(set(ids)) != num_classes:
            raise InputError(
                f"{len(set(ids))} category ids for {num_classes} class names",
                hint="save the model again",
            )
        return Labels(names, ids, "names in the file")
    if len(names) > num_classes:
        raise InputError(
            f"{len(names)} class names for {num_classes} logits",
            hint="give the names of all labels in order",
        )
    age = _age(stated)
    if age is not None and (
        age >= _FILTERED or (age >= _CONTIGUOUS and len(names) == num_classes - 1)
    ):
        doubt = (
            ""
            if age >= _FILTERED
            else "; from-1 if its data had Roboflow's grouping category and num_classes was set by "
            "hand"
        )
        return _padded(
            names, num_classes, 0, f"names in the file, labels from 0 as upstream >= 1.6{doubt}"
        )
    if age is not None and age < _REMAPPED and len(names) == num_classes - 1:
        return _padded(names, num_classes, 1, "names in the file, labels from 1 as upstream < 1.5")
    raise InputError(
        f"{len(names)} class names for {num_classes} logits, and the file does not say whether "
        f"labels count from 0 or from 1",
        hint="state the labels: from-0 (upstream since 1.6), from-1 (before, and up to 1.9.3 with "
        "Roboflow's grouping category), or the names of all labels in order; RFDETR(size, "
        "weights=FILE, labels=...).save(...) writes a file that states them",
    )


def _names_of(stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in the order of labels: upstream's ``class_names``, or ``id2label`` of a
    transformers configuration.
    """
    names = stated.get("class_names") or ()
    if not names and isinstance(stated.get("id2label"), Mapping):
        of_label = {int(label): str(name) for label, name in stated["id2label"].items()}
        if not all(0 <= label < _MOST_LABELS for label in of_label):
            raise InputError(
                f"id2label of config.json has a label that is not from 0 to {_MOST_LABELS - 1}",
                hint="give the names of all labels in order",
            )
        names = [of_label.get(label, UNUSED) for label in range(max(of_label, default=-1) + 1)]
    if isinstance(names, str):
        names = [names]
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names, key=int)]
    found = tuple(str(name) for name in names)
    if not all(map(is_text, found)):
        raise InputError(
            "the file names a class that has no printable characters",
            hint="give the names of all labels in order",
        )
    return found


def _padded(names: tuple[str, ...], num_classes: int, first: int, note: str) -> Labels:
    """``names`` from label ``first`` on; the labels before and after are unused."""
    after = num_classes - first - len(names)
    if after < 0:
        raise InputError(
            f"{len(names)} class names from label {first} on do not fit {num_classes} logits"
        )
    return Labels((UNUSED,) * first + names + (UNUSED,) * after, tuple(range(num_classes)), note)


# Upstream's versions by what a label means: before 1.5 the category id itself; then contiguous
# labels, at first with a label for
# Roboflow's grouping category; since 1.6 upstream's program names label i by the i-th name; since
# 1.9.4 no label is lost.
_REMAPPED = (1, 5)
_CONTIGUOUS = (1, 6)
_FILTERED = (1, 9, 4)
# Settings that came with a version, for files that do not state their version (upstream writes it
# since 1.7). Newest first.
_CAME_WITH = (
    (
        _CONTIGUOUS,
        (
            "eval_interval",
            "accelerator",
            "train_log_on_step",
            "log_per_class_metrics",
            "model_name",
            "amp_dtype",
        ),
    ),
    (_REMAPPED, ("aug_config", "progress_bar", "mlflow", "clearml")),
    ((1, 0), ("cutoff_epoch", "set_cost_class", "do_benchmark", "drop_mode", "force_no_pretrain")),
)


def _age(stated: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The version of upstream that wrote a file, or the oldest version that can have written it;
    None if unknown.
    """
    if match := re.match(r"\d+(\.\d+)*", str(stated.get("rfdetr_version") or "")):
        return tuple(int(part) for part in match[0].split("."))
    return next(
        (version for version, names in _CAME_WITH if any(name in stated for name in names)), None
    )
