"""The first run of an ONNX file of another program: in a separate process, with limits on memory
and time.

A few hundred bytes of ONNX can request terabytes, loop endlessly, or crash the process that runs
them. A file is therefore run once on noise in a helper process, so that only the helper is
affected. The helper (:func:`serve`) loads the libraries once and forks for each file. This module
does not import PyTorch.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.contract import content_of
from rfdetr_repro.spec.errors import InputError

LARGEST_PIXELS = 2048 * 2048  # largest number of pixels of an image input
MOST_IMAGES = 64  # a larger batch is tried only if its images are smaller
# bytes of memory that every file may use; larger files and images may use more
BASE_BYTES = 3 * 2**29
BYTES_PER_FILE_BYTE = 10
BYTES_PER_INPUT_BYTE = 100
BASE_SECONDS = 15  # seconds of processor time that every file may use
SECONDS_PER_MB = 0.3  # seconds of processor time per MB of the file
PATIENCE = 20  # factor on the processor time, after which a helper without progress is ended
# number of values fetched per run; more if the previous values were small
AT_A_TIME = 48
MOST_AT_A_TIME = 4096
SMALL_BYTES = 2**24

_BYTES = {
    "float16": 2,
    "int16": 2,
    "uint16": 2,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "float64": 8,
    "int64": 8,
    "uint64": 8,
}

# (the process that started the helper, the helper)
_helper: tuple[int, subprocess.Popen[bytes]] | None = None


class Output(NamedTuple):
    """An output of the run: numpy dtype name, shape, and whether all its elements are finite."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    finite: bool

    @property
    def nbytes(self) -> int:
        """Size of the content in bytes; for text, at least the number of strings."""
        return math.prod(self.shape) * _BYTES.get(self.dtype, 1)


def check_size(height: int, width: int, path: str | Path, images: int = 1) -> None:
    """Raises :class:`InputError` for an image input with more than LARGEST_PIXELS pixels, and for
    a batch of images with more pixels than MOST_IMAGES of the largest images.
    """
    if height * width > LARGEST_PIXELS:
        what = f"the model takes images of {height}x{width}, more than {LARGEST_PIXELS} pixels"
        raise InputError(what, path, "export the model for a smaller size")
    if images * height * width > MOST_IMAGES * LARGEST_PIXELS:
        what = f"the model takes {images} images of {height}x{width} at once, which is too much"
        raise InputError(what, path, "export the model for fewer images")


def run_once(
    content: bytes,
    path: str | Path,
    *,
    optimised: bool = True,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[Output]:
    """Loads the ONNX model ``content`` in ONNX Runtime on the CPU and runs the model on noise in
    0..1, in another process.

    ``optimised``: with all graph optimisations, or with none. ``shapes``: shapes of inputs that the
    file leaves open. ``path`` names the file in errors. Raises :class:`InputError` for a model that
    does not load or run, that uses more memory or time than allowed for its size, or that ends the
    process.
    """
    fixed = {name: list(shape) for name, shape in (shapes or {}).items()}
    seconds = math.ceil(BASE_SECONDS + SECONDS_PER_MB * len(content) / 1e6)
    request = {"bytes": len(content), "seconds": seconds, "optimised": optimised, "shapes": fixed}
    answer = _ask(request, content, seconds * PATIENCE, path)
    if "outputs" in answer:
        return [
            Output(name, dtype, tuple(shape), finite)
            for name, dtype, shape, finite in answer["outputs"]
        ]
    raise InputError(str(answer["error"]), path, str(answer.get("hint", "export it again")))


def tried(artifact: Artifact) -> Artifact:
    """``artifact`` itself, after :func:`run_once` if it is an ONNX file; raises :class:`InputError`
    also for outputs that are not finite.
    """
    if artifact.manifest.format != "onnx":
        return artifact
    manifest = artifact.manifest
    check_size(*manifest.input_hw, artifact.path)
    # two images of a file that takes any number: one image would also fit a fixed batch of 1
    opened = {spec.name: (2, *spec.shape[1:]) for spec in manifest.inputs if manifest.open_batch}
    found = run_once(content_of(artifact, "onnx"), artifact.path, shapes=opened)
    if odd := [
        output.name for output in found if output.name in ("scores", "boxes") and not output.finite
    ]:
        hint = (
            "check for an overflow in half precision or broken weights, and export the model again"
        )
        raise InputError(
            f"the model returns {' and '.join(odd)} that are not finite", artifact.path, hint
        )
    return artifact


def _ask(
    request: dict[str, Any], content: bytes, patience_s: float, path: str | Path
) -> dict[str, Any]:
    """Sends a file to the helper and waits for the answer; a helper that does not answer is
    ended.
    """
    helper = _started()
    requests = _pipe(helper.stdin)
    answers = _pipe(helper.stdout)
    try:
        requests.write(json.dumps(request).encode() + b"\n")
        requests.write(content)
        requests.flush()
        ready, _, _ = select.select([answers], [], [], patience_s)
        line = answers.readline() if ready else b""
    except BaseException as error:
        _stop()
        if isinstance(error, OSError):
            raise InputError(
                f"the process that tries the model ended ({error})", path, "run the command again"
            ) from error
        raise
    if not line:
        _stop()
        raise InputError("the model does not load and run in time", path, "export it again")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """An end of the helper, which is started with pipes."""
    if stream is None:
        raise RuntimeError("the helper was started without pipes")
    return stream


def _started() -> subprocess.Popen[bytes]:
    global _helper
    if _helper is not None and _helper[0] == os.getpid() and _helper[1].poll() is None:
        return _helper[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part or str(Path.cwd()) for part in sys.path),
    }
    command = [sys.executable, "-c", "from rfdetr_repro.export.trial import serve; serve()"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    _helper = os.getpid(), child
    atexit.register(_stop)
    return child


def _stop() -> None:
    """Ends the helper that this process started, and the run of the file."""
    global _helper
    if _helper is None or _helper[0] != os.getpid():
        return
    _, child = _helper
    _helper = None
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    for stream in (child.stdin, child.stdout):
        with suppress(OSError):
            _pipe(stream).close()
    child.wait()


# -- in the helper ---------------------------------------------------------------------------------


class _NotLoaded(Exception):
    """ONNX Runtime cannot load the file."""


def serve() -> None:
    """Reads requests, each a line of JSON and the file, and answers each with a line of JSON, until
    the input ends.
    """
    import numpy  # noqa: F401 (loaded once, for all forks)
    import onnxruntime  # noqa: F401

    # what ONNX Runtime itself prints about a file must not be taken for an answer
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests = sys.stdin.buffer
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["bytes"])
        child = os.fork()
        if child == 0:
            _answer(content, request, answers)  # does not return
        del content
        _, status = os.waitpid(child, 0)
        if status:
            _say(_of_end(os.waitstatus_to_exitcode(status)), answers)


def _say(answer: dict[str, Any], answers: int) -> None:
    os.write(answers, json.dumps(answer).encode() + b"\n")


def _of_end(code: int) -> dict[str, str]:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return {
            "error": "the model does not load and run on one image in time, or uses too much memory"
        }
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return {"error": f"the model crashes the process that runs it ({name})"}


def _answer(content: bytes, request: dict[str, Any], answers: int) -> None:
    answer: dict[str, Any]
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 5))
        _bound_memory(BASE_BYTES + BYTES_PER_FILE_BYTE * len(content))
        answer = {"outputs": list(_run(content, request["optimised"], request["shapes"]))}
    except _NotLoaded as error:
        answer = {"error": f"ONNX Runtime cannot load the model ({' '.join(str(error).split())})"}
    except MemoryError:
        answer = {"error": "the model uses too much memory for a file of its size"}
    except Exception as error:  # ONNX Runtime's own exception types share no public base class
        message = " ".join(str(error).split())
        small = any(word in message for word in ("bad_alloc", "Failed to allocate", "overflow"))
        what = "uses too much memory" if small else "does not run on one image"
        answer = {"error": f"the model {what} ({message})"}
    _say(answer, answers)
    os._exit(0)


def _bound_memory(most: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _run(
    content: bytes, optimised: bool, shapes: dict[str, list[int]]
) -> Iterator[tuple[str, str, list[int], bool]]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _NotLoaded(str(error)) from error
    feed = {
        value.name: _noise(value, shapes.get(value.name, value.shape))
        for value in session.get_inputs()
    }
    most = sum(array.nbytes for array in feed.values())
    _bound_memory(BASE_BYTES + BYTES_PER_FILE_BYTE * len(content) + BYTES_PER_INPUT_BYTE * most)
    names = [value.name for value in session.get_outputs()]
    start = 0
    count = AT_A_TIME
    while start < len(names):
        part = names[start : start + count]
        arrays = [np.asarray(array) for array in session.run(part, feed)]
        for name, array in zip(part, arrays, strict=True):
            finite = array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
            yield name, array.dtype.name, list(array.shape), finite
        start += count
        count = (
            min(2 * count, MOST_AT_A_TIME)
            if sum(array.nbytes for array in arrays) < SMALL_BYTES
            else AT_A_TIME
        )


def _noise(value: Any, shape: Sequence[Any]) -> Any:
    """Noise in 0..1 for a floating-point input, zeros for other inputs."""
    import numpy as np

    types = {"float": "float32", "double": "float64"}
    name = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype(types.get(name, name))
    images = min(shape[0], MOST_IMAGES) if len(shape) == 4 and isinstance(shape[0], int) else 1
    if (
        not all(isinstance(side, int) and side >= 0 for side in shape)
        or math.prod(shape) > 3 * LARGEST_PIXELS * images
    ):
        raise ValueError(f"the input {value.name} has the shape {list(shape)}")
    return np.random.default_rng(0).random(shape, dtype=np.float32).astype(dtype)
