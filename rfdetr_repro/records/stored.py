"""The Records that come with the package: those of ``results/`` of the repository.

A wheel holds a copy of the stores (not of the raw samples) in ``rfdetr_repro/records/stored/``,
which setup.py makes when it builds; in a checkout the repository's own folder is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("results")  # of the current folder
INSTALLED = Path(__file__).with_name("stored")
CHECKOUT = Path(__file__).resolve().parents[2] / "results"
# what --help says of the default
DEFAULT = "those that come with the package, and results/ of the current folder if it exists"
DEFAULT_OF_CAMPAIGN = "results/ of the current folder if it exists, else those of the package"


def packaged() -> Path | None:
    """The folder with the Records that come with the package; None where it is missing."""
    return next((folder for folder in (INSTALLED, CHECKOUT) if _holds_stores(folder)), None)


def default_records() -> list[Path]:
    """The folders that are read where no Records are named: the package's, then ``results/`` of the
    current folder.
    """
    own = packaged()
    found = [own] if own is not None else []
    if _holds_stores(FOLDER) and (own is None or FOLDER.resolve() != own.resolve()):
        found.append(FOLDER)
    return found


def default_campaign() -> list[Path]:
    """The same for a campaign's own tables and figures, which no other campaign should stand
    beside: ``results/`` of the current folder, or else the package's.
    """
    return default_records()[-1:]


def words(folders: Sequence[Path]) -> str:
    """Where the Records come from, in words."""
    names = [
        f"{folder}/ of this folder"
        if folder == FOLDER
        else "the Records that come with the package"
        for folder in folders
    ]
    return " and ".join(names) if names else "no Records"


def _holds_stores(folder: Path) -> bool:
    return folder.is_dir() and any(folder.rglob("*.jsonl"))
