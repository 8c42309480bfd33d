"""The benchmark command with models of their own weights, names of files, batches and --quick."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from samples_export import ARCH, meta, tiny_detector

from rfdetr_repro import cli
from rfdetr_repro.bench.command import run as command
from rfdetr_repro.bench.command.arguments import parser
from rfdetr_repro.bench.command.checks import check
from rfdetr_repro.bench.command.named_inputs import files_of, models_of
from rfdetr_repro.bench.command.printing import beside, lines
from rfdetr_repro.bench.command.protocols import protocols_of
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.records.samples import load_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError, run_main


def parsed(*arguments: str) -> object:
    args = parser().parse_args(list(arguments))
    check(args)
    return args


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "b=c.safetensors", "x.onnx", "y=z.onnx"):
        (tmp_path / name).write_bytes(b"w")
    return tmp_path


def test_each_model_has_its_own_weights(weights: Path) -> None:
    args = parsed("--models", "rfdetr-nano=a.pth,dfine-s", "dfine-m=b=c.safetensors")
    assert models_of(args) == [
        ("rfdetr-nano", Path("a.pth")),
        ("dfine-s", None),
        ("dfine-m", Path("b=c.safetensors")),
    ]
    assert models_of(parsed("--models", "nano", "--checkpoint", "a.pth")) == [
        ("nano", Path("a.pth"))
    ]
    assert models_of(parsed("--model", "x.onnx")) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--models", "a=none.pth"), "none.pth"),
        (("--models", "a="), "is not NAME=WEIGHTS"),
        (("--models", "=a.pth"), "is not NAME=WEIGHTS"),
        (("--models", "a=a.pth,b", "--checkpoint", "a.pth"), "--checkpoint needs exactly one"),
        (("--models", "a=a.pth", "--checkpoint", "a.pth"), "each its own: --models NAME=FILE"),
        (("--models", "a=a.pth", "--inject", "5"), "--inject is for random weights"),
        (("--models", "a", "--labels", "coco"), "no weights are given"),
        (("--model", "x.onnx", "--batch", "1,1"), "names a number twice"),
        (("--model", "x.onnx", "--batch", "0"), "--batch"),
        (("--model", "x.onnx", "--batch", "2", "--protocol", "paced"), "arrive one at a time"),
        (("--model", "x.onnx", "--batch", "2", "--campaign", "table1"), "one image at a time"),
        (("--model", "x.onnx", "--quick", "--formal"), "--quick is for a first look"),
        (("--model", "x.onnx", "--seconds", "5"), "--seconds has no meaning"),
        (("--model", "x.onnx", "--protocol", "both", "--fps", "60"), "--fps has no meaning"),
        (("--campaign", "table1", "--protocol", "both"), "--protocol has no meaning"),
        (("--model", "x.onnx", "--precision", "int4"), "precision"),
        (("--model", "x.onnx", "--threads", "1,1"), "names a number of threads twice"),
        (("--model", "x.onnx", "--threads", "all,all"), "names a number of threads twice"),
        (("--model", "x.onnx", "--threads", "none"), "--threads"),
        (("--model", "x.onnx", "--backend", "onnx"), "'onnx' is no runtime"),
        (("--model", "x.onnx", "--backend", "openvino,openvino"), "twice"),
        (
            ("--model", "x.onnx", "--backend", "onnxruntime,tensorrt"),
            "only onnxruntime and openvino",
        ),
    ],
)
def test_what_does_not_go_together(arguments: tuple[str, ...], told: str, weights: Path) -> None:
    with pytest.raises(InputError) as raised:
        parsed(*arguments)
    assert told in str(raised.value)


def test_files_may_be_given_a_name(weights: Path) -> None:
    args = parsed("--model", "rival=x.onnx", "y=z.onnx", "./x.onnx", "--model", "nano")
    assert files_of(args) == [
        ("rival", "x.onnx"),
        (None, "y=z.onnx"),  # a file of this name is there
        (None, "./x.onnx"),
        (None, "nano"),
    ]


def test_protocols_by_batch() -> None:
    args = parsed("--models", "nano", "--batch", "1,8")
    assert [(one.mode, one.batch) for one in protocols_of(args)] == [
        ("sustained", 1),
        ("sustained", 8),
    ]
    args = parsed("--models", "nano", "--batch", "2", "--protocol", "both")
    assert [(one.mode, one.batch) for one in protocols_of(args)] == [
        ("buffered", 2),
        ("sustained", 2),
    ]
    assert [(one.mode, one.batch) for one in protocols_of(parsed("--models", "nano"))] == [
        ("buffered", 1)
    ]


def test_quick_takes_less_and_says_so() -> None:
    (quick,), (full,) = (
        protocols_of(parsed("--models", "nano", *more)) for more in (("--quick",), ())
    )
    assert quick.quick and not full.quick
    assert (quick.min_samples, quick.max_samples, quick.builds) == (32, 32, 2)
    assert (full.min_samples, full.max_samples, full.builds) == (64, 256, 4)
    (chosen,) = protocols_of(
        parsed("--models", "nano", "--quick", "--samples", "40", "--builds", "3")
    )
    assert (chosen.min_samples, chosen.max_samples, chosen.builds) == (40, 40, 3)


# -- with files that run ---------------------------------------------------------------------------

FAST = ["--samples", "32", "--builds", "1", "--threads", "1", "--no-twice"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[object, str]:
    folder = tmp_path_factory.mktemp("files")
    subnet = tiny_detector().slice(ARCH)
    return {
        batch: str(
            export_onnx(subnet, folder / f"b{batch}.onnx", meta=meta("random"), batch=batch).path
        )
        for batch in (1, 4, "dynamic")
    }


def run(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> tuple[int, str, str]:
    wait = [] if "--batch" in arguments else ["--buffer-ms", "0"]  # batches are sustained
    code = run_main(command.main, [*arguments, *wait, *FAST, "--out", str(out)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_throughput_by_batch(
    files: dict[object, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.jsonl"
    mine = f"mine={files['dynamic']}"
    code, printed, err = run(capsys, out, "--model", mine, "--batch", "1,4", "--wide")
    assert code == 0, err
    found = {one.protocol.batch: one for one in Store(out).read()}
    assert set(found) == {1, 4}
    for batch, one in found.items():
        latency = one.latency
        assert one.model.name == "mine" and one.artifact.sha256 == found[1].artifact.sha256
        samples = load_samples(tmp_path, latency.samples_sha256).ms
        assert latency.images_per_s == pytest.approx(1e3 * batch / samples.mean())
        if latency.images_per_s_low is not None:  # None on a machine that is too unsteady
            assert latency.images_per_s_low < latency.images_per_s < latency.images_per_s_high
    table = [line for line in printed.splitlines() if line.startswith(("model ", "mine "))]
    assert "images/s" in table[0] and "sustained, batch 4" in table[2]
    assert {one.latency.peak_memory_bytes for one in found.values()} == {123_400_000}  # of conftest
    assert "memory MB" in table[0] and "file MB" in table[0] and " 123.4 " in table[1]
    size = Path(files["dynamic"]).stat().st_size
    assert f" {size / 1e6:.1f} " in table[1] and " random " in table[1]


def test_a_batch_that_a_file_does_not_take_does_not_lose_the_others(
    files: dict[object, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", f"one={files[1]}", f"any={files['dynamic']}", "--batch", "1,4"]
    code, printed, err = run(capsys, tmp_path / "s.jsonl", *arguments)
    assert code == 1
    told = "failed: the file takes one image at once, not 4"
    [row] = [line for line in printed.splitlines() if line.startswith("one, batch 4 ")]
    assert told in row and "--batch dynamic" in row
    assert "failed: one, batch 4: the file takes one image" in err and "1 of 3 rows" in err
    names = sorted(
        (one.model.name, one.protocol.batch) for one in Store(tmp_path / "s.jsonl").read()
    )
    assert names == [("any", 1), ("any", 4), ("one", 1)]
    code, _, err = run(capsys, tmp_path / "t.jsonl", "--model", files[4])
    assert code == 2 and "the file takes 4 images at once, not 1" in err
    assert not (tmp_path / "t.jsonl").exists()


def test_rows_of_an_earlier_command_stand_beside(
    files: dict[object, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.jsonl"
    assert run(capsys, out, "--model", f"first={files[1]}")[0] == 0
    assert run(capsys, out, "--model", f"fast={files[1]}", "--quick")[0] == 0
    code, printed, _ = run(capsys, out, "--model", f"second={files['dynamic']}")
    assert code == 0
    rows = [line.split("  ")[0] for line in printed.splitlines()]
    assert "second" in rows and "first *" in rows and "fast *" not in rows, printed
    assert "* measured by an earlier command" in printed
    records = Store(out).read()
    assert list(beside({"s": [records[2]]}, records)) == ["first *"]


def test_the_next_command_is_one(
    files: dict[object, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "with a space" / "s.jsonl"
    assert run(capsys, out, "--model", f"first={files[1]}")[0] == 0
    code, printed, _ = run(capsys, out, "--model", f"first={files[1]}")
    assert code == 0
    [line] = [line for line in printed.splitlines() if line.startswith("next: ")]
    program, verb, *arguments = shlex.split(line.removeprefix("next: "))
    assert program == "rfdetr-repro" and str(out) in arguments
    cli.program_of(verb).parser().parse_args(arguments)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_does_without_columns(
    width: int, files: dict[object, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.jsonl"
    assert run(capsys, out, "--model", f"a={files[1]}", "--protocol", "both")[0] == 0
    records = {"a": Store(out).read()}
    failures = {"b": InputError("the file does not run, and many words say why " * 3, "b.onnx")}
    whole = lines(records, failures)
    narrow = lines(records, failures, width)
    assert max(map(len, narrow)) <= width, narrow
    assert narrow[0].startswith("model") and "median ms" in narrow[0]
    assert "left out on this narrow terminal" not in " ".join(whole)
    joined = " ".join(" ".join(narrow).split())
    # the heading of the latencies is shortened before any column is left out
    columns, all_columns = (len(re.split(r" {2,}", one[0].strip())) for one in (narrow, whole))
    assert columns <= all_columns
    assert ("--wide prints them" in joined) == (columns < all_columns)
    assert "many words say why (b.onnx)" in joined


def test_a_very_narrow_terminal_gets_short_names(
    files: dict[object, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.jsonl"
    name = "a-name-as-long-as-people-give-them-with-a-date-and-more"
    arguments = ["--model", f"{name}={files['dynamic']}", "--batch", "1,4", "--quick"]
    assert run(capsys, out, *arguments)[0] == 0
    shown = lines({name: Store(out).read()}, None, 60)
    assert max(map(len, shown)) <= 60, shown
    assert shown[1].startswith("a-na") and "sustained, batch 4, quick" in shown[2]
