"""The C++ runner (csrc/deploy) and files of pictures: it decodes what Python decodes, to the same
pixels, and a broken file does not stop the others.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from samples_runner import THRESHOLD, Runner, check_equal, check_pictures, picture, write

from rfdetr_repro.data.decoding import decode_reduced
from rfdetr_repro.export.artifact import Artifact

pytestmark = pytest.mark.slow
TURBO = """#include <cstdio>
#include <jpeglib.h>
#ifndef LIBJPEG_TURBO_VERSION
#error another library
#endif
"""


def test_pixels_of_png_files(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    if not runner.reads("PNG"):
        pytest.skip("libpng's headers are not installed")
    pixels = picture(40, 60)
    grey = pixels[..., 0]
    alpha = np.dstack([pixels, 255 - grey])
    turned = Image.Exif()
    turned[0x0112] = 6
    paths = [
        write(tmp_path / "rgb.png", pixels),
        write(tmp_path / "grey.png", grey),
        write(tmp_path / "alpha.png", alpha),
        write(tmp_path / "grey_alpha.png", np.dstack([grey, 255 - grey])),
        write(tmp_path / "wide.png", grey.astype(np.uint16) * 250 + 13),
        write(tmp_path / "bits.png", grey > 128),
        write(tmp_path / "turned.png", pixels, exif=turned),
    ]
    palette = Image.fromarray(pixels).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    palette.save(tmp_path / "palette4.png", bits=4)
    paths += [tmp_path / "palette.png", tmp_path / "palette4.png"]
    assert check_pictures(runner, artifact, paths) > 0


def _skip_without_jpeg(runner: Runner) -> None:
    """Skips where the program does not decode JPEG files by libjpeg-turbo, as Pillow does: other
    decoders may differ in the last bit, and then the pictures do.
    """
    if not runner.reads("JPEG"):
        pytest.skip("libjpeg's headers are not installed")
    command = [os.environ.get("CXX", "c++"), "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(command, input=TURBO, text=True, capture_output=True).returncode != 0:
        pytest.skip("the system's JPEG library is not libjpeg-turbo")
    if not features.check_feature("libjpeg_turbo"):
        pytest.skip("Pillow's JPEG decoder is not libjpeg-turbo")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_as_viewers_show_it(
    runner: Runner, artifact: Artifact, tmp_path: Path, orientation: int
) -> None:
    """The colours of large even blocks are the same in every decoder."""
    _skip_without_jpeg(runner)
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(picture(2, 3) // 64 * 64, np.ones((32, 32, 1), np.uint8))
    path = write(tmp_path / "a.jpg", blocks, exif=exif, subsampling=0, quality=100)
    assert check_pictures(runner, artifact, [path]) > 0


def test_kinds_of_jpeg(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    """Even blocks again: progressive, grey, CMYK, and an orientation that only XMP states."""
    _skip_without_jpeg(runner)
    blocks = np.kron(picture(3, 4) // 64 * 64, np.ones((32, 32, 1), np.uint8))
    tag = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="8"></x:xmpmeta>'
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "progressive": ("RGB", {"progressive": True}),
        "grey": ("L", {}),
        "cmyk": ("CMYK", {}),
        "xmp": ("RGB", {"xmp": tag}),
        "small": ("RGB", {"subsampling": 2}),
    }
    paths = []
    for name, (mode, how) in kinds.items():
        paths.append(tmp_path / f"{name}.jpg")
        Image.fromarray(blocks).convert(mode).save(paths[-1], quality=100, **how)
    assert decode_reduced(paths[3]).size_hw == (128, 96)
    assert check_pictures(runner, artifact, paths) > 0


@pytest.mark.parametrize(
    ("kind", "white"), [(b"P5", 255), (b"P6", 255), (b"P6", 100), (b"P5", 65535), (b"P5", 1000)]
)
def test_netpbm(
    runner: Runner, artifact: Artifact, tmp_path: Path, kind: bytes, white: int
) -> None:
    height, width, channels = 23, 31, 3 if kind == b"P6" else 1
    values = np.random.default_rng(white).integers(0, white + 1, (height, width, channels))
    content = values.astype(">u2" if white > 255 else np.uint8).tobytes()
    path = tmp_path / "a.pnm"
    header = b"%s\n# a comment\n%d # another\n %d\n%d\n" % (kind, width, height, white)
    path.write_bytes(header + content)
    assert check_pictures(runner, artifact, [path]) > 0


def test_a_very_large_picture_becomes_means_of_blocks(
    runner: Runner, artifact: Artifact, tmp_path: Path
) -> None:
    width, height = 9001, 7501  # more than 2^26 px, and no multiple of the blocks
    row = np.random.default_rng(0).integers(0, 256, (1, width, 3), dtype=np.uint8)
    rows = np.arange(height, dtype=np.uint8)[:, None, None]
    path = tmp_path / "large.ppm"
    path.write_bytes(b"P6 %d %d 255\n" % (width, height) + (row + rows).tobytes())
    assert check_pictures(runner, artifact, [path]) > 0


def test_a_broken_picture_does_not_stop_the_others(
    runner: Runner, artifact: Artifact, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.ppm", picture(20, 20))
    cut = tmp_path / "cut.ppm"
    cut.write_bytes(good.read_bytes()[:-1])
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    named = [cut, good, text, tmp_path, empty]
    done = runner("--model", artifact.path, "--threshold", THRESHOLD, *named)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines)
    entries = json.loads(done.stdout)
    assert [entry["path"] for entry in entries] == list(map(str, named))
    assert ["error" in entry for entry in entries] == [True, False, True, True, True]
    assert [f"error: {entry['error']}" for entry in entries if "error" in entry] == lines
    assert all(
        str(path) in line for path, line in zip([cut, text, tmp_path, empty], lines, strict=True)
    )
    check_equal(entries[1], good, artifact)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_an_error(
    runner: Runner, artifact: Artifact, tmp_path: Path, suffix: str
) -> None:
    if not runner.reads({"jpg": "JPEG", "png": "PNG"}[suffix]):
        pytest.skip(f"the headers of the {suffix} library are not installed")
    path = write(tmp_path / f"a.{suffix}", picture(60, 60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = runner("--model", artifact.path, path)
    assert done.returncode == 1 and "cannot decode the image" in done.stderr
    assert len(done.stderr.splitlines()) == 1
