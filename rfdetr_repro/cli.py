"""``rfdetr-repro VERB ...``: every program of this package under one name.

A verb loads its program when it is asked for, so that the list of verbs and the help of a light
program need neither PyTorch nor NumPy. Each program also runs as ``python -m MODULE``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rfdetr_repro import __version__
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, EXIT_OK, InputError, nearest, run_main
from rfdetr_repro.spec.launch import Program

PROGRAM = "rfdetr-repro"


class Verb(NamedTuple):
    """``text``: one line of the list; ``module``: where ``parser`` and ``main`` are; ``also``: the
    name after ``python -m``, empty where there is none.
    """

    text: str
    module: str
    also: str = ""


def _verb(text: str, module: str, also: str = "") -> Verb:
    return Verb(text, f"rfdetr_repro.{module}", also and f"rfdetr_repro.{also}")


GROUPS: dict[str, dict[str, Verb]] = {
    "the whole flow": {
        "reproduce": _verb(
            "data, supernet, search, artifacts, measured Records and report",
            "reproduce.command",
            "reproduce",
        ),
        "rf100": _verb(
            "a search for each of many data sets, against one fixed architecture",
            "reproduce.rf100.command",
            "reproduce.rf100",
        ),
    },
    "data": {
        "census": _verb(
            "count images, objects and classes of a data set, and check its files",
            "data.census_command",
        ),
        "pseudo-masks": _verb(
            "masks for a data set that has boxes only, by a copy of SAM 2",
            "data.pseudo_masks_command",
            "data.pseudo_masks",
        ),
        "embedded": _verb(
            "write the synthetic data set that comes with this package",
            "data.embedded.command",
            "data.embedded",
        ),
        "domains": _verb(
            "write ten small synthetic data sets of different kinds",
            "data.domains.command",
            "data.domains",
        ),
    },
    "train": {
        "train": _verb("train the supernet, or one fixed size", "train.command", "train"),
        "finetune": _verb(
            "train one found architecture further after the search", "search.finetune", "finetune"
        ),
        "backbones": _verb(
            "train detectors that differ in the backbone alone, and compare them",
            "train.backbones_command",
        ),
        "train-rival": _verb(
            "train RF-DETR and rivals alike, and compare them at equal latency",
            "rivals.command",
            "rivals",
        ),
        "slim": _verb(
            "store a trained model as a small float16 file", "train.slim_command", "train.slim"
        ),
    },
    "search": {
        "search": _verb(
            "accuracy and latency of every architecture of a supernet, and the frontier",
            "search.command",
            "search",
        ),
        "pick": _verb(
            "copy the best measured model under a latency budget to a plain name",
            "search.pick_command",
        ),
        "family": _verb("evaluate patch sizes that training never drew", "family", "family"),
        "nasbench": _verb(
            "ask the benchmark of architecture search for AP and latency", "nasbench_command"
        ),
    },
    "deploy and measure": {
        "export": _verb(
            "write an architecture of a checkpoint as an artifact", "export_command", "export"
        ),
        "half": _verb(
            "convert a float32 ONNX artifact to float16", "export.half_command", "export.half"
        ),
        "fp16-audit": _verb(
            "find the parts of an ONNX model that leave the range of float16",
            "export.fp16_audit_command",
            "export.fp16_audit",
        ),
        "tensorrt": _verb(
            "build a TensorRT engine from an ONNX artifact",
            "export.tensorrt.command",
            "export.tensorrt",
        ),
        "baselines": _verb(
            "list the other detectors that can be measured by name",
            "baselines.command",
            "baselines",
        ),
        "bench": _verb(
            "measure accuracy and latency of artifacts as Records", "bench.command.run", "bench"
        ),
        "compare": _verb(
            "compare the latencies of two groups of stores: is the later group faster?",
            "bench.command.compare",
            "bench.compare",
        ),
        "intervals": _verb(
            "recompute the latency intervals of a store from its raw samples",
            "bench.command.intervals",
            "bench.intervals",
        ),
        "costs": _verb(
            "count parameters and operations of models",
            "bench.command.costs",
            "bench.costs",
        ),
        "evaluate": _verb("COCO metrics of an artifact on a data set", "evaluate", "evaluate"),
        "predict": _verb("draw boxes and masks on images, and write JSON", "predict", "predict"),
    },
    "publish": {
        "tables": _verb(
            "print a table of the paper, published values beside measured values",
            "tables.command",
            "tables",
        ),
        "claims": _verb(
            "print the claims of the paper, each with a verdict from stored Records",
            "claims_command",
            "claims",
        ),
        "plots": _verb("draw the figures of the paper and of a campaign", "plots.command", "plots"),
        "report": _verb("write the report of a run as PDF and HTML", "report.command", "report"),
        "mean": _verb("mean over the data sets of a benchmark", "records.aggregate", "mean"),
        "seal": _verb("check that the Records of a store are unaltered", "records.seal", "seal"),
        "roofline": _verb(
            "draw the speed of the operators against the limit of the processor",
            "report.roofline_command",
        ),
    },
    "this program": {
        "completion": _verb(
            "print a script with which a shell completes verbs, arguments and choices", "completion"
        ),
    },
}
VERBS: dict[str, Verb] = {name: verb for group in GROUPS.values() for name, verb in group.items()}


def program_of(verb: str) -> Program:
    """The program behind a verb; its help and errors call it ``rfdetr-repro VERB``.

    An unknown verb is an :class:`InputError` that names the nearest verb.
    """
    if verb.startswith("-"):
        raise InputError(f"{verb} before the verb", hint=f"write {PROGRAM} VERB {verb}")
    if verb not in VERBS:
        near = nearest(verb, VERBS)
        hint = f"did you mean {near}? " if near else ""
        raise InputError(f"unknown verb {verb!r}", hint=f"{hint}{PROGRAM} --help lists the verbs")
    return Program(VERBS[verb].module, f"{PROGRAM} {verb}")


def overview() -> str:
    """The help of the program itself: every verb, by group."""
    lines = [
        f"usage: {PROGRAM} VERB [arguments]",
        "",
        "RF-DETR from a data set to a measured Pareto front.",
    ]
    width = max(map(len, VERBS)) + 2
    for title, verbs in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}{verb.text}" for name, verb in verbs.items()]
    lines += [
        "",
        f"{PROGRAM} VERB --help      lists the arguments of a verb",
        f"{PROGRAM} --version        prints the version",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit code; see :func:`rfdetr_repro.spec.errors.run_main`."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what can stand at the cursor
        importlib.import_module("rfdetr_repro.completion").answer(VERBS, program_of)
    return run_main(_main, list(sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str] | None) -> int | None:
    words = list(argv or ())
    if not words:
        sys.stderr.write(overview() + "\n")
        return EXIT_BAD_INPUT
    verb, *rest = words
    if verb in ("-h", "--help", "help"):
        if rest and verb == "help":
            return program_of(rest[0])([*rest[1:], "--help"])
        sys.stdout.write(overview() + "\n")
        return EXIT_OK
    if verb in ("-V", "--version"):
        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        return EXIT_OK
    return program_of(verb)(rest)


if __name__ == "__main__":
    raise SystemExit(main())
