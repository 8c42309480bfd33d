"""Arguments that several commands share: each is declared here, once. No torch here."""

from __future__ import annotations

import argparse
from typing import Any

from .arch import parse_shape
from .arguments import MOST_PROCESSES, MOST_THREADS, former_names, input_folder, input_path, whole
from .errors import InputError
from .labels import LABELS_HELP
from .model_source import MODEL_HELP, ModelSource, model_source
from .train_config import TRAIN_WHOLE


def add_model(
    parser: argparse._ActionsContainer,
    *older: str,
    needed: bool = True,
    text: str = f"{MODEL_HELP} (docs/cli.md lists which commands take which)",
    **more: Any,
) -> None:
    """Adds ``--model``, whose value is a :class:`~rfdetr_repro.spec.model_source.ModelSource`.

    ``older``: former names of the argument, which still work and are not shown in the help;
    ``more``: further arguments of ``add_argument``.
    """
    action = parser.add_argument(
        "--model",
        *older,
        dest="model",
        required=needed,
        type=model_source,
        metavar="MODEL",
        help=text,
        **more,
    )
    former_names(action, older)


def add_file_facts(parser: argparse._ActionsContainer) -> None:
    """Adds ``--size`` and ``--labels``: what a checkpoint may not state about itself."""
    parser.add_argument(
        "--size", help="name of the model size, for a file that does not state the size"
    )
    parser.add_argument("--labels", help=LABELS_HELP)


def add_positional_model(parser: argparse._ActionsContainer, text: str) -> None:
    """Adds the model as the only word that is not an option, and as ``--model``; read the value by
    :func:`positional_model`.
    """
    parser.add_argument("word", nargs="?", type=model_source, metavar="MODEL", help=text)
    add_model(parser, needed=False, text="the same as MODEL")


def positional_model(args: argparse.Namespace) -> ModelSource:
    """The model of :func:`add_positional_model`. Raises :class:`InputError` unless it is named
    exactly once.
    """
    named = [one for one in (args.word, args.model) if one is not None]
    if len(named) != 1:
        what = "the model is named twice" if named else "no model is named"
        raise InputError(what, hint="write MODEL, or --model MODEL")
    found: ModelSource = named[0]
    return found


def add_architecture(parser: argparse._ActionsContainer) -> None:
    """Adds ``--arch`` and ``--shape``: which architecture of a checkpoint is used."""
    parser.add_argument(
        "--arch",
        metavar="KEY",
        help="architecture, like r384-p16-w2-d2-q300, or the name of a size (default: that of the "
        "checkpoint)",
    )
    parser.add_argument(
        "--shape",
        type=parse_shape,
        metavar="HxW",
        help="height x width of the input in pixels, like 384x640 (default: that of the "
        "architecture)",
    )


def add_antialias(parser: argparse._ActionsContainer) -> None:
    """Adds ``--antialias`` and ``--no-antialias``: the rule by which images are resized."""
    parser.add_argument(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        help="whether resizing an image averages over pixels (default: as the checkpoint states)",
    )


def add_float16_audit(parser: argparse._ActionsContainer) -> None:
    """Adds ``--audit-images`` and ``--islands``: which nodes of a float16 model stay in float32."""
    parser.add_argument(
        "--audit-images",
        type=input_folder,
        metavar="DIR",
        help="folder of images for the audit of float16's range (default: noise)",
    )
    parser.add_argument(
        "--islands",
        nargs="*",
        default=(),
        metavar="NODE",
        help="further nodes or operators that stay in float32",
    )


def add_device(parser: argparse._ActionsContainer, use: str) -> None:
    """Adds ``--device``; ``use``: what runs on the device."""
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help=f"device {use} (default: a GPU if there is one)",
    )


def add_steps(parser: argparse._ActionsContainer, text: str) -> None:
    """Adds ``--steps``; ``text``: what is counted. Without it, the size's recipe has the number."""
    parser.add_argument(
        "--steps",
        type=whole(*TRAIN_WHOLE["steps"]),
        help=f"{text} (default: the size's recipe)",
    )


def add_training(parser: argparse._ActionsContainer) -> None:
    """Adds ``--set``, ``--processes`` and ``--loader-threads``, which every training has."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set another field of the recipe, such as lr=2e-4; may be repeated",
    )
    parser.add_argument(
        "--processes",
        type=whole(1, MOST_PROCESSES),
        metavar="N",
        help="number of processes of this machine that share each batch on the CPU (default: by "
        "the number of cores)",
    )
    parser.add_argument(
        "--loader-threads",
        type=whole(1, MOST_THREADS),
        metavar="N",
        help="number of threads, on a GPU of processes, that decode and resize pictures for each "
        "process that trains, which changes no result (default: by the cores of this machine)",
    )


def add_records(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds ``--records``; ``default``: which Records are read without it."""
    parser.add_argument(
        "--records",
        type=input_path,
        metavar="PATH",
        help=f"a .jsonl file of Records, a run folder, or a folder of such files (default: "
        f"{default})",
    )
