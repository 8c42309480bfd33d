"""One search at a time writes a store, one campaign and one training a folder; a lock ends with its
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples_bench import fake_artifact
from samples_run import run_records
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.records.store import Store, read_stores
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError
from rfdetr_repro.spec.files import locked, locked_folder
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.state import STATE

FOR_EVER = 86_400.0  # seconds; it is killed before
HOLDER = """
import sys, time
from samples_run import run_records
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.records.store import Store
def main(argv):
    store = Store(sys.argv[1])
    with store.exclusive():
        store.append(run_records()[0])
        print("holding", flush=True)
        time.sleep(float(sys.argv[2]))
raise SystemExit(run_main(main))
"""


def start(path: Path, seconds: float, *more: str, script: str = HOLDER) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests" / "support")]),
    }
    command = [sys.executable, "-c", script, str(path), str(seconds), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def test_a_second_search_gets_one_line_and_a_killed_one_leaves_no_lock(tmp_path):
    store = Store(tmp_path / "records.jsonl")
    holder = start(store.path, FOR_EVER)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        second = start(store.path, 0)
        out, err = second.communicate(timeout=600)
        assert second.returncode == EXIT_BAD_INPUT and out == "" and err.count("\n") == 1
        assert f"another run (pid {holder.pid} since 2" in err and "writes this store" in err
        # readers are not kept waiting
        assert store.read() == run_records()[:1] == read_stores([tmp_path])
    finally:
        holder.kill()
        holder.communicate()
    with store.exclusive():  # a resumed run works
        store.append(run_records()[1])
    assert store.read() == run_records()[:2]


def test_the_lock_ends_with_its_block(tmp_path):
    store = Store(tmp_path / "folder" / "records.jsonl")
    for _ in range(2):
        with pytest.raises(RuntimeError), store.exclusive():
            with (
                pytest.raises(
                    InputError,
                    match=rf"another run \(pid {os.getpid()} since .+\) writes this store",
                ),
                Store(store.path).exclusive(),
            ):
                pass
            raise RuntimeError
    with Store(tmp_path / "folder" / "other.jsonl").exclusive():
        pass


def test_a_place_that_takes_no_lock_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    exclusive = Store(tmp_path / "file" / "records.jsonl").exclusive()
    with pytest.raises(InputError, match="cannot write"), exclusive:
        pass


CAMPAIGN = """
import sys, time
from rfdetr_repro.reproduce import command as reproduce
from rfdetr_repro.reproduce.run import Reproduction
from rfdetr_repro.spec.errors import run_main
def data(run):
    print("composing", flush=True)
    time.sleep(float(sys.argv[2]))
    raise KeyboardInterrupt
Reproduction.data = data
raise SystemExit(run_main(reproduce.main, ["--out", sys.argv[1]]))
"""
TRAINING = """
import sys, time
from pathlib import Path
from tiny import SPACE, TINY, TRAIN
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.train.trainer import Recipe, Trainer
from rfdetr_repro.train.run import TrainRequest, train
def main(argv):
    step = Trainer.train_step
    def slow(trainer, batches):
        print("step", trainer.state.step, flush=True)
        time.sleep(float(sys.argv[2]) * (trainer.state.step == 4))
        return step(trainer, batches)
    Trainer.train_step = slow
    split = read_split(sys.argv[3], "train")
    train(TrainRequest(Recipe(TINY, TRAIN, SPACE), split, Path(sys.argv[1]), processes=2))
raise SystemExit(run_main(main))
"""


def said_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while (said := process.stdout.readline()) != line:
        assert said, f"it ended without {line!r}"


def test_a_second_campaign_in_a_folder_gets_one_line_and_a_killed_one_leaves_no_lock(tmp_path):
    with start(tmp_path, FOR_EVER, script=CAMPAIGN) as first:
        try:
            said_until(first, "composing\n")
            for script in (CAMPAIGN, HOLDER):  # another campaign, and a search of the same store
                second = start(
                    tmp_path if script == CAMPAIGN else tmp_path / "records.jsonl", 0, script=script
                )
                out, err = second.communicate(timeout=600)
                assert second.returncode == EXIT_BAD_INPUT and out == "" and err.count("\n") == 1
                assert f"another run (pid {first.pid} since 2" in err and "writes this store" in err
        finally:
            first.kill()
    resumed = start(tmp_path, 0, script=CAMPAIGN)
    out, err = resumed.communicate(timeout=600)
    assert (
        "composing\n" in out and resumed.returncode == EXIT_INTERRUPTED and "another run" not in err
    )


def test_a_second_training_in_a_folder_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    data = write_embedded(
        tmp_path / "data",
        EmbeddedConfig(64, train_images=4, val_images=1, test_images=1),
        workers=1,
    )
    recipe = Recipe(TINY, TRAIN, SPACE)
    split = read_split(data, "train")
    run = tmp_path / "run"
    request = TrainRequest(recipe, split, run, processes=1)
    # two processes: one of them has the lock
    with start(run, FOR_EVER, str(data), script=TRAINING) as first:
        try:
            said_until(first, "step 4\n")  # a checkpoint lies there
            with pytest.raises(
                InputError,
                match=rf"another run \(pid {first.pid} since 2.+\) trains in this folder",
            ):
                train(request)
        finally:
            first.kill()
    assert train(request).steps == TRAIN.steps
    # a finished run trains nothing, and waits for nobody
    with locked(run / STATE, "trains in this folder"):
        assert train(request).steps == TRAIN.steps


BENCH = """
import sys
from samples_bench import FakeSession
from rfdetr_repro.bench.command.run import main
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.export import trial
from rfdetr_repro.runtime import backends
trial.tried = lambda artifact: artifact  # the files hold no models
def open_fake(artifact, backend="onnxruntime", **options):
    return FakeSession(artifact, runtime=backend)

backends.open_session = open_fake
raise SystemExit(run_main(main, sys.argv[3:]))
"""


def test_two_benches_of_one_store_lose_nothing(tmp_path):
    names = [[f"{who}{number}" for number in range(4)] for who in "ab"]
    files = [[str(fake_artifact(tmp_path, name).path) for name in some] for some in names]
    quick = [
        "--samples",
        "16",
        "--buffer-ms",
        "5",
        "--builds",
        "2",
        "--no-twice",
        "--out",
        str(tmp_path / "s.jsonl"),
    ]
    both = [start(tmp_path, 0, "--onnx", *some, *quick, script=BENCH) for some in files]
    for process in both:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    assert {record.model.name for record in Store(tmp_path / "s.jsonl").read()} == {
        name for some in names for name in some
    }


COMPOSE = """
import sys, time
from pathlib import Path
from rfdetr_repro.data.embedded import dataset as embedded
from rfdetr_repro.data.embedded import folder as writing
from rfdetr_repro.spec.errors import run_main
write = writing._write_image
def slow(scene, index, *rest):
    print("image", index, flush=True)
    time.sleep(float(sys.argv[2]))
    return write(scene, index, *rest)
writing._write_image = slow
config = embedded.EmbeddedConfig(64, train_images=1, val_images=1, test_images=1)
def main(argv):
    embedded.write_embedded(Path(sys.argv[1]), config, workers=1)

raise SystemExit(run_main(main))
"""


def test_a_second_process_that_composes_the_same_data_set_is_refused(tmp_path):
    with start(tmp_path, FOR_EVER, script=COMPOSE) as first:
        try:
            said_until(first, "image 0\n")
            second = start(tmp_path, 0, script=COMPOSE)
            out, err = second.communicate(timeout=600)
            assert second.returncode == EXIT_BAD_INPUT and out == "" and err.count("\n") == 1
            assert "another run composes this data set" in err
        finally:
            first.kill()
    for _ in range(2):  # a killed one leaves no lock, and a finished set needs none
        again = start(tmp_path, 0, script=COMPOSE)
        out, err = again.communicate(timeout=600)
        assert again.returncode == 0 and err == ""
    assert out == "" and len(list(tmp_path.glob("*/*.jpg"))) == 3


APPENDER = """
import sys
from samples_records import measured
from rfdetr_repro.records.store import Store
for number in range(int(sys.argv[2])):
    Store(sys.argv[1]).append(measured(size=f"{sys.argv[3]}-{number}"))
"""


def test_no_append_of_many_processes_is_lost(tmp_path):
    path = tmp_path / "records.jsonl"
    writers = [start(path, 100, name, script=APPENDER) for name in "abcd"]
    for writer in writers:
        _, err = writer.communicate(timeout=600)
        assert writer.returncode == 0, err
    assert len(path.read_bytes().splitlines()) == 400
    own = {name: [] for name in "abcd"}
    for record in Store(path).read():
        name, _, number = record.model.size.partition("-")
        own[name].append(int(number))
    assert all(numbers == list(range(100)) for numbers in own.values())


KEEPERS = {
    "an append": """
import fcntl
stream = open(sys.argv[1], "ab+")
fcntl.flock(stream, fcntl.LOCK_EX)
""",
    "a store": """
from rfdetr_repro.spec.files import locked, locked_folder
keeper = locked(sys.argv[1], "writes this store")
keeper.__enter__()
""",
    "a folder": """
from pathlib import Path
from rfdetr_repro.spec.files import locked_folder
keeper = locked_folder(Path(sys.argv[1]).parent, "writes here")
keeper.__enter__()
""",
}


@pytest.mark.parametrize("kind", KEEPERS)
def test_a_lock_ends_with_a_killed_process(tmp_path, kind):
    path = tmp_path / "records.jsonl"
    script = f"import sys, time\n{KEEPERS[kind]}\nprint('holding', flush=True)\ntime.sleep(86400)"
    keeper = start(path, FOR_EVER, script=script)
    try:
        assert keeper.stdout is not None and keeper.stdout.readline() == "holding\n"
        if kind == "a store":
            with pytest.raises(InputError, match=f"pid {keeper.pid}"), Store(path).exclusive():
                pass
        elif kind == "a folder":
            with pytest.raises(InputError, match="another run"), locked_folder(tmp_path, "writes"):
                pass
    finally:
        keeper.kill()
        keeper.wait()
    Store(path).append(run_records()[0])
    with Store(path).exclusive(), locked_folder(tmp_path, "writes"):
        assert len(Store(path).read()) == 1
