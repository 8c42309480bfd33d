"""OpenVINO on the CPU (the extra ``openvino``), in float32 unless the file itself is in float16 or
INT8, or bfloat16 is asked for.

By default, OpenVINO computes a float32 file in bfloat16 where the processor supports it
(benchmark protocol section 6). The session therefore sets the precision, reads it back, and
searches the compiled model for nodes that compute in another precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rfdetr_repro.export.artifact import Artifact, TensorSpec
from rfdetr_repro.export.contract import (
    UNKNOWN,
    Array,
    check_images,
    check_input,
    check_outputs,
    content_of,
)
from rfdetr_repro.spec.errors import InputError, StatedFailure

from .bfloat16 import BFLOAT16
from .session import Detections, Session, identity_of

try:
    import openvino
except ImportError as error:
    hint = "pip install 'rfdetr-repro[openvino]', or choose another backend"
    raise InputError("the package openvino is not installed", hint=hint) from error

_DTYPES = {
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "bf16": "bfloat16",
    "boolean": "bool",
}
_DTYPES |= {
    f"{kind}{bits}": f"{name}{bits}"
    for kind, name in (("i", "int"), ("u", "uint"))
    for bits in (8, 16, 32, 64)
}
_PRODUCTS = {"FullyConnected", "MatMul", "Convolution", "Deconvolution"}  # types of layers
_HALF = {"f16", "bf16"}  # half precisions that OpenVINO may choose for a float32 node


class OpenVinoSession(Session):
    """OpenVINO with one stream, the latency hint and ``threads`` threads."""

    def __init__(
        self, artifact: Artifact, threads: int = 2, *, precision: str | None = None
    ) -> None:
        """Compiles the model of ``artifact`` and checks what the compiled model reports.

        ``precision``: the value of INFERENCE_PRECISION_HINT; None: "bf16" for an artifact that is
        to be run in bfloat16, else "f32". Raises :class:`InputError` for a file that OpenVINO
        cannot load and for a precision that this processor does not have, :class:`StatedFailure` if
        a property or a node's precision is not the one that was set.
        """
        self.manifest = artifact.manifest
        wanted_precision = artifact.manifest.precision
        _check_capability(wanted_precision)
        if precision is None:
            precision = "bf16" if wanted_precision == BFLOAT16 else "f32"
        content = content_of(artifact, "onnx")
        wanted = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        core = openvino.Core()
        try:
            model = core.read_model(content)
            check_outputs([_spec(port) for port in model.outputs], artifact)
            self._input = check_input([_spec(port) for port in model.inputs], artifact)
            self._compiled = core.compile_model(model, "CPU", wanted)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise InputError(
                f"OpenVINO cannot load the model ({reason})",
                artifact.path,
                "export the model again",
            ) from error
        self._check_properties(wanted)
        self._check_precision({precision, *_precisions(model)})
        self._check_used(wanted_precision)
        self._request = self._compiled.create_infer_request()
        self._bound: Any = None
        chosen = f"precision={precision} hint=LATENCY streams=1 openvino={openvino.__version__}"
        self.artifact_id = identity_of(artifact, "openvino-cpu", f"threads={threads} {chosen}")

    def _check_properties(self, wanted: dict[str, Any]) -> None:
        """Raises :class:`StatedFailure` unless the compiled model reports the properties that were
        set.
        """
        used = {name: _text(self._compiled.get_property(name)) for name in wanted}
        if other := [
            f"{name} {used[name]} instead of {_text(value)}"
            for name, value in wanted.items()
            if used[name] != _text(value)
        ]:
            raise StatedFailure(f"OpenVINO runs with {', '.join(other)}")

    def _check_precision(self, allowed: set[str]) -> None:
        """Raises :class:`StatedFailure` if a node computes in a half precision that neither the
        file nor the caller asked for.
        """
        census = self.census()
        if _HALF & set(census) - allowed:
            counts = ", ".join(f"{count} in {name}" for name, count in sorted(census.items()))
            raise StatedFailure(
                f"OpenVINO computes {self.manifest.model.name} in half precision: nodes {counts}"
            )

    def _check_used(self, precision: str) -> None:
        """Raises :class:`StatedFailure` if no product computes in the precision that was asked
        for.
        """
        names = {BFLOAT16: {"bf16"}, "int8": {"i8", "u8"}}.get(precision)
        if names is not None and not names & set(self.product_census()):
            raise StatedFailure(
                f"OpenVINO computes no product of {self.manifest.model.name} in {precision}"
            )

    def census(self) -> Counter[str]:
        """Number of nodes of the compiled model by execution precision, in OpenVINO's names in
        lower case ("f32").
        """
        return Counter(precision for _, precision in self._layers())

    def product_census(self) -> Counter[str]:
        """:meth:`census` of the matrix products and convolutions alone."""
        return Counter(precision for kind, precision in self._layers() if kind in _PRODUCTS)

    def _layers(self) -> Iterator[tuple[str, str]]:
        """OpenVINO's type and precision of every node of the compiled model."""
        for node in self._compiled.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            precision = str(facts["runtimePrecision"].astype(str)).lower()
            yield str(facts["layerType"].astype(str)), precision

    def bind(self, images: Array) -> None:
        """Binds float32 (B, 3, H, W) images without a copy: ``launch`` reads the array itself."""
        self._bound = openvino.Tensor(check_images(images, self.manifest), shared_memory=True)
        self._request.set_input_tensor(self._bound)

    def launch(self) -> None:
        """Runs the compiled model on the bound images."""
        self._request.infer(share_inputs=True, share_outputs=True)

    def outputs(self) -> Detections:
        """Copies of the outputs, because the next ``launch`` writes to the same memory."""
        count = len(self._compiled.outputs)
        return Detections.of(
            [self._request.get_output_tensor(index).data.copy() for index in range(count)]
        )


def _check_capability(precision: str) -> None:
    """Raises :class:`InputError` unless OpenVINO has the precision on this processor."""
    wanted = {BFLOAT16: "BF16", "int8": "INT8"}.get(precision)
    known = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted is not None and wanted not in known:
        raise InputError(
            f"OpenVINO does not compute in {precision} on this processor, only in "
            f"{', '.join(known)}",
            hint="choose --precision fp32",
        )


def _precisions(model: Any) -> set[str]:
    """Element types of the values in the file itself."""
    return {
        str(port.get_element_type().get_type_name())
        for node in model.get_ops()
        for port in node.outputs()
    }


def _spec(port: Any) -> TensorSpec:
    """An input or output as OpenVINO describes it.

    OpenVINO gives bfloat16 as numpy's float16, so the type is taken from OpenVINO's own name.
    """
    name = port.get_element_type().get_type_name()
    shape = tuple(
        size.get_length() if size.is_static else UNKNOWN for size in port.get_partial_shape()
    )
    return TensorSpec(port.get_any_name(), shape, _DTYPES.get(name, name))


def _text(value: Any) -> str:
    """The short name of a property that is a type or an enumeration; else its text."""
    if isinstance(value, openvino.Type):
        return str(value.get_type_name())
    return str(getattr(value, "name", value))
