"""Which spoiled file goes to which command, and arguments that are spoiled themselves."""

from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_files import DATA, PICTURES, TEXTS, arguments_of, spoiled
from mutations import Mutation, of_bytes, of_json, of_place, of_text
from mutations_onnx import of_onnx
from mutations_pth import of_pth


class Case(NamedTuple):
    """In a copy of the seeds ``mutation`` spoils ``file``; then ``command`` runs with
    ``arguments``.
    """

    reader: str
    command: str
    arguments: tuple[str, ...]
    file: str | None
    mutation: Mutation | None
    refuse: bool = False

    @property
    def name(self) -> str:
        what = self.mutation.name if self.mutation else " ".join(self.arguments)
        return f"{self.reader}/{self.command}/{what}"


BENCH = (
    "--builds",
    "1",
    "--samples",
    "2",
    "--buffer-ms",
    "0",
    "--threads",
    "1",
    "--out",
    "out.jsonl",
)
EVALUATE = (
    "evaluate",
    ("--artifact", "model.onnx", "--data", "coco", "--threads", "1", "--json", "out.json"),
)
OF_FILE: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "coco/annotations/instances_val.json": [EVALUATE],
    "yolo/data.yaml": [
        (
            "evaluate",
            ("--artifact", "model.onnx", "--data", "yolo", "--threads", "1", "--json", "out.json"),
        )
    ],
    "yolo/labels/val/0.txt": [
        ("evaluate", ("--artifact", "model.onnx", "--data", "yolo", "--threads", "1"))
    ],
    "coco/val/0.png": [EVALUATE],
    "picture.png": [
        ("predict", ("picture.png", "--checkpoint", "model.safetensors", "--out", "out"))
    ],
    "model.safetensors": [
        ("predict", ("picture.png", "--checkpoint", "model.safetensors", "--out", "out")),
        ("export", ("--checkpoint", "model.safetensors", "--out", "out.onnx")),
    ],
    "model.pth": [("predict", ("picture.png", "--checkpoint", "model.pth", "--out", "out"))],
    "model.onnx": [EVALUATE],
    "model.json": [EVALUATE, ("bench", ("--onnx", "model.onnx", *BENCH))],
    "foreign.onnx": [
        ("bench", ("--onnx", "foreign.onnx", "--data", "coco", *BENCH)),
        ("fp16_audit", ("foreign.onnx", "--count", "1")),
        ("predict", ("picture.png", "--model", "foreign.onnx", "--classes", "ids", "--out", "out")),
        ("half", ("foreign.onnx", "--out", "out.onnx")),
    ],
    "run/records.jsonl": [
        ("tables", ("--table", "frontier", "--records", "run/records.jsonl")),
        ("mean", ("--name", "own", "run", "--out", "out.jsonl")),
        ("compare", ("run/records.jsonl", "run/records.jsonl")),
        ("report", ("--run", "run", "--out", "out.pdf")),
    ],
    "run/summary.json": [("report", ("--run", "run", "--out", "out.pdf"))],
    "run/train_log.jsonl": [("report", ("--run", "run", "--out", "out.pdf"))],
    "campaign.toml": [("reproduce", ("--campaign", "campaign.toml"))],
    "space.toml": [("reproduce", ("--campaign", "space.toml"))],
    **{file: [("evaluate", arguments_of(file))] for file in DATA},
    **{
        name: [("predict", (name, "--checkpoint", "model.safetensors", "--out", "out"))]
        for name in PICTURES
    },
}
# command -> (arguments that are right, flags that take a value)
ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "evaluate": (
        EVALUATE[1],
        ("--artifact", "--data", "--split", "--backend", "--threads", "--max-dets", "--json"),
    ),
    "predict": (
        ("picture.png", "--checkpoint", "model.safetensors", "--out", "out"),
        ("--checkpoint", "--size", "--arch", "--shape", "--threshold", "--out"),
    ),
    "bench": (
        ("--onnx", "model.onnx", *BENCH),
        (
            "--onnx",
            "--models",
            "--precision",
            "--form",
            "--normalise",
            "--resize",
            "--nms-score",
            "--nms-iou",
            "--nms-candidates",
            "--data",
            "--split",
            "--ap-gate",
            "--checkpoint",
            "--inject",
            "--boxes",
            "--classes",
            "--cuda-graph",
            "--seconds",
            "--builds",
            "--shape",
            "--protocol",
            "--campaign",
            "--scope",
            "--backend",
            "--buffer-ms",
            "--spin-ms",
            "--fps",
            "--threads",
            "--samples",
            "--out",
        ),
    ),
    "tables": (("--table", "2"), ("--table", "--format", "--records")),
    "mean": (
        ("--name", "own", "run", "--out", "out.jsonl"),
        (
            "--name",
            "--split",
            "--mode",
            "--buffer-ms",
            "--target-ms",
            "--tolerance",
            "--runtime",
            "--variant",
            "--select",
            "--out",
        ),
    ),
    "compare": (
        ("run/records.jsonl", "run/records.jsonl"),
        ("--margin", "--between-sessions", "--old", "--new"),
    ),
    "export": (
        ("--checkpoint", "model.safetensors", "--out", "out.onnx"),
        ("--checkpoint", "--arch", "--shape", "--out", "--precision", "--to", "--name"),
    ),
    "fp16_audit": (("foreign.onnx", "--count", "1"), ("--images", "--count")),
    "reproduce": (("--campaign", "campaign.toml"), ("--campaign", "--data", "--out")),
    "train": (
        ("--data", "coco", "--out", "out", "--steps", "1"),
        (
            "--data",
            "--out",
            "--size",
            "--shape",
            "--weights",
            "--steps",
            "--batch-size",
            "--accumulate",
            "--seed",
            "--sampling",
            "--evaluate-every",
            "--patience",
            "--set",
            "--device",
            "--processes",
            *(
                f"--set={name}"
                for name in ("lr", "steps", "bfloat16", "sampling", "seed", "ema_decay", "nothing")
            ),
        ),
    ),
    "search": (
        ("--run", "run", "--data", "coco"),
        (
            "--run",
            "--data",
            "--strategy",
            "--metric",
            "--mode",
            "--targets-ms",
            "--tolerance",
            "--engines",
            "--most-engines",
            "--candidates",
            "--confirm-on",
            "--confidence",
            "--margin",
            "--loss",
            "--first",
            "--backend",
            "--precision",
            "--device",
            "--workers",
            "--worker-count",
        ),
    ),
    "finetune": (
        (
            "--run",
            "model.safetensors",
            "--arch",
            "r32-p8-w1-d1-q5",
            "--data",
            "coco",
            "--out",
            "out",
        ),
        ("--run", "--arch", "--data", "--out", "--steps", "--set", "--device", "--processes"),
    ),
    "family": (
        ("--run", "run", "--data", "coco"),
        ("--run", "--data", "--patches", "--resolutions"),
    ),
    "plots": (
        ("--figure", "pareto", "--records", "run", "--out", "out"),
        ("--figure", "--records", "--run", "--out"),
    ),
    "report": (("--run", "run", "--out", "out.pdf"), ("--run", "--records", "--out")),
    "intervals": (("run/records.jsonl",), ("--quiet",)),
    "costs": (
        ("--models", "rfdetr-nano", "--out", "out.jsonl"),
        ("--models", "--counters", "--artifacts", "--out", "--page"),
    ),
    "seal": (("run/records.jsonl", "--out", "out.jsonl"), ("--out",)),
    "half": (("model.onnx", "--out", "out.onnx"), ("--out", "--audit-images", "--islands")),
    "slim": (("model.safetensors", "out.safetensors"), ("--note",)),
    "embedded": (("--out", "out"), ("--out", "--train-images", "--side", "--seed")),
    "domains": (
        ("--out", "out"),
        ("--out", "--only", "--train-images", "--test-images", "--seed"),
    ),
}
WORDS = (
    "",
    "x",
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "99999999999999999999",
    "1.5",
    "true",
    "n" * 5000,
    "a\x1b[31mb",
    "../..",
    "/",
    "/dev/zero",
    "/dev/full",
    "missing/file",
    "model.onnx",
    "coco",
    "é\udc80",
    "a\nb",
    "=1+1",
    "1e-9",
    "1_0",
    "-0.5",
    "9" * 5000,
    "{}",
    "1,2",
    "x" * 200 + "/" + "y" * 200,
)


def cases(seeds: Path, seed: int = 0) -> list[Case]:
    """All cases in an order that depends on ``seed`` alone: random for each reader, and the readers
    in turn.
    """
    rng = random.Random(seed)
    of_reader: dict[tuple[str, str], list[Case]] = {}
    for case in [*_of_files(seeds, rng), *_of_arguments()]:
        of_reader.setdefault((case.reader, case.command), []).append(case)
    for found in of_reader.values():
        rng.shuffle(found)
    turns = itertools.zip_longest(*of_reader.values())
    return [case for turn in turns for case in turn if case is not None]


def _of_files(seeds: Path, rng: random.Random) -> Iterator[Case]:
    for file, commands in OF_FILE.items():
        content = (seeds / file).read_bytes()
        for command, arguments in commands:
            for mutation in [
                *of_bytes(content, rng),
                *of_place(),
                *_structured(file, content),
                *spoiled(file, content, rng),
            ]:
                refuse = mutation.refuse and not _may_lack(file, mutation)
                yield Case(file, command, arguments, file, mutation, refuse)


def _may_lack(file: str, mutation: Mutation) -> bool:
    """Files without which a command can do its work, and text that may be cut anywhere."""
    # an empty store is one, and a last line that is cut off is of a killed run
    if file == "run/records.jsonl":
        return mutation.name == "empty" or mutation.name.startswith("cut")
    if file == "model.json":
        return mutation.name == "missing"  # then the file is somebody else's
    # then boxes are read alone, and a line says so
    if mutation.name.startswith("annotations.0.segmentation"):
        return True
    of_text_kind = file in (
        "campaign.toml",
        "space.toml",
        "yolo/labels/val/0.txt",
        "run/train_log.jsonl",
        "yolo/data.yaml",
        "run/summary.json",
    )
    of_text_kind |= file.endswith((".txt", ".data"))
    return of_text_kind and mutation.name.split(" ")[0] in ("empty", "cut", "missing", "nul")


def _structured(file: str, content: bytes) -> Iterator[Mutation]:
    if file.endswith(".json"):
        yield from of_json(json.loads(content))
    elif file.endswith(".jsonl"):
        lines = content.decode().splitlines()
        rest = "\n".join(lines[1:]) + "\n"
        yield from of_json(
            json.loads(lines[0]), lambda document: json.dumps(document) + "\n" + rest
        )
    elif file.endswith((".toml", ".yaml", ".txt", *TEXTS)):
        yield from of_text(content.decode())
    elif file.endswith(".safetensors"):
        yield from _of_header(content)
    elif file.endswith(".pth"):
        yield from of_pth(content)
    elif file == "foreign.onnx":
        yield from of_onnx(content)


def _of_header(content: bytes) -> Iterator[Mutation]:
    """The header of a safetensors file, and the model's card inside it."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    body = content[8 + size :]
    card = json.loads(header["__metadata__"]["card"])

    def whole(text: str) -> bytes:
        encoded = text.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(encoded)) + encoded + body

    def of_card(changed: Mutation) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            changed.apply(path)
            described = {
                **header["__metadata__"],
                "card": path.read_bytes().decode("utf-8", "surrogatepass"),
            }
            path.write_bytes(whole(json.dumps({**header, "__metadata__": described})))

        return write

    for changed in of_json(card, prefix="card."):
        yield changed._replace(apply=of_card(changed))
    few = {name: header[name] for name in ["__metadata__", *list(header)[1:3]]}
    rest: dict[str, Any] = {name: value for name, value in header.items() if name not in few}

    def of_header(changed: Mutation) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            changed.apply(path)
            text = path.read_bytes().decode("utf-8", "surrogatepass")
            if text.startswith("{") and len(text) > 2:
                text = text[:-1] + "," + json.dumps(rest)[1:]
            path.write_bytes(whole(text))

        return write

    for changed in of_json(few, prefix="header."):
        yield changed._replace(apply=of_header(changed))
    for length in (0, 1, size * 1000, 2**62, 2**64 - 1):
        lying = struct.pack("<Q", length) + content[8:]
        yield Mutation(
            f"header of {length} bytes", lambda path, lying=lying: _put(path, lying), True
        )


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _of_arguments() -> Iterator[Case]:
    for command, (arguments, flags) in ARGUMENTS.items():
        for flag in flags:
            for word in WORDS:
                if "\0" not in word:
                    yield Case("arguments", command, _with_flag(arguments, flag, word), None, None)
        yield Case("arguments", command, (), None, None)
        yield Case("arguments", command, (*arguments, "--no-such-flag"), None, None, True)


def _with_flag(arguments: Sequence[str], flag: str, word: str) -> tuple[str, ...]:
    """``flag=word`` in place of the value that ``arguments`` gives to ``flag``."""
    joint = "=" if flag.startswith("--set=") else ""
    if joint:
        return (*arguments, f"{flag}{joint}{word}")
    kept = list(arguments)
    if flag in kept:
        place = kept.index(flag)
        del kept[place : place + 2]
    return (*kept, f"{flag}={word}")
