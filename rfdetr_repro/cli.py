"""``rfdetr-repro VERB ...``: the same verbs as ``python -m rfdetr_repro.VERB``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro import __version__
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, EXIT_OK, run_main

VERBS = {
    "reproduce": "the whole flow: data, supernet, search, artifacts, measured records, report",
    "train": "train the supernet, or one fixed size",
    "finetune": "train one found architecture after the search",
    "search": "frontier of the search space of a trained run",
    "export": "checkpoint -> artifact with its manifest",
    "bench": "accuracy and latency records of an artifact",
    "evaluate": "COCO metrics of an artifact",
    "predict": "boxes and masks drawn on images, and JSON",
    "tables": "a paper table: published beside measured",
    "plots": "the paper's figures from the store",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the verb; without a known verb prints the list (exit code 2, or 0 for
    --help).
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in ("-V", "--version"):
        print(f"rfdetr-repro {__version__}")
        return EXIT_OK
    if not args or args[0] not in VERBS:
        asked = bool(args) and args[0] in ("-h", "--help")
        lines = [
            "usage: rfdetr-repro VERB [options]",
            *(f"  {verb:<10} {text}" for verb, text in VERBS.items()),
        ]
        if args and not asked:
            lines.insert(0, f"error: unknown verb {args[0]!r}")
        print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
        return EXIT_OK if asked else EXIT_BAD_INPUT
    verb, *rest = args
    package = f"{__package__}.{verb}"
    is_folder = (Path(__file__).parent / verb).is_dir()
    name = f"{package}.__main__" if is_folder else package
    return run_main(lambda words: importlib.import_module(name).main(words), rest)


if __name__ == "__main__":
    raise SystemExit(main())
