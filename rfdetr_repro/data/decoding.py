"""The only decoder of pictures: training, evaluation, prediction, the benchmark's host scope and
the float16 audit use the same pixels.

Every picture becomes uint8 (H, W, 3) RGB:

- grey and black-and-white: the same value in all channels; palettes: their colours; CMYK, YCbCr and
  HSV: as Pillow converts them;
- alpha is dropped, and the colours below it stay as stored (as in OpenCV and upstream);
- 16-bit grey (and whole numbers of 32 bits): divided by 257, so that 65,535 is white, at any range
  of the picture's own values; TIFF of fewer than 16 bits: its own largest number is white;
- TIFF that states "white is zero": inverted, at any number of bits;
- floats: values within 0..1 are fractions of white; else values within 0..255 are taken as they
  are; else values within 0..65,535 are divided by 257; anything else, and values that are not
  finite, are refused;
- animations and files of several pages: the first picture.

EXIF orientation: :func:`decode` rotates a picture as viewers show it. With a stated size it does so
only where that size is the rotated size, because the size in a COCO file shows which frame its
boxes refer to. Pillow's limit of pixels is raised to LARGEST when this module is loaded, unless the
program has set a limit other than Pillow's default. No torch here.
"""

from __future__ import annotations

import ctypes
import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input

LARGEST = 1 << 29  # px of one picture: 1.5 GiB as RGB
LARGEST_SIDE = 1_000_000  # px: Pillow needs memory for every row, however short
REDUCED_ABOVE = 1 << 26  # px: prediction reduces larger pictures while decoding
_BAND = 1 << 24  # px converted at a time
_PILLOW_DEFAULT = 89_478_485
if Image.MAX_IMAGE_PIXELS == _PILLOW_DEFAULT:  # a limit that the user's program has set stays
    Image.MAX_IMAGE_PIXELS = LARGEST

# a file that cannot be used gives one error, without warnings before it
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION = 0x0112
_PNG_END = 1 << 16  # bytes at the end of a PNG in which EXIF is looked for
_BITS_PER_SAMPLE = 258  # of TIFF, as is the next
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_QUARTERS = (5, 6, 7, 8)  # orientations that swap width and height
# EXIF orientation -> what viewers do to the stored picture
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
_INVERSE = {6: 8, 8: 6}  # the other orientations are their own inverses
_BITS_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")

# str | os.PathLike | bytes | bytearray | memoryview | a binary file | PIL.Image.Image
Encoded = Any


def _silence_libtiff() -> None:
    """Stops libtiff, inside Pillow, from printing lines of its own about a broken file; the
    exception that follows says what is wrong. A libtiff that cannot be reached goes on printing.
    """
    with suppress(AttributeError, OSError):
        pillow = ctypes.CDLL(_imaging.__file__)
        pillow.TIFFSetErrorHandler(None)
        pillow.TIFFSetWarningHandler(None)


_silence_libtiff()


class _Unscalable(Exception):
    """Numbers whose white is unknown."""


class Header(NamedTuple):
    """What a file states without being decoded. Sizes are (width, height) in px."""

    stored_wh: tuple[int, int]
    orientation: int  # EXIF, 1..8; 1 where the value is absent or invalid

    @property
    def shown_wh(self) -> tuple[int, int]:
        """Size of the picture as viewers show it."""
        return (
            (self.stored_wh[1], self.stored_wh[0])
            if self.orientation in _QUARTERS
            else self.stored_wh
        )

    def is_turned(self, stated_wh: tuple[int, int]) -> bool:
        """Whether a picture whose annotation states this size is rotated: the size is the rotated
        size, and not the stored size.
        """
        return stated_wh != self.stored_wh and stated_wh == self.shown_wh


class Decoded(NamedTuple):
    """``pixels`` uint8 (h, w, 3) RGB; ``size_hw`` is the size of the whole picture in the same
    frame, larger than (h, w) where the picture was reduced.
    """

    pixels: np.ndarray
    size_hw: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        """Whether the picture was not reduced."""
        return self.pixels.shape[:2] == self.size_hw


def read_header(source: Encoded) -> Header:
    """Size and orientation of a picture, from its header.

    Raises :class:`InputError` for anything that is not a picture, and for a picture that is too
    large to be decoded.
    """
    with _opened(source) as (picture, where):
        header = _header(picture)
        _refuse_too_large(header, where)
        return header


def decode(source: Encoded, stated_wh: tuple[int, int] | None = None) -> np.ndarray:
    """A picture as uint8 (H, W, 3) RGB, rotated by its EXIF orientation.

    ``source``: a path, the bytes of a file, a binary file, or a Pillow image. ``stated_wh``: the
    (width, height) that an annotation states; the picture is then rotated only where that is its
    rotated size. Raises :class:`InputError` for a missing or truncated file, a file that is not a
    picture, a picture above LARGEST pixels or LARGEST_SIDE, and values that cannot be scaled.
    """
    with _opened(source) as (picture, where):
        header = _header(picture)
        turn = stated_wh is None or header.is_turned(stated_wh)
        _refuse_too_large(header, where)
        return _turned(_rgb(picture, 1), header, turn, picture)


def decode_reduced(source: Encoded, above: int = REDUCED_ABOVE) -> Decoded:
    """Like :func:`decode`, but each side of a picture of more than ``above`` pixels is divided by
    the smallest sufficient whole number.

    Pixels are means of whole blocks (for a JPEG, as far as possible, the file's own coarser
    scales). An antialiased resize to a model's input hardly differs, and memory stays bounded.
    """
    with _opened(source) as (picture, where):
        header = _header(picture)
        _refuse_too_large(header, where)
        width, height = header.shown_wh
        if width * height <= above:
            return Decoded(_turned(_rgb(picture, 1), header, True, picture), (height, width))
        first = _divisor(picture.size, above)
        if not isinstance(source, Image.Image):  # the caller's own object is not changed
            # for a JPEG; other formats have no coarser scales
            picture.draft(None, (picture.size[0] // first, picture.size[1] // first))
        pixels = _rgb(picture, _divisor(picture.size, above))
        return Decoded(_turned(pixels, header, True, picture), (height, width))


def reduced(pixels: np.ndarray, most: int) -> np.ndarray:
    """``pixels``, uint8 (H, W, 3), or means of its whole blocks with at most ``most`` pixels."""
    factor = _divisor((pixels.shape[1], pixels.shape[0]), most)
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


def _divisor(size: tuple[int, int], above: int) -> int:
    """The smallest divisor of each side that leaves at most ``above`` pixels."""
    factor = 1
    while -(-size[0] // factor) * -(-size[1] // factor) > above:
        factor += 1
    return factor


def decode_array(values: np.ndarray) -> np.ndarray:
    """An array as uint8 (H, W, 3) RGB. Arrays are uint8, or floats in 0..1; grey (H, W) or (H, W,
    1), RGB (H, W, 3) or RGBA (H, W, 4).

    Raises :class:`InputError` for anything else, and for floats that are not finite or outside
    0..1.
    """
    given = f"{values.dtype} {tuple(values.shape)}"
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"not an image: an array {given}", hint="give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    if 0 in values.shape:
        raise InputError(f"an empty image: an array {given}")
    if values.ndim == 2:
        values = values[..., None]
    values = values[..., :3]
    if np.issubdtype(values.dtype, np.floating):
        values = _of_parts(values, f"an image array {given}")
    elif values.dtype != np.uint8:
        hint = {"uint16": "divide by 65535 (float, 0..1)", "bool": "give 255 * mask as uint8"}.get(
            str(values.dtype), ""
        )
        raise InputError(
            f"an image array must be uint8, or float in 0..1, not {given}",
            hint=hint or "convert the array to uint8",
        )
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _of_parts(values: np.ndarray, what: str) -> np.ndarray:
    """Floats in 0..1 -> uint8."""
    low = float(values.min())
    high = float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{what} has values that are not finite", hint="give values in 0..1")
    if low < 0 or high > 1:
        raise InputError(
            f"{what} has values from {low:g} to {high:g}, not in 0..1",
            hint="divide by 255, do not normalise",
        )
    return np.rint(values.astype(np.float32) * np.float32(255)).astype(np.uint8)


@contextmanager
def _opened(source: Encoded) -> Iterator[tuple[Image.Image, object]]:
    """A Pillow image that is not decoded yet, and its name in messages; errors of Pillow become
    :class:`InputError`.
    """
    if isinstance(source, Image.Image):
        with _reading("the Pillow image"):
            yield source, "the Pillow image"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        where: object = f"{len(source)} bytes"
        with _reading(where), Image.open(io.BytesIO(source)) as picture:
            _refuse_programs(picture, where)
            yield picture, where
    elif hasattr(source, "read"):
        where = f"the open file {getattr(source, 'name', '')}".strip()
        with _reading(where), Image.open(source) as picture:
            _refuse_programs(picture, where)
            yield picture, where
    elif isinstance(source, (str, os.PathLike)):
        if str(source).startswith(("http:/", "https:/")):
            raise InputError("a picture on the web is not fetched", source, "download it first")
        if Path(source).is_dir():
            raise InputError(
                "a folder where a picture is expected", source, "name the pictures in the folder"
            )
        with open_input(source) as stream, _reading(source), Image.open(stream) as picture:
            _refuse_programs(picture, source)
            yield picture, source
    else:
        raise InputError(
            f"not an image: {type(source).__name__}",
            hint="give a path, the bytes of a file, or a Pillow image",
        )


@contextmanager
def _reading(where: object) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except _Unscalable as error:
        raise InputError(
            f"the image has {error}",
            where,
            "save the picture with 8 or 16 bits, or as floats in 0..1",
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{error}", where, "cut the picture into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        hint = (
            "save the picture as JPEG or PNG"
            if _has_content(where)
            else "the file is empty; replace the file"
        )
        raise InputError("cannot decode the image: the format is unknown", where, hint) from error
    except MemoryError as error:
        raise InputError(
            "cannot decode the image: it does not fit into memory",
            where,
            "cut the picture into tiles",
        ) from error
    except Exception as error:  # Pillow's readers raise any exception for a broken file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"cannot decode the image: {reason}", where, "replace the file") from error


def _refuse_programs(picture: Image.Image, where: object) -> None:
    """PostScript is a program: to decode it, Pillow would run it in Ghostscript."""
    if picture.format == "EPS":
        what = "the image is PostScript, a program, which is not run"
        raise InputError(what, where, "save the picture as JPEG or PNG")


def _has_content(where: object) -> bool:
    return (
        not (isinstance(where, (str, os.PathLike)) and Path(where).is_file())
        or Path(where).stat().st_size > 0
    )


def _header(picture: Image.Image) -> Header:
    """Size and orientation before the picture is decoded.

    Pillow states the rotated size of a TIFF, and rotates a TIFF when decoding.
    """
    orientation: Any = 1
    try:
        exif = _exif_of_png(picture) if picture.format == "PNG" else picture.getexif()
        orientation = exif.get(_ORIENTATION, 1)
    except Exception:
        pass
    orientation = orientation if orientation in _TURNS else 1
    width, height = picture.size
    swapped = picture.format == "TIFF" and orientation in _QUARTERS
    return Header((height, width) if swapped else (width, height), int(orientation))


def _exif_of_png(picture: Image.Image) -> Image.Exif:
    """The EXIF of a PNG, which may be before its pixels or after them; Pillow's own way decodes the
    picture to look there.
    """
    exif = Image.Exif()
    stream = getattr(picture, "fp", None)  # None: Pillow has read the file to its end
    content = picture.info.get("exif")
    if content is None and stream is not None:
        content = _exif_at_end(stream)
    if content is not None:
        exif.load(content)
    return exif


def _exif_at_end(stream: Any) -> bytes | None:
    """The last EXIF chunk of a PNG, if it is within the file's last bytes and its checksum fits."""
    place = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _PNG_END))
    end: bytes = stream.read()
    stream.seek(place)
    kind = end.rfind(b"eXIf")
    if kind < 4:
        return None
    last = kind + 4 + int.from_bytes(end[kind - 4 : kind], "big")
    checksum = int.from_bytes(end[last : last + 4], "big")
    return end[kind + 4 : last] if zlib.crc32(end[kind:last]) == checksum else None


def _turned(pixels: np.ndarray, header: Header, turn: bool, picture: Image.Image) -> np.ndarray:
    """The pixels as shown where ``turn``, else as stored."""
    if header.orientation == 1:
        return pixels
    by_pillow = picture.format == "TIFF"
    if turn == by_pillow:
        return pixels
    orientation = (
        header.orientation if turn else _INVERSE.get(header.orientation, header.orientation)
    )
    return np.ascontiguousarray(_TURNS[orientation](pixels))


def _refuse_too_large(header: Header, where: object) -> None:
    width, height = header.stored_wh
    if width * height > LARGEST:
        what = f"the image has {width} x {height} pixels, more than {LARGEST}"
        raise InputError(what, where, "cut the picture into tiles")
    if max(width, height) > LARGEST_SIDE:
        what = f"the image has {width} x {height} pixels, a side of more than {LARGEST_SIDE}"
        raise InputError(what, where, "cut the picture into tiles")
    if width < 1 or height < 1:
        raise InputError(f"an empty image of {width} x {height} pixels", where)


def _rgb(picture: Image.Image, factor: int) -> np.ndarray:
    """uint8 (ceil(H / factor), ceil(W / factor), 3): blocks averaged; a large picture is converted
    in bands.
    """
    picture.load()
    convert = _converter(picture)
    width, height = picture.size
    rows = max(_BAND // width // factor, 1) * factor
    if factor == 1 and rows >= height:
        return convert(picture)
    result = np.empty((-(-height // factor), -(-width // factor), 3), dtype=np.uint8)
    for top in range(0, height, rows):
        band = convert(picture.crop((0, top, width, min(top + rows, height))))
        part = band if factor == 1 else np.asarray(Image.fromarray(band).reduce(factor))
        result[top // factor : top // factor + len(part)] = part
    return result


def _converter(picture: Image.Image) -> Callable[[Image.Image], np.ndarray]:
    """The function from a part of ``picture`` to uint8 (h, w, 3); numbers are scaled by the range
    of the whole picture.
    """
    mode = picture.mode
    if mode in _BITS_16 or mode == "F":
        scale = _float_scale(picture) if mode == "F" else _whole_scale(picture)
        inverted = _of_tiff(picture, _PHOTOMETRIC) == _WHITE_IS_ZERO  # Pillow inverts 8 bits only
        return lambda part: _grey(np.asarray(part).astype(np.float64) * scale, inverted)
    steps = {"La": ("LA", "RGB"), "RGBa": ("RGBA", "RGB"), "PA": ("RGBA", "RGB"), "RGB": ()}.get(
        mode, ("RGB",)
    )
    if mode == "P" and "transparency" in picture.info:
        steps = ("RGBA", "RGB")  # Pillow's own advice

    def convert(part: Image.Image) -> np.ndarray:
        for step in steps:
            part = part.convert(step)
        return np.asarray(part)

    return convert


def _extrema(picture: Image.Image) -> tuple[float, float]:
    """Least and largest value of a picture of one channel."""
    width, height = picture.size
    rows = max(_BAND // width, 1)
    found = []
    for top in range(0, height, rows):
        band = np.asarray(picture.crop((0, top, width, min(top + rows, height))))
        found += [float(band.min()), float(band.max())]  # NaN stays NaN
    return float(np.min(found)), float(np.max(found))


def _of_tiff(picture: Image.Image, tag: int) -> Any:
    """The first value of a tag of a TIFF; None of other pictures, and where the tag is absent."""
    value = getattr(picture, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def _whole_scale(picture: Image.Image) -> float:
    low, high = _extrema(picture)
    if low < 0 or high > 65535:
        raise _Unscalable(f"whole numbers from {low:g} to {high:g}, not 16 bit")
    bits = _of_tiff(picture, _BITS_PER_SAMPLE)  # Pillow reads 12 bits as they are
    return 255 / (2**bits - 1) if bits in range(9, 16) else 1 / 257


def _float_scale(picture: Image.Image) -> float:
    low, high = _extrema(picture)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _Unscalable("values that are not finite")
    if low < 0 or high > 65535:
        raise _Unscalable(f"values from {low:g} to {high:g}")
    return 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257


def _grey(values: np.ndarray, inverted: bool) -> np.ndarray:
    narrow = np.rint(values).astype(np.uint8)
    if inverted:
        narrow = 255 - narrow
    return np.repeat(narrow[..., None], 3, axis=2)
