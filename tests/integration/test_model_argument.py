"""``--model`` and ``--data`` name the same things in every command: the table of docs/cli.md, cell
by cell.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from samples_coco import CATEGORIES, picture, random_document, write_folder
from samples_exported import detector
from samples_tensorrt import FakeCudaRuntime, FakeDevice, FakeTrt
from tiny import SPACE, TINY, tiny_detector

from rfdetr_repro import cli
from rfdetr_repro.data.source import LAYOUTS
from rfdetr_repro.export.artifact import Artifact, ArtifactMeta, load_artifact, manifest_path
from rfdetr_repro.export.deployed import FileFacts, deployed, file_of_run
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.tensorrt import cuda_device
from rfdetr_repro.export.tensorrt import engine as build_module
from rfdetr_repro.export.tensorrt.engine import build_engine
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import with_classes
from rfdetr_repro.records.record import Accuracy, ArtifactId, DataId, Latency, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime import tensorrt as runtime_module
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, InputError
from rfdetr_repro.spec.labels import Labels
from rfdetr_repro.spec.model_source import SHIPPED, source_at
from rfdetr_repro.spec.protocol import Protocol

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(name for _, name in CATEGORIES)
IDS = tuple(key for key, _ in CATEGORIES)
SMALL = Arch(48, 16, 1, 1, 7)
KINDS = ("size", "weights", "run folder", "ONNX file with manifest", "other ONNX file", "engine")


def table() -> dict[str, dict[str, str]]:
    """The table of docs/cli.md: command -> kind of model -> cell."""
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    (head, rows) = re.findall(
        r"^\| command \| (size .*?) \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE
    )[0]
    kinds = head.split(" | ")
    found = {}
    for row in rows.strip().splitlines():
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        found[name.strip("`")] = dict(zip(kinds, cells, strict=True))
    return found


TABLE = table()
CELLS = [(verb, kind) for verb, cells in TABLE.items() for kind in cells]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder, random_document(0, images=4), "val")
    return write_folder(folder, random_document(1, images=4), "train")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two measured files, and a file of another program beside the run."""
    folder = tmp_path_factory.mktemp("made")
    model = with_classes(tiny_detector(), Labels(NAMES, IDS))
    run = folder / "run"
    run.mkdir()
    card = ModelCard(model.config, TINY.arch, NAMES, IDS, SPACE)
    save_detector(run / "supernet.safetensors", model.state_dict(), card)
    for arch, ap in ((SMALL, 0.3), (TINY.arch, 0.2)):
        meta = ArtifactMeta(ModelId("rfdetr", f"rfdetr-{arch.key}", arch=arch), NAMES, IDS)
        made = export_onnx(model.slice(arch), run / "artifacts" / f"{arch.key}.onnx", meta=meta)
        Store(run / "records.jsonl").append(record(made, ap))
    rows = np.array([[[4, 6, 30, 40, 0.9, 0], [10, 2, 50, 20, 0.6, 1]]], dtype=np.float32)
    detector(folder / "theirs.onnx", {"output0": rows}, image=(1, 3, 64, 64), metadata=YOLO)
    return folder


YOLO = {
    "description": "Ultralytics model",
    "author": "Ultralytics",
    "version": "8.4.0",
    "stride": "32",
    "task": "detect",
    "head": "Detect",
    "imgsz": "[64, 64]",
    "names": str(dict(enumerate(NAMES))),
    "args": "{'batch': 1, 'half': False, 'nms': True}",
    "end2end": "True",
}


def record(artifact: Artifact, ap: float, split: str = "val") -> Record:
    name = artifact.sha256
    return Record(
        "protocol",
        artifact.manifest.model,
        DataId("d", split, "b" * 64, 4),
        ArtifactId(name, name, "onnxruntime-cpu", "fp32", artifact.manifest.size_bytes),
        artifact.manifest.cost,
        Accuracy(ap, ap, ap, ap, ap, ap, artifact_sha256=name),
        latency=Latency(1.0, num_samples=64, artifact_sha256=name),
        protocol=Protocol(),
    )


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubles of TensorRT and of a GPU."""
    device = FakeDevice()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTrt(device=device))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCudaRuntime(device))  # type: ignore[arg-type]
    for place in (build_module, runtime_module, cuda_device):
        monkeypatch.setattr(place, "open_device", lambda *_: device)


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of the files, to which a command may write."""
    return Path(shutil.copytree(made, tmp_path / "made"))


def model_of(kind: str, place: Path) -> str:
    run = place / "run"
    onnx = run / "artifacts" / f"{TINY.arch.key}.onnx"
    if kind == "engine":
        return str(build_engine(load_artifact(onnx), "tensorrt", place).path)
    return {
        "size": "pico",
        "weights": str(run / "supernet.safetensors"),
        "run folder": str(run),
        "ONNX file with manifest": str(onnx),
        "other ONNX file": str(place / "theirs.onnx"),
    }[kind]


def words(verb: str, model: str, data: Path, place: Path) -> list[str]:
    """A whole command line of ``verb`` with this model."""
    out = str(place / "out")
    image = str(place / "picture.png")
    Image.fromarray(picture()).save(image)
    given = ["--model", model]
    some = ["--data", str(data)]
    short = ["--steps", "1", "--processes", "1", "--device", "cpu", "--set", "batch_size=2"]
    runtime = ["--backend", "tensorrt"] if model.endswith(".engine") else []
    store = str(place / "out" / "s.jsonl")
    rest = {
        "train": [*given, *some, *short, "--out", out],
        "finetune": [*given, *some, *short, "--out", out, "--arch", SMALL.key],
        "slim": [model, str(place / "slim.safetensors")],
        "search": [*given, *some, "--plan", "--device", "cpu"],
        "family": [*given, *some, "--patches", "10", "--resolutions", "48"],
        "export": [*given, "--out", str(place / "out.onnx")],
        "half": [model, "--out", str(place / "half.onnx")],
        "fp16-audit": [*given, "--count", "1"],
        "tensorrt": [model, "--out", out],
        "bench": [*given, *runtime, "--samples", "3", "--buffer-ms", "0", "--builds", "1"],
        "evaluate": [*given, *some, "--threads", "1"],
        "predict": [image, *given, "--out", out],
    }[verb]
    return [verb, *rest, *(["--threads", "1", "--out", store] if verb == "bench" else [])]


@pytest.mark.parametrize(("verb", "kind"), CELLS)
def test_a_cell_of_the_table(
    verb: str,
    kind: str,
    data: Path,
    place: Path,
    tensorrt: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = TABLE[verb][kind]
    weights = place / "small.safetensors"
    shutil.copy(place / "run" / "supernet.safetensors", weights)
    monkeypatch.setattr("rfdetr_repro.spec.model_source.SHIPPED", {"pico": weights})
    monkeypatch.setattr("rfdetr_repro.spec.presets.PICO_WEIGHTS", weights)
    model = model_of(kind, place)
    command = words(verb, model, data, place)
    _make_small(monkeypatch, verb)
    code = cli.main(command)
    printed = capsys.readouterr()
    if cell == "no":
        assert code == EXIT_BAD_INPUT, printed
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        assert "; " in printed.err, "the line ends with what to do"
        assert not (place / "out").exists()
        return
    # an audit that finds risks ends with 1
    assert code == 0 or (verb, code) == ("fp16-audit", 1), printed.err
    best = place / "run" / "artifacts" / f"{SMALL.key}.onnx"
    taken = {
        "its best file": f"{best}, the best measured file, with the highest AP on val (30.0)",
        "its weights": f"weights of {place / 'run' / 'supernet.safetensors'}",
        "pico": "the weights that come with this package",
        "adopted": "theirs.onnx has no manifest",
    }.get(cell, "")
    assert taken in printed.out, "the command says which file it took"


def _make_small(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """A training by name is of the smallest model, few samples are taken, and no GPU is watched."""
    if verb == "train":
        monkeypatch.setattr("rfdetr_repro.train.command.preset", lambda name: TINY)
        monkeypatch.setattr("rfdetr_repro.train.command.PICO_SPACE", SPACE)
    if verb == "bench":
        monkeypatch.setattr("rfdetr_repro.bench.gpu.device.uses_gpu", lambda backend: False)
    if verb == "finetune":
        quick = Protocol(buffer_ms=0.0, warmup=1, min_samples=3, max_samples=3)
        monkeypatch.setattr("rfdetr_repro.search.finetune.MEASURED", quick)


def test_every_kind_of_model_has_a_column_and_every_command_a_row() -> None:
    assert all(tuple(cells) == KINDS for cells in TABLE.values())
    with_model = {
        verb
        for verb in cli.VERBS
        for action in cli.program_of(verb).parser()._actions
        if "--model" in action.option_strings and "--sam" not in action.option_strings
        if verb != "train-rival"  # its --model lists names of models to train
    }
    assert with_model | {"slim"} == set(TABLE)


FORMER = {
    "train": ("--size", "--weights"),
    "finetune": ("--run",),
    "search": ("--run",),
    "family": ("--run",),
    "export": ("--checkpoint",),
    "predict": ("--checkpoint",),
    "evaluate": ("--artifact",),
    "bench": ("--onnx",),
    "pseudo-masks": ("--model",),
}


@pytest.mark.parametrize(("verb", "former"), [(v, f) for v, names in FORMER.items() for f in names])
def test_a_former_name_still_works_and_is_in_the_page(verb: str, former: str, made: Path) -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8").partition("Former names")[2]
    assert f"`{former}`" in page.partition("\n\n")[0]
    parser = cli.program_of(verb).parser()
    (action,) = (one for one in parser._actions if former in one.option_strings)
    value = "nano" if former == "--size" else str(made / "run")
    before = {
        "predict": ["a.png"],
        "finetune": ["--arch", "r64-p16-w1-d2-q10", "--out", str(made / "none")],
        "export": ["--out", str(made / "none.onnx")],
        "pseudo-masks": ["--out", str(made / "none.json")],
    }.get(verb, [])
    found = getattr(parser.parse_args([*before, former, value]), action.dest)
    assert str(found[0] if isinstance(found, list) else found) == value
    if len(action.option_strings) > 1:  # one argument with two names
        assert former not in parser.format_help().replace("--model MODEL", "")


# -- one resolver ----------------------------------------------------------------------------------


def test_a_size_comes_before_a_path_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    assert (
        source_at("nano").kind == source_at("rfdetr-nano").kind == source_at("NANO").kind == "size"
    )
    assert source_at("./nano").kind == "run"
    (tmp_path / "nano" / "model.safetensors").touch()
    (tmp_path / "nano" / "config.json").touch()
    assert source_at("./nano").kind == "weights"  # transformers wrote it


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nanno", "did you mean the size nano?"),
        ("picco", "did you mean the size pico?"),
        ("runs/none", "No such file"),
        ("https://example.org/model.pth", "download the file first"),
        ("  ", "is not a model"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "is not a model"),
    ],
)
def test_what_names_no_model_is_said_in_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        source_at(text)
    assert told in str(caught.value) and len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", list(SHIPPED))
def test_shipped_weights_exist(name: str) -> None:
    path, note = source_at(name).weights()
    assert path.is_file() and path.name in note


def test_the_file_of_a_run_by_the_stated_rule(place: Path) -> None:
    run = place / "run"
    small, large = (run / "artifacts" / f"{arch.key}.onnx" for arch in (SMALL, TINY.arch))
    assert file_of_run(run)[0] == small
    # a later Record of the same file on another split says nothing
    Store(run / "records.jsonl").append(record(load_artifact(large), 0.9, "test"))
    assert file_of_run(run)[0] == small
    # a fine-tuned file counts like the others
    tuned = run / "finetuned" / "artifacts" / "tuned.onnx"
    tuned.parent.mkdir(parents=True)
    shutil.copy(large, tuned)
    fields = json.loads(manifest_path(large).read_text())
    manifest_path(tuned).write_text(json.dumps(fields))
    Store(run / "records.jsonl").append(record(load_artifact(tuned), 0.5))
    assert file_of_run(run)[0] in (tuned, large)
    # what a budget chose comes first
    for path in (small, large):
        shutil.copy(path, run / f"best-{path.stem}.onnx")
        shutil.copy(manifest_path(path), run / f"best-{path.stem}.json")
    path, why = file_of_run(run)
    assert path == run / f"best-{large.stem}.onnx" and "chosen under a budget" in why
    (run / "records.jsonl").unlink()
    for name in ("best-5ms", "best-10ms"):  # not in the order of the alphabet
        shutil.copy(large, run / f"{name}.onnx")
        shutil.copy(manifest_path(large), run / f"{name}.json")
    path, why = file_of_run(run)
    assert path.name == "best-10ms.onnx" and "under the largest budget; no Record" in why
    for path in run.rglob("*.onnx"):
        path.unlink()
    path, why = file_of_run(run)
    assert path.name == "supernet.safetensors" and "no measured file" in why
    path.rename(run / "best.safetensors")
    assert file_of_run(run)[0].name == "best.safetensors"
    (run / "best.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no trained model \(.*run\)"):
        file_of_run(run)


def test_an_architecture_is_exported_from_the_weights_of_a_run(place: Path, tmp_path: Path) -> None:
    facts = FileFacts(arch=SMALL)
    made = deployed(source_at(place / "run"), tmp_path, facts=facts)
    assert made.manifest.model.arch == SMALL and made.path.parent == tmp_path
    onnx = place / "run" / "artifacts" / f"{SMALL.key}.onnx"
    with pytest.raises(InputError, match="--arch cannot be changed in a deployed file"):
        deployed(source_at(onnx), tmp_path, facts=facts)


# -- --data ----------------------------------------------------------------------------------------

WHOLE_FOLDERS = {"rf100"}  # verbs that read many data sets, none by its single files
READS_DATA = [
    verb
    for verb in cli.VERBS
    for action in cli.program_of(verb).parser()._actions
    if "--data" in action.option_strings
]


@pytest.mark.parametrize("verb", READS_DATA)
def test_the_data_argument_says_the_same_everywhere(verb: str) -> None:
    parser = cli.program_of(verb).parser()
    (action,) = (one for one in parser._actions if "--data" in one.option_strings)
    assert LAYOUTS in str(action.help)
    flags = [flag for one in parser._actions for flag in one.option_strings]
    files = set() if verb in WHOLE_FOLDERS else {"--annotations", "--images"}
    assert files | {"--drop-bad"} <= set(flags)


def data_in(form: str, data: Path, tmp_path: Path) -> list[str]:
    """The data arguments of one form."""
    annotations = data / "annotations" / "instances_val.json"
    if form == "folder":
        return ["--data", str(data)]
    if form == "json beside its images":
        for path in [annotations, *(data / "val").iterdir()]:
            shutil.copy(path, tmp_path)
        return ["--data", str(tmp_path / annotations.name)]
    if form == "json and images":
        return ["--data", str(annotations), "--images", str(data / "val")]
    for split in ("train", "val"):
        labels = tmp_path / "labels" / split
        images = tmp_path / "images" / split
        labels.mkdir(parents=True)
        shutil.copytree(data / split, images)
        for image in images.iterdir():
            (labels / f"{image.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    names = "\n".join(f"  {index}: {name}" for index, name in enumerate(NAMES))
    text = f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames:\n{names}\n"
    (tmp_path / "data.yaml").write_text(text)
    return ["--data", str(tmp_path / "data.yaml")]


FORMS = ("folder", "data.yaml", "json beside its images", "json and images")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verb", ["census", "evaluate", "train"])
def test_each_form_of_the_data_in_commands_of_each_kind(
    verb: str,
    form: str,
    data: Path,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _make_small(monkeypatch, verb)
    (tmp_path / "data").mkdir()
    given = data_in(form, data, tmp_path / "data")
    onnx = made / "run" / "artifacts" / f"{SMALL.key}.onnx"
    out = str(tmp_path / "out")
    rest = {
        "census": [],
        "evaluate": ["--model", str(onnx), "--threads", "1"],
        "train": ["--out", out, "--steps", "1", "--processes", "1", "--set", "batch_size=2"],
    }[verb]
    assert cli.main([verb, *given, *rest]) == 0, capsys.readouterr().err
    assert "4 images" in capsys.readouterr().out
