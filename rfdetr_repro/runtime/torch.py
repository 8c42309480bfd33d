"""PyTorch runs an artifact: eagerly on CPU or GPU, or as one CUDA graph that is captured when the
session is opened.

The file is one that ``--to torch`` writes. Matrix products are computed in float32, not in TF32; on
a CPU with AMX the linear layers use the split products of ``model/linear.py``, which are as exact
as float32. An artifact that is to be run in float16 or bfloat16 (``runtime/bfloat16.py``) is
computed as ``runtime/torch_precision.py`` describes, after a check against float32 on the same
device. A failed capture raises an error; the session never falls back to eager execution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rfdetr_repro.export.artifact import Artifact, TensorSpec
from rfdetr_repro.export.contract import UNKNOWN, Array, check_images, check_input, content_of
from rfdetr_repro.export.torch import read_subnet
from rfdetr_repro.model.linear import float32_parts
from rfdetr_repro.model.postprocess import Ranked, top_k
from rfdetr_repro.model.selection import in_full
from rfdetr_repro.ops import HAS_PACKED_LINEAR, HAS_SPLIT_LINEAR
from rfdetr_repro.ops.device import choose_device, torch_threads
from rfdetr_repro.spec.errors import InputError, StatedFailure

from .session import Detections, Session, identity_of
from .torch_precision import DTYPES, REGIONS, in_precision

WARMUP = 3  # runs before a capture, in which kernels are chosen and workspaces allocated


class TorchSession(Session):
    """PyTorch on the GPU if there is one, else on the CPU.

    On a GPU, TF32 is turned off for the whole process.
    """

    def __init__(self, artifact: Artifact, threads: int = 2, *, graph: bool = False) -> None:
        """Loads the subnet in the precision of the manifest and, with ``graph``, captures a CUDA
        graph.

        ``threads``: number of CPU threads during :meth:`launch`. Raises :class:`InputError` for
        ``graph`` without a GPU and for a precision that PyTorch does not compute,
        :class:`StatedFailure` if the precision disagrees with float32 or the capture fails.
        """
        device = graph_device() if graph else choose_device()
        self.manifest = artifact.manifest
        self._threads = threads
        subnet = read_subnet(content_of(artifact, "torch"), artifact.path)
        manifest = artifact.manifest
        sides = (3, *subnet.arch.input_hw)
        stated = UNKNOWN if manifest.open_batch else manifest.images_per_run
        check_input([TensorSpec("images", (stated, *sides), "float32")], artifact)
        if device.type == "cuda":
            without_tf32()
        with torch_threads(threads):
            self._subnet = in_precision(subnet.to(device), manifest.precision, artifact.path)
        self._dtype = DTYPES[manifest.precision]
        self._images = torch.zeros((manifest.images_per_run, *sides), device=device)
        self._ranked: Ranked | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        settings = f"threads={threads} torch={torch.__version__} "
        if device.type == "cuda":
            self._events = (
                torch.cuda.Event(enable_timing=True),
                torch.cuda.Event(enable_timing=True),
            )
            settings += "tf32=no"
        else:
            linear = "packed" if HAS_PACKED_LINEAR else "plain"
            if HAS_SPLIT_LINEAR:
                linear = f"split{float32_parts()}"
            settings += f"linear={linear if self._dtype == torch.float32 else 'plain'}"
        if self._dtype != torch.float32:
            settings += f" float32={','.join(REGIONS)}"
        if graph:
            self._graph = self._capture()
        self.artifact_id = identity_of(
            artifact, f"torch-{device.type}-{'graph' if graph else 'eager'}", settings
        )

    @torch.inference_mode()
    def _capture(self) -> torch.cuda.CUDAGraph:
        """Warms up on a side stream, as a capture requires, then records one pass over fixed
        buffers.
        """
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUP):
                    self._forward()
            torch.cuda.current_stream().wait_stream(stream)
            # calls of other threads, such as those that pin memory, do not end the capture
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._ranked = self._forward()
        except RuntimeError as error:
            raise StatedFailure(
                f"the CUDA graph of {self.manifest.model.name} was not captured: {error}"
            ) from error
        return graph

    def _forward(self) -> Ranked:
        outputs = self._subnet(self._images.to(self._dtype))
        ranked = top_k(outputs, self._subnet.arch.queries)
        masks = ranked.mask_logits
        return ranked if masks is None else ranked._replace(mask_logits=in_full(masks))

    def bind(self, images: Array) -> None:
        """Copies float32 (B, 3, H, W) images to the device; another number of images than before
        gets new buffers, and a new CUDA graph where one is replayed.
        """
        source = torch.from_numpy(check_images(images, self.manifest))
        if self._events is not None:
            without_tf32()  # another part of the program may have allowed it since
        if source.shape != self._images.shape:
            self._images = self._images.new_zeros(source.shape)
            if self._graph is not None:
                self._graph = self._capture()
        self._images.copy_(source)

    @torch.inference_mode()
    def launch(self) -> None:
        """Runs one forward pass, or replays the graph; on a GPU, waits for the end."""
        with torch_threads(self._threads):
            self._launch()

    def _launch(self) -> None:
        if self._events is None:
            self._ranked = self._forward()
            return
        start, end = self._events
        start.record()
        if self._graph is None:
            self._ranked = self._forward()
        else:
            self._graph.replay()
        end.record()
        end.synchronize()

    @property
    def gpu_ms(self) -> float | None:
        """Duration of the last ``launch`` in ms between two CUDA events; None on the CPU."""
        return (
            None if self._events is None else float(self._events[0].elapsed_time(self._events[1]))
        )

    @property
    def cuda_graph(self) -> bool | None:
        """Whether ``launch`` replays a captured CUDA graph; None on the CPU."""
        return None if self._events is None else self._graph is not None

    @property
    def device_index(self) -> int:
        """The number of the GPU among those that CUDA shows; 0 also on a CPU."""
        return self._images.device.index or 0

    def outputs(self) -> Detections:
        """Copies the outputs to host memory."""
        if self._ranked is None:
            raise RuntimeError("outputs are read before launch")
        values: list[Tensor] = [value for value in self._ranked if value is not None]
        return Detections.of([value.cpu().numpy() for value in values])


def without_tf32() -> None:
    """Makes products and convolutions of float32 on a GPU exact, for the whole process."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def graph_device() -> torch.device:
    """The GPU, which a CUDA graph needs; raises :class:`InputError` if there is none."""
    if not torch.cuda.is_available():
        raise InputError(
            "torch-graph needs a CUDA device, and there is none", hint="choose the backend torch"
        )
    return choose_device("cuda")
