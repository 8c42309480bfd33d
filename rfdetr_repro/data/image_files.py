"""Finds the picture that an annotation file names, without opening any file.

Names are compared after Unicode normalisation (archives made on a Mac hold decomposed names). A
name may be an address, have Windows' separators, or begin with folders that do not exist here (as
in LVIS, Objects365, Label Studio and CVAT). A name that differs in case is another name, and the
message shows both.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

# of every picture that somebody may mean, also of formats that cannot be decoded: a picture that is
# left out without a word would change what is trained on, and what is measured
SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
    ".jp2",
    ".mpo",
    ".heic",
    ".heif",
    ".jxl",
}
MOST_LIST_BYTES = 256 << 20  # of a file that lists pictures
_SHOWN = 120  # characters of a name in a message


class ImageFinder:
    """Looks names up in ``folders``. Each sub-folder is listed once; no file is opened.

    Names whose path does not exist inside the folders are also searched by their last parts:
    ``images/v1/patch8/a.jpg`` is found as ``patch8/a.jpg`` or ``a.jpg``.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """A finder for names in ``folders``, searched in order."""
        self.folders = tuple(folders)
        self._listings: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> Path | None:
        """Path of the file, or None. Only regular files count, not folders, pipes or devices."""
        for folder in self.folders:  # first the name as written
            if (found := self._lookup(folder, name)) is not None:
                return found
        for tail in _tails(name):
            for folder in self.folders:
                if (found := self._lookup(folder, tail)) is not None:
                    return found
        return None

    def hint(self, name: str) -> str:
        """What exists in place of a missing ``name``: the name in another case, or the nearest
        name; may be empty.
        """
        last = _tails(name)[-1] if _tails(name) else name
        known = {
            entry
            for folder in self.folders
            for entry in self._listing(str((folder / name).parent)).values()
        }
        known |= {entry for folder in self.folders for entry in self._listing(str(folder)).values()}
        if same := sorted(
            entry for entry in known if _normal(entry).casefold() == _normal(last).casefold()
        ):
            return f"there is {same[0]} (case differs)"
        if near := difflib.get_close_matches(last[:200], sorted(known)[:5000], 1, 0.7):
            return f"the nearest name there is {near[0]}"
        return ""

    def _lookup(self, folder: Path, name: str) -> Path | None:
        parent, last = os.path.split(os.path.join(folder, name))
        actual = self._listing(parent).get(_normal(last))
        return None if actual is None else Path(parent, actual)

    def _listing(self, parent: str) -> dict[str, str]:
        """Normalised name -> name, for the regular files of a folder; empty where the folder does
        not exist.
        """
        if parent not in self._listings:
            try:
                with os.scandir(parent) as entries:
                    found = {
                        _normal(entry.name): entry.name for entry in entries if entry.is_file()
                    }
            except (OSError, ValueError):
                found = self._of_normal_folder(parent)
            self._listings[parent] = found
        return self._listings[parent]

    def _of_normal_folder(self, parent: str) -> dict[str, str]:
        """Listing of a folder whose own name is written in another Unicode form; parents of the
        folder must match exactly.
        """
        above, last = os.path.split(parent)
        try:
            same = [
                entry.path
                for entry in os.scandir(above)
                if entry.is_dir() and _normal(entry.name) == _normal(last)
            ]
            listed = (
                [(entry.name, entry.is_file()) for entry in os.scandir(same[0])] if same else []
            )
        except (OSError, ValueError):
            return {}
        return {
            _normal(name): os.path.join("..", os.path.basename(same[0]), name)
            for name, is_file in listed
            if is_file
        }


def _normal(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _tails(name: str) -> list[str]:
    """The name, the name without its first folder, without its first two, ..., down to the last
    part; for an address, the same of its path.
    """
    text = name
    if "://" in text or text.startswith("/data/local-files/"):
        address = urlsplit(text)
        inner = parse_qs(address.query).get("d", [""])[0]  # Label Studio's address of a local file
        text = inner or unquote(address.path)
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def is_picture(name: str) -> bool:
    """Whether the name is that of a picture. ``._a.jpg``, which archives made on a Mac hold next to
    ``a.jpg``, is not a picture.
    """
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("._")


def short(text: object) -> str:
    """A name or value for a message, shortened if long."""
    shown = str(text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN // 2]}...{shown[-_SHOWN // 4 :]}"
