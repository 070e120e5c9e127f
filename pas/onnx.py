"""ONNX: write a network to one file that takes any batch size, and compare that file with the network."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from pas.errors import PasError


def export(model: nn.Module, example: Tensor, path: str | Path) -> None:
    """Write `model` in eval mode to `path`, weights included; the model itself is left as it was.

    Args:
        example: an input (N, C, H, W) of any N; the file takes every N.

    Raises:
        PasError: the network can't be exported; the message says why.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # export would take a batch of one for a constant
    batch = torch.cat([example[:1], example[:1]])
    was_training = model.training
    model.eval()
    try:
        with _quiet():
            torch.onnx.export(
                model,
                (batch,),
                str(path),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=["input"],
                output_names=["output"],
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise PasError(f"this network can't be written as ONNX: {_reason(error)}") from error
    finally:
        model.train(was_training)


def session(path: str | Path, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU with so many threads; 0 leaves the number to the runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def max_error(model: nn.Module, path: str | Path, example: Tensor) -> float:
    """Largest difference between the file and the network in eval mode, max |a - b| / max |a|, on the CPU."""
    was_training = model.training
    expected = model.eval()(example).cpu().numpy()
    model.train(was_training)
    runtime = session(path, threads=0)
    (found,) = runtime.run(None, {runtime.get_inputs()[0].name: example.cpu().numpy()})
    return float(np.abs(expected - found).max() / np.abs(expected).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress, warns of its own deprecations and logs what it skips: nobody can act on it."""
    disabled, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause: the outer ones only say that the export failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
