"""How the paper's latencies were taken, and whether a measured one was taken the same way.

Sources: RF-DETR (arXiv 2511.09554) section 4 and Appendix A: T4, TensorRT 10.4, FP16, batch 1, 200
ms between two images, CUDA graphs. The authors' tool replays a graph for RF-DETR, LW-DETR and
RT-DETR and launches D-FINE and the YOLOs kernel by kernel.
"""

from __future__ import annotations

from rfdetr_repro.paper.published import join_key
from rfdetr_repro.records.record import MEAN, Record

GPU = "T4"
WAIT_MS = 200.0
# families as :func:`rfdetr_repro.paper.published.join_key` spells them
WITH_GRAPH = ("rfdetr", "lwdetr", "rtdetr")


def timed_as_published(
    record: Record, *, precision: str = "fp16", wait_ms: float = WAIT_MS, in_pytorch: bool = False
) -> bool:
    """Whether GPU, runtime, precision, wait and CUDA graph are those of a published latency.

    ``in_pytorch``: of a starred row.
    """
    artifact = record.artifact
    protocol = record.protocol
    machine = record.machine
    latency = record.latency
    if (
        record.source not in ("protocol", MEAN)
        or artifact is None
        or protocol is None
        or machine is None
        or latency is None
    ):
        return False
    if GPU not in (machine.gpu or "").replace("-", " ").split() or not protocol.only_waits(wait_ms):
        return False
    if in_pytorch:
        return artifact.runtime.startswith("torch") and not latency.cuda_graph
    graph = join_key(record)[0] in WITH_GRAPH
    return (
        artifact.runtime.startswith("tensorrt")
        and artifact.precision == precision
        and latency.cuda_graph is graph
    )
