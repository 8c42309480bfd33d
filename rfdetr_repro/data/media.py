"""What a user names to look at: pictures, folders, patterns, videos, cameras, and lists of these on
the standard input. No picture is decoded here.
"""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfdetr_repro.spec.errors import InputError

from .image_files import SUFFIXES, is_picture

# suffixes of videos that are found in a folder or by a pattern
VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"}
STANDARD_INPUT = "-"
_MOST_NAMES = 1_000_000  # on the standard input


@dataclass(frozen=True)
class Medium:
    """One thing to look at. ``kind``: picture, video or camera; ``path``: its file, of a camera its
    device.
    """

    kind: str
    path: Path

    @property
    def name(self) -> str:
        """The name in messages."""
        return (
            f"camera {self.path.name.removeprefix('video')}"
            if self.kind == "camera"
            else str(self.path)
        )


def media(given: Sequence[str]) -> list[Medium]:
    """The files behind the words of a command line, each once, in this order.

    A word is a file, a folder (its pictures and videos, without sub-folders), a pattern such as
    ``shots/*.jpg`` or ``**/*.png``, the number of a camera, or ``-``, which stands for the names
    on the standard input, one a line. Raises :class:`InputError` for a word that stands for
    nothing, and for a web address.
    """
    found: list[Medium] = []
    for word in given:
        words = _listed(sys.stdin) if word == STANDARD_INPUT else [word]
        for one in words:
            found += _media_of(one)
    return list(dict.fromkeys(found))


def _listed(stream: Iterable[str]) -> list[str]:
    """The names on the standard input; raises :class:`InputError` if there are none."""
    names = []
    for line in stream:
        if name := line.strip("\r\n"):
            names.append(name)
        if len(names) > _MOST_NAMES:
            raise InputError(f"more than {_MOST_NAMES} names", "standard input")
    if not names:
        raise InputError("no names on the standard input", hint="write one name a line")
    return names


def _media_of(word: str) -> list[Medium]:
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", word):
        raise InputError(
            "images on the web and streams are not opened", word, "download the image first"
        )
    path = Path(word)
    try:
        if path.is_dir():
            return _of_folder(path)
        if path.exists():
            return [_medium(path)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the image cannot be read: {reason}", word[:200]) from error
    if re.fullmatch(r"\d{1,3}", word):
        return [Medium("camera", Path(f"/dev/video{int(word)}"))]
    if re.search(r"[*?[]", word):
        matches = sorted(Path(match) for match in glob.glob(word, recursive=True))  # noqa: PTH207 (absolute patterns)
        files = [_medium(match) for match in matches if _is_known(match)]
        if not files:
            raise InputError(
                "no image or video matches the pattern", word, "check the pattern and the quotes"
            )
        return files
    raise InputError("the image does not exist", word, "check the path")


def _of_folder(folder: Path) -> list[Medium]:
    inside = [_medium(file) for file in sorted(folder.iterdir()) if _is_known(file)]
    if not inside:
        raise InputError(
            "there are no images in the folder",
            folder,
            f"give a folder that holds {', '.join(sorted(SUFFIXES))} files or videos",
        )
    return inside


def _is_known(path: Path) -> bool:
    """Whether the name is that of a picture or video. Links that lead nowhere are known too, so
    that they are reported.
    """
    return (is_picture(path.name) or path.suffix.lower() in VIDEOS) and not path.is_dir()


def _medium(path: Path) -> Medium:
    if re.fullmatch(r"/dev/video\d+", str(path)):
        return Medium("camera", path)
    return Medium("video" if path.suffix.lower() in VIDEOS else "picture", path)
