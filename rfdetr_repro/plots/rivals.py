"""The counterpart of the paper's Figure 6 for several models: their predictions side by side on the
same images, from the files that ``predict`` or any COCO evaluation wrote.

Classes are told apart by name, because two models may number them differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json

from .layout import LINE, fitted, foot_height_in, foot_line, heading, text_width_in
from .style import BLACK, GREY, PALETTE, WIDTH_IN, drawable, ink

MOST_IMAGES = 6
_MOST_SIDE = 900  # px of a drawn image; a larger image is reduced
_MARGIN = 0.02
_HEAD_IN = 0.46
_TITLE_IN = 0.2
_GAP_IN = 0.08
_LEGEND_PT = 7.0
_ALPHA = 0.4
_TRUTH = "ground truth"
_HINT = "give the predictions.json of the command predict, or a COCO results file"


@dataclass(frozen=True)
class Found:
    """One object: box in pixels (left, top, right, bottom), class, score in 0..1 (None for ground
    truth), and a COCO RLE of its mask if there is one.
    """

    box: tuple[float, float, float, float]
    name: str
    score: float | None = None
    rle: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Predictions:
    """What one model found: file name of an image -> its objects, and the image's path where the
    file tells it.
    """

    name: str
    objects: dict[str, list[Found]]
    paths: dict[str, Path]


@dataclass(frozen=True)
class Truth:
    """A COCO annotation file: names of images and classes by id, and the objects."""

    images: dict[Any, str]
    classes: dict[Any, str]
    objects: dict[str, list[Found]]


@dataclass(frozen=True)
class Compared:
    """An image, uint8 (H, W, 3), with the objects of each column on it."""

    pixels: NDArray[np.uint8]
    scale: float  # of the drawn image by the original
    size: tuple[int, int]  # (H, W) of the original
    columns: list[list[Found]]


def read_truth(path: str | Path) -> Truth:
    """Reads a COCO annotation file. Raises :class:`InputError` for anything else."""
    content = read_json(path)
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) for part in parts
    ):
        raise InputError(
            "not a COCO annotation file", path, f"it must hold the lists {', '.join(parts)}"
        )
    try:
        images = {row["id"]: Path(row["file_name"]).name for row in content["images"]}
        classes = {row["id"]: str(row["name"]) for row in content["categories"]}
        objects: dict[str, list[Found]] = {}
        for row in content["annotations"]:
            if not row.get("iscrowd"):
                found = Found(_corners(row["bbox"]), classes[row["category_id"]])
                objects.setdefault(images[row["image_id"]], []).append(found)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a broken COCO annotation file ({error!r})", path) from error
    return Truth(images, classes, objects)


def read_predictions(path: str | Path, name: str, truth: Truth | None = None) -> Predictions:
    """Reads the ``predictions.json`` of the command predict, or a COCO results file, for which
    ``truth`` names images and classes. Raises :class:`InputError` for anything else.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("not a file of predictions", path, _HINT)
    try:
        if any("objects" in row for row in rows):
            # of a file that could not be read, and of a video, there are no objects here
            return _of_predict([row for row in rows if "objects" in row], name)
        return _of_results(rows, name, truth, path)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a file of predictions ({error!r})", path, _HINT) from error


def _of_predict(rows: Sequence[dict[str, Any]], name: str) -> Predictions:
    objects: dict[str, list[Found]] = {}
    paths = {}
    for row in rows:
        image = Path(row["image"]).name
        paths[image] = Path(row.get("path") or row["image"])
        objects[image] = [
            Found(
                _box(item["box_xyxy"]),
                str(item.get("class") or f"class {item['category_id']}"),
                float(item["score"]),
                item.get("mask_rle"),
            )
            for item in row["objects"]
        ]
    return Predictions(name, objects, paths)


def _of_results(
    rows: Sequence[dict[str, Any]], name: str, truth: Truth | None, path: str | Path
) -> Predictions:
    if truth is None:
        raise InputError(
            "a COCO results file names neither images nor classes",
            path,
            "give its annotation file with --annotations",
        )
    objects: dict[str, list[Found]] = {image: [] for image in truth.images.values()}
    for row in rows:
        mask = row.get("segmentation")
        found = Found(
            _corners(row["bbox"]),
            truth.classes.get(row["category_id"], f"class {row['category_id']}"),
            float(row["score"]),
            mask if isinstance(mask, dict) and isinstance(mask.get("counts"), str) else None,
        )
        objects[truth.images[row["image_id"]]].append(found)
    return Predictions(name, objects, {})


def _box(values: Sequence[Any]) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, values)
    return left, top, right, bottom


def _corners(values: Sequence[Any]) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, values)
    return left, top, left + width, top + height


def default_name(path: Path) -> str:
    """What a model is called without a name: the folder of a ``predictions.json``, else the file's
    stem.
    """
    return path.resolve().parent.name if path.stem == "predictions" else path.stem


def compared(
    models: Sequence[Predictions],
    truth: Truth | None = None,
    folder: str | Path | None = None,
    most: int = 3,
) -> list[Compared]:
    """The first images, at most ``most``, that every model predicted and on which anything was
    found; ``folder`` holds images whose paths the files do not tell.

    Raises :class:`InputError` where no image is in all files, and for an image that is missing.
    """
    shared = [
        image
        for image in models[0].objects
        if all(image in model.objects for model in models)
        and any(model.objects[image] for model in models)
    ]
    if not shared:
        raise InputError(
            "no image with a predicted object is in every file of predictions",
            hint="predict the same images with every model",
        )
    pictures = []
    for image in shared[: min(most, MOST_IMAGES)]:
        path = _path(image, models, folder)
        try:
            with Image.open(path) as opened:
                whole = ImageOps.exif_transpose(opened).convert("RGB")
        except OSError as error:
            raise InputError(f"not an image ({error})", path) from error
        size = (whole.height, whole.width)
        scale = min(1.0, _MOST_SIDE / max(size))
        if scale < 1:
            whole = whole.resize((round(scale * size[1]), round(scale * size[0])))
        columns = [truth.objects.get(image, [])] if truth is not None else []
        columns += [model.objects[image] for model in models]
        pictures.append(Compared(np.asarray(whole), scale, size, columns))
    return pictures


def _path(image: str, models: Sequence[Predictions], folder: str | Path | None) -> Path:
    places = [Path(folder) / image] if folder is not None else []
    places += [model.paths[image] for model in models if image in model.paths]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(
            "the image was not found",
            places[0] if places else image,
            "give the folder of the images with --images",
        )
    return found


def _row_in(picture: Compared, columns: int) -> float:
    """Height of the panels of one image."""
    height, width = picture.pixels.shape[:2]
    return min(_column_in(columns) * height / width, 4.0)


def _column_in(columns: int) -> float:
    return ((1 - 2 * _MARGIN) * WIDTH_IN - (columns - 1) * _GAP_IN) / columns


def _classes(pictures: Sequence[Compared], least: float) -> list[str]:
    """The classes of what is drawn, the most frequent first."""
    counts = Counter(
        one.name
        for picture in pictures
        for column in picture.columns
        for one in column
        if one.score is None or one.score >= least
    )
    return [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for each of the most frequent classes; grey for all the others."""
    own = dict(zip(names, PALETTE[:-1], strict=False))
    return {name: own.get(name, GREY) for name in names}


def _legend(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The lines of the legend: (words, colour) pairs that fit side by side."""
    colors = _colors(names)
    entries = [(f"■ {drawable(name)}", colors[name]) for name in names if colors[name] != GREY]
    others = len(names) - len(entries)
    if others:
        entries.append((f"■ {others} other class{'' if others == 1 else 'es'}", GREY))
    room = (1 - 2 * _MARGIN) * WIDTH_IN
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0.0
    for words, color in entries:
        words = fitted(words, room / 2, _LEGEND_PT)
        width = text_width_in(words, _LEGEND_PT) + 0.16
        if lines[-1] and used + width > room:
            lines.append([])
            used = 0.0
        lines[-1].append((words, color))
        used += width
    return lines


def _foot(least: float) -> str:
    return (
        f"Boxes with a score of at least {least:g}, from files of predictions. The paper's Figure "
        f"6 (arXiv 2511.09554) exists as an image only."
    )


def rivals_height_in(pictures: Sequence[Compared], least: float = 0.3) -> float:
    """Height in inches of :func:`draw_rivals`."""
    columns = len(pictures[0].columns)
    rows = sum(_TITLE_IN + _row_in(picture, columns) + _GAP_IN for picture in pictures)
    legend = len(_legend(_classes(pictures, least))) * _LEGEND_PT * LINE / 72
    return _HEAD_IN + rows + legend + 0.08 + foot_height_in(_foot(least), _MARGIN)


def draw_rivals(
    figure: FigureBase,
    pictures: Sequence[Compared],
    names: Sequence[str],
    least: float = 0.3,
) -> None:
    """Draws every image once per column, the columns called ``names``; ``least``: the lowest score
    that is drawn.
    """
    height = rivals_height_in(pictures, least)
    columns = len(names)
    column = _column_in(columns)
    heading(figure, "The same images, several models", _MARGIN)
    classes = _classes(pictures, least)
    colors = _colors(classes)
    top = height - _HEAD_IN
    for picture in pictures:
        row = _row_in(picture, columns)
        for number, (name, objects) in enumerate(zip(names, picture.columns, strict=True)):
            shown = [one for one in objects if one.score is None or one.score >= least]
            left = _MARGIN * WIDTH_IN + number * (column + _GAP_IN)
            words = fitted(f"{drawable(name)}: {len(shown)}", column, 7.5)
            place = (top - _TITLE_IN + 0.06) / height
            figure.text(left / WIDTH_IN, place, words, fontsize=7.5, color=BLACK)
            corner = (left / WIDTH_IN, (top - _TITLE_IN - row) / height)
            axes = figure.add_axes((*corner, column / WIDTH_IN, row / height))
            _panel(axes, picture, shown, colors)
        top -= _TITLE_IN + row + _GAP_IN
    _write_legend(figure, _legend(classes), top, height)
    foot_line(figure, _foot(least), _MARGIN)


def _write_legend(
    figure: FigureBase, lines: Sequence[Sequence[tuple[str, str]]], top: float, height: float
) -> None:
    for line in lines:
        top -= _LEGEND_PT * LINE / 72
        left = _MARGIN * WIDTH_IN
        for words, color in line:
            place = (left / WIDTH_IN, top / height)
            mark, _, name = words.partition(" ")
            figure.text(*place, mark, fontsize=_LEGEND_PT, color=color)
            after = (place[0] + text_width_in(f"{mark} ", _LEGEND_PT) / WIDTH_IN, place[1])
            figure.text(*after, name, fontsize=_LEGEND_PT, color=ink(color))
            left += text_width_in(words, _LEGEND_PT) + 0.16


def _panel(
    axes: Axes, picture: Compared, objects: Sequence[Found], colors: Mapping[str, str]
) -> None:
    axes.set_axis_off()
    axes.imshow(_with_masks(picture, objects, colors), interpolation="antialiased", aspect="equal")
    for one in objects:
        left, top, right, bottom = (picture.scale * value - 0.5 for value in one.box)
        axes.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=colors[one.name],
                linewidth=1.2,
            )
        )
    rows, across = picture.pixels.shape[:2]
    axes.set(xlim=(-0.5, across - 0.5), ylim=(rows - 0.5, -0.5))


def _with_masks(
    picture: Compared, objects: Sequence[Found], colors: Mapping[str, str]
) -> NDArray[np.uint8]:
    """The image with the masks of the objects laid over it."""
    blended = picture.pixels.astype(np.float32)
    for one in objects:
        if one.rle is None:
            continue
        if list(one.rle.get("size", ())) != list(picture.size):
            raise InputError(
                f"a mask of {one.rle.get('size')} on an image of {list(picture.size)} pixels"
            )
        whole = Image.fromarray(decode_rle(str(one.rle.get("counts", "")), picture.size))
        shape = picture.pixels.shape[1::-1]
        inside = np.asarray(whole.resize(shape, Image.Resampling.NEAREST), dtype=bool)
        color = 255 * np.asarray(to_rgb(colors[one.name]), np.float32)
        blended[inside] = (1 - _ALPHA) * blended[inside] + _ALPHA * color
    return blended.round().astype(np.uint8)


def decode_rle(counts: str, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask, 0 or 1 of shape (H, W), of a compressed COCO run-length code: runs alternate, the
    first outside, down the columns; from the third on, a run is stored as its difference to the run
    before the last, in groups of 5 bits. Raises :class:`InputError` for a code of another size.

    Source: the format of pycocotools, with which a test compares. The evaluators that decode it too
    are no part of what figures may load.
    """
    runs: list[int] = []
    value = 0
    shift = 0
    for letter in counts:
        bits = ord(letter) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    height, width = size_hw
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise InputError(f"the runs of a mask do not add up to {height} x {width} pixels")
    inside = np.zeros(len(runs), np.uint8)
    inside[1::2] = 1
    return np.ascontiguousarray(np.repeat(inside, runs).reshape(width, height).T)
