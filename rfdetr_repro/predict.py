"""Detects objects in pictures and videos, draws boxes and masks, and writes JSON:

python -m rfdetr_repro.predict PICTURE|FOLDER|PATTERN|VIDEO|CAMERA... --model MODEL \
    [--tiles auto] [--threshold 0.3]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rfdetr_repro.bench.command.wishes import OUTPUT_WISHES, add_output_wishes
from rfdetr_repro.data.media import Medium, media
from rfdetr_repro.evaluation.tiles_command import add_tiles, tiling_of
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arguments import MOST_THREADS, ArgumentParser, number, output_folder, whole
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.spec.files import atomic_path, write_atomic
from rfdetr_repro.spec.labels import labels_given
from rfdetr_repro.spec.presets import parse_arch
from rfdetr_repro.spec.protocol import BACKENDS
from rfdetr_repro.spec.resize_rules import ANTIALIASED, describe, with_antialias
from rfdetr_repro.spec.shared_arguments import (
    add_antialias,
    add_architecture,
    add_file_facts,
    add_model,
)
from rfdetr_repro.spec.unfinished import temporary_folder

if TYPE_CHECKING:
    from rfdetr_repro.evaluation.tiles import Tiling
    from rfdetr_repro.export.deployed import FileFacts
    from rfdetr_repro.model.checkpoints.native import ModelCard
    from rfdetr_repro.runtime.predictors import Predictor
    from rfdetr_repro.spec.arch import Arch
    from rfdetr_repro.spec.model_source import ModelSource

log = logging.getLogger(__name__)

JSON_FILE = "predictions.json"
_QUIET_TILES = 50  # more tiles of one picture have a progress bar


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.predict",
        description=(
            "Detects objects in pictures and videos, draws boxes and masks at the size of the "
            "picture, and writes predictions.json. A file that cannot be read is reported and "
            "left out, and the exit code is 1. Dense pictures have labels for the best object of "
            "each class only."
        ),
        examples=(
            "predict IMAGE.jpg --model runs/mine",
            "predict IMAGES --model FILE.pth --size nano --threshold 0.5 --out predictions",
            "predict VIDEO.mp4 --model model.onnx --every 5",
            "predict LARGE.tif --model runs/mine --tiles auto",
        ),
    )
    add = arguments.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="pictures, videos, folders (whose pictures and videos are all used, without "
        "sub-folders), patterns such as 'shots/**/*.jpg', the number of a camera, or - for names "
        "on the standard input, one a line",
    )
    add_model(arguments, "--checkpoint")
    add_file_facts(arguments)
    add_architecture(arguments)
    add(
        "--threshold",
        type=number(0, 1),
        default=0.3,
        help="lowest score, in 0..1, of detections that are drawn and written",
    )
    add(
        "--out",
        type=output_folder,
        default=Path("predictions"),
        help="folder to write predictions.json and the drawn pictures and videos to",
    )
    add(
        "--backend",
        choices=BACKENDS,
        help="runtime that runs a deployed file (default: the file's own)",
    )
    add(
        "--threads",
        type=whole(1, MOST_THREADS),
        default=2,
        help="number of threads of the runtime of a deployed file; weights run in PyTorch, with "
        "PyTorch's own number of threads",
    )
    add_tiles(arguments.add_argument_group("large pictures with small objects"))
    add_antialias(arguments)
    video = arguments.add_argument_group("videos and cameras")
    video.add_argument(
        "--every", type=whole(1, 10**6), default=1, metavar="N", help="look at every N-th frame"
    )
    video.add_argument(
        "--frames",
        type=whole(1, 10**9),
        metavar="N",
        help="stop after N frames that were looked at (default: at the end, or at Ctrl-C)",
    )
    add_output_wishes(
        arguments.add_argument_group(
            "how to read an ONNX file without a manifest, where the file itself does not tell"
        )
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Detects objects in what ``argv`` names.

    Raises :class:`InputError` for bad arguments or a bad model before anything is written, and
    :class:`StatedFailure` at the end if a file could not be read.
    """
    args = parser().parse_args(argv)
    asked = None if args.arch is None else parse_arch(args.arch)
    tiling = tiling_of(args)
    found = media(args.images)
    names = drawn_names([one.path for one in found])
    _check_files(found, [args.out / name for name in names])
    # torch loads slowly, so the arguments are checked first
    predictor = _predictor(args, asked)
    log.info(f"{predictor.what}; {describe(predictor.resize)}")
    work = Work(predictor, args.threshold, tiling, args.out, args.every, args.frames)
    entries: list[dict[str, Any]] = []
    try:
        for medium, name in zip(found, names, strict=True):
            work.look_at(medium, name, entries)
    finally:  # also after Ctrl-C
        if entries:
            write_atomic(args.out / JSON_FILE, json.dumps(entries, indent=1))
    failed = sum("error" in entry for entry in entries)
    if failed:
        raise StatedFailure(
            f"{failed} of {len(entries)} files could not be read to the end; "
            f"{args.out / JSON_FILE} names them"
        )


def _check_files(found: Sequence[Medium], drawn: Sequence[Path]) -> None:
    """Raises :class:`InputError` where a drawn file would replace an input, and for videos without
    PyAV.
    """
    from rfdetr_repro.data.video import require_av

    inputs = {Path(os.path.abspath(one.path)) for one in found}
    for path, medium in zip(drawn, found, strict=True):
        written = [path] if medium.kind == "picture" else _files_of_video(path)
        if same := [one for one in written if Path(os.path.abspath(one)) in inputs]:
            raise InputError(
                "the drawn file would replace the file that is read",
                same[0],
                "choose another folder with --out",
            )
    if any(medium.kind != "picture" for medium in found):
        require_av()


def _files_of_video(name: Path) -> list[Path]:
    return [name.with_suffix(".mp4"), name.with_suffix(".jsonl")]


def drawn_names(pictures: Sequence[Path]) -> list[Path]:
    """File name of each drawn image in the output folder: ``NAME.png``.

    Images with the same name keep their folders below the nearest common folder, and their suffix:
    ``cam1/0001.jpg.png``.
    """
    stems = Counter(path.stem.casefold() for path in pictures)
    names: list[Path] = []
    taken: set[str] = set()
    shared = [
        Path(os.path.abspath(path)).parent for path in pictures if stems[path.stem.casefold()] > 1
    ]
    common = Path(os.path.commonpath(shared)) if shared else Path()
    for path in pictures:
        name = Path(f"{path.stem}.png")
        if stems[path.stem.casefold()] > 1:
            name = Path(os.path.abspath(path)).parent.relative_to(common) / f"{path.name}.png"
        number = 2
        while str(name).casefold() in taken:
            name = name.with_name(f"{path.name}-{number}.png")
            number += 1
        taken.add(str(name).casefold())
        names.append(name)
    return names


# -- models ----------------------------------------------------------------------------------------


def _predictor(args: argparse.Namespace, asked: Arch | None) -> Predictor:
    """The model of the arguments: weights in PyTorch, a deployed file by its own runtime."""
    from rfdetr_repro.export.deployed import FileFacts, backend_of_file, deployed, file_of_run
    from rfdetr_repro.runtime.backends import check_backend, open_session
    from rfdetr_repro.runtime.predictors import FilePredictor
    from rfdetr_repro.spec.model_source import ModelSource

    model = args.model
    facts = FileFacts(
        args.size,
        labels_given(args.labels),
        asked,
        args.shape,
        args.antialias,
        {name: getattr(args, name) for name in OUTPUT_WISHES},
    )
    if model.kind == "run" and not facts.of_weights:
        path, why = file_of_run(model.place)
        log.info(f"{model}: {why}")
        model = ModelSource.at(path)
    if model.kind in ("size", "weights", "run") and args.backend in (None, "torch"):
        return _weights(model, facts)
    if args.backend:
        check_backend(args.backend)
    to = "torch" if (args.backend or "").startswith("torch") else "onnx"
    with temporary_folder() as folder:
        artifact = deployed(model, folder, to=to, facts=facts)
        backend = args.backend or backend_of_file(artifact)
        if args.backend is None:
            check_backend(backend)
        resize = with_antialias(artifact.manifest.resize, args.antialias)
        artifact = replace(artifact, manifest=replace(artifact.manifest, resize=resize))
        session = open_session(artifact, backend, threads=args.threads)
    return FilePredictor(session, artifact.path.name)


def _weights(model: ModelSource, facts: FileFacts) -> Predictor:
    from rfdetr_repro.export.deployed import loaded_weights
    from rfdetr_repro.runtime.predictors import WeightsPredictor

    found = loaded_weights(model, facts)
    if why := outside_of_training(found.detector.arch, found.card):
        log.warning(why)
    return WeightsPredictor(found.detector, found.card, found.resize, found.path.name)


def outside_of_training(arch: Arch, card: ModelCard) -> str:
    """A sentence that says how ``arch`` lies outside what the weights were trained as; empty where
    it does not.
    """
    if card.space is None:
        if arch.backbone == card.arch.backbone:
            return ""
        return (
            f"the weights were trained as {card.arch.key} only; {arch.key} may detect little or "
            f"nothing"
        )
    trained = card.space.training_archs()
    if arch.backbone in {one.backbone for one in trained}:
        return ""
    return (
        f"{arch.key} lies outside the trained space (resolutions "
        f"{_listed(card.space.resolutions)}, patches {_listed(card.space.patches)}, windows "
        f"{_listed(card.space.windows)}); it may detect little or nothing"
    )


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


# -- work ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What is done with each file. ``every`` and ``most``: which frames of videos."""

    predictor: Predictor
    threshold: float
    tiling: Tiling | None
    out: Path
    every: int = 1
    most: int | None = None

    def look_at(self, medium: Medium, name: Path, entries: list[dict[str, Any]]) -> None:
        """Writes the drawn form of a file, and adds its entry in the JSON to ``entries``. A file
        that cannot be read has an ``error``, which is also printed. The entry of a video or camera
        that Ctrl-C ends is that of the frames until then.
        """
        rest: dict[str, Any] = {}
        ended = False
        try:
            if medium.kind == "picture":
                rest = self._picture(medium, name)
            else:
                self._video(medium, name, rest)
            ended = True
        except Unreadable as error:
            print(f"error: {error}", file=sys.stderr)
            rest["error"] = str(error)
        finally:
            if ended or rest:
                entries.append({"image": medium.path.name, "path": str(medium.path)} | rest)

    def _picture(self, medium: Medium, name: Path) -> dict[str, Any]:
        from rfdetr_repro.data.decoding import decode, decode_reduced

        with _reading():
            decoded = decode_reduced(medium.path)
            exact = self.predictor.resize == ANTIALIASED and self.tiling is None
            if not exact and not decoded.is_whole:
                pixels = decode(medium.path)
                decoded = type(decoded)(pixels, pixels.shape[:2])
        if not decoded.is_whole:
            height, width = decoded.pixels.shape[:2]
            log.info(f"{medium.name}: drawn at {height}x{width} pixels, because it is very large")
        found = self._detected(decoded)
        drawn = self.out / name
        height, width = decoded.size_hw
        canvas = self._drawn(decoded, found)
        del decoded  # before the encoder needs memory of its own
        _save_png(canvas, drawn)
        objects = self._objects(found)
        print(f"{medium.name}: {len(objects)} objects -> {drawn}", flush=True)
        return {
            "width": width,
            "height": height,
            "objects": objects,
            "drawn": name.as_posix(),
        }

    def _detected(self, decoded: Any) -> Any:
        """Detections of a picture, in tiles where the picture has several."""
        if self.tiling is None:
            return self.predictor(decoded, self.threshold)
        from rfdetr_repro.evaluation.tiles import Part, Window, detect_in_tiles

        windows = self.tiling.windows(decoded.size_hw, self.predictor.input_hw)
        if len(windows) == 1:
            return self.predictor(decoded, self.threshold)

        def detect(window: Window) -> Part:
            tile = decoded.pixels[window.top : window.bottom, window.left : window.right]
            seen = self.predictor(tile, self.threshold)
            return Part(seen.boxes_xyxy, seen.scores, seen.labels, seen.masks)

        height, width = windows[0].hw
        log.info(f"{len(windows)} tiles of {height}x{width} pixels")
        many = len(windows) > _QUIET_TILES
        shown = logs.progress_bar(windows, "tiles", "tile") if many else windows
        return detect_in_tiles(windows, detect, decoded.size_hw, shown)

    def _drawn(self, decoded: Any, found: Any) -> Any:
        import numpy as np

        from rfdetr_repro.plots.detections import Annotations, best_of_each_box
        from rfdetr_repro.plots.overlay import draw_over

        canvas = decoded.pixels
        shown = best_of_each_box(found)
        if not decoded.is_whole:
            hw, whole = canvas.shape[:2], decoded.size_hw
            scale = np.array([hw[1] / whole[1], hw[0] / whole[0]] * 2, dtype=np.float32)
            masks = None if shown.masks is None else shown.masks.at(hw)
            shown = Annotations(shown.boxes_xyxy * scale, shown.labels, shown.scores, masks)
        return draw_over(canvas, shown, self.predictor.class_names)

    def _objects(self, found: Any) -> list[dict[str, Any]]:
        """Objects with the original category ids and boxes in pixels."""
        masks = [] if found.masks is None else found.masks.rles()
        ids, names = self.predictor.category_ids, self.predictor.class_names
        return [
            {
                "category_id": ids[int(label)],
                "class": names[int(label)],
                "score": round(float(score), 4),
                "box_xyxy": [round(float(value), 1) for value in box],
                **({} if found.masks is None else {"mask_rle": masks[row]}),
            }
            for row, (box, score, label) in enumerate(
                zip(found.boxes_xyxy, found.scores, found.labels, strict=True)
            )
        ]

    def _video(self, medium: Medium, name: Path, rest: dict[str, Any]) -> None:
        """Writes the drawn video and a JSON line for each frame; both are complete up to the frame
        at which the work ends, whatever ends it. Fills ``rest``, the entry.
        """
        from rfdetr_repro.data.decoding import Decoded
        from rfdetr_repro.data.video import VideoFile, frames, rate_of

        video, lines = _files_of_video(name)
        with _reading():
            writer = VideoFile(self.out / video, max(rate_of(medium) / self.every, 0.01))
        (self.out / lines).parent.mkdir(parents=True, exist_ok=True)
        count, objects = 0, 0
        source = frames(medium)
        try:
            with (self.out / lines).open("w", encoding="utf-8") as stream:
                for frame in logs.progress_bar(_guarded(source), medium.path.name, "frame"):
                    if frame.number % self.every:
                        continue
                    hw = frame.pixels.shape[:2]
                    decoded = Decoded(frame.pixels, hw)
                    found = self._detected(decoded)
                    objects += _write_line(stream, frame, self._objects(found))
                    writer.add(frame._replace(pixels=self._drawn(decoded, found)))
                    count += 1
                    rest |= {"width": hw[1], "height": hw[0], "frames": count}
                    if count == self.most:
                        break
        finally:
            source.close()
            if writer.close() is not None:
                rest |= {"drawn": video.as_posix(), "frames_file": lines.as_posix()}
                print(
                    f"{medium.name}: {objects} objects in {count} frames -> {self.out / video}",
                    flush=True,
                )
            else:
                (self.out / lines).unlink(missing_ok=True)


def _write_line(stream: TextIO, frame: Any, objects: list[dict[str, Any]]) -> int:
    line = {"frame": frame.number, "time_s": round(frame.time_s, 6), "objects": objects}
    stream.write(json.dumps(line) + "\n")
    stream.flush()
    return len(objects)


def _guarded(source: Iterator[Any]) -> Iterator[Any]:
    """The same frames; an error of the file is :class:`Unreadable`."""
    while True:
        with _reading():
            frame = next(source, None)
        if frame is None:
            return
        yield frame


class Unreadable(Exception):
    """A file that cannot be read, while the other files can be."""


@contextmanager
def _reading() -> Iterator[None]:
    """Turns errors of the file into :class:`Unreadable`."""
    try:
        yield
    except InputError as error:
        raise Unreadable(str(error)) from error


def _save_png(pixels: Any, path: Path) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", compress_level=3)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
