"""ONNX: a folded student as a graph in float32, and with weights and activations in static int8 by ONNX Runtime.

onnx writes a graph, onnxruntime quantizes and runs one; neither is needed otherwise, and a machine without them is told what to install.
torch's TorchScript exporter is used, deprecated as it is: its successor asks for onnxscript besides, and both give the same graph here.
Calibration keeps the least and largest value that each activation takes (Jacob et al. 2018, section 3), weights have a scale an output
channel. Activations are unsigned: on one thread of a Xeon with VNNI `record` then did 232 images/s at 224 px instead of 65 with signed
ones. On an x86 without VNNI their sums may overflow; the accuracy that `kit export` prints tells. Float did 405: ONNX Runtime's depthwise
convolutions are slow in int8, and only students of dense convolutions gain (`hw13` 164 instead of 119). One run each, no spread.
"""

import importlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.errors import KitError

INPUT, OUTPUT = "images", "logits"


def need(module: str) -> Any:
    """An optional module.

    Raises:
        KitError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise KitError(f"ONNX needs {error.name or module}, which is not installed here: pip install onnx onnxruntime.") from None


def write_onnx(folded: nn.Module, image_size: int) -> bytes:
    """The graph of a folded student, images [N, 3, S, S] normalised → logits [N, K], any N."""
    need("onnx")
    model, out = folded.cpu().float().to(memory_format=torch.contiguous_format).eval(), io.BytesIO()
    axes = {INPUT: {0: "N"}, OUTPUT: {0: "N"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        blank = torch.zeros(2, 3, image_size, image_size)
        torch.onnx.export(model, (blank,), out, dynamo=False, input_names=[INPUT], output_names=[OUTPUT], dynamic_axes=axes)
    return out.getvalue()


def to_int8(graph: bytes, batches: Iterable[Tensor]) -> bytes:
    """The graph with weights and activations in int8, calibrated on these images."""
    quantization = need("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(self.left, None)
            return None if images is None else {INPUT: images.contiguous().numpy()}

    with tempfile.TemporaryDirectory(prefix="kit-onnx-") as folder:
        whole, ready, small = (str(Path(folder) / f"{name}.onnx") for name in ("float", "ready", "int8"))
        Path(whole).write_bytes(graph)
        need("onnxruntime.quantization.shape_inference").quant_pre_process(whole, ready, skip_symbolic_shape=True)
        kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
        quantization.quantize_static(ready, small, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True, **kinds)
        return Path(small).read_bytes()


def runner(graph: bytes, threads: int) -> Callable[[Tensor], Tensor]:
    """images [N, 3, S, S] → logits [N, K], by ONNX Runtime on the CPU."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])
