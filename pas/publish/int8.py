"""A network in eight bits: static quantisation of its ONNX file by ONNX Runtime, calibrated on training images.

Weights are quantised per channel to seven bits, activations to eight: on a CPU without VNNI the sums of eight-bit products saturate, and
the numbers would be the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from pas.axes.capture import silent
from pas.data import Data, plain_loader
from pas.disk import writing
from pas.errors import PasError, first_line
from pas.onnx import session
from pas.tasks import classification

IMAGES = 512
BATCH = 64


def quantise(source: Path, target: Path, data: Data) -> int:
    """Write the network in the ONNX file `source` to `target` in eight bits; the number of images that calibrated it.

    Raises PasError when ONNX Runtime can't quantise it.
    """
    chosen = data.train.at(torch.linspace(0, len(data.train) - 1, min(IMAGES, len(data.train))).long())
    try:
        with TemporaryDirectory() as folder, writing(target), silent():
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(source, prepared)
            quantize_static(
                prepared,
                target,
                _Images(x for x, _ in plain_loader(data, chosen, BATCH).epoch(0)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except PasError:
        raise
    except Exception as error:  # what ONNX Runtime says of a graph that it doesn't know is of many kinds
        raise PasError(f"this network can't be quantised: {first_line(error)}: leave out int8") from error
    return len(chosen)


def top1(path: Path, data: Data, split: str) -> float:
    """Percent of the images of a split that the network in an ONNX file tells right, under ONNX Runtime on the CPU."""
    loader = plain_loader(data, getattr(data, split), batch_size=500)
    return classification.evaluate(_Runtime(path), loader, device="cpu", precision="fp32").top1


class _Runtime(nn.Module):
    """A file as a network."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = session(path, threads=torch.get_num_threads())
        self.input = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.input: images.numpy()})[0])


class _Images(CalibrationDataReader):
    def __init__(self, batches: Iterator[Tensor]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, object] | None:
        images = next(self.batches, None)
        return None if images is None else {"input": images.numpy()}
