"""ONNX: write a network to one file that takes any batch size, and compare that file with the network."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, fx, nn

from pas.axes.capture import in_mode, packet
from pas.errors import PasError
from pas.exactness import relative_error

aten = torch.ops.aten


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
    try:
        with in_mode(model, training=False), _quiet():
            shapes = ({0: torch.export.Dim("batch", min=1)},)
            program = torch.export.export(model, (batch,), dynamic_shapes=shapes, strict=False)
            _plain(program.graph_module)
            for optimize in (True, False):  # what torch's optimiser makes of clipped numbers can lack a constant
                torch.onnx.export(
                    program,
                    (batch,),
                    str(path),
                    dynamo=True,
                    dynamic_shapes=shapes,
                    input_names=["input"],
                    output_names=["output"],
                    external_data=False,
                    verbose=False,
                    optimize=optimize,
                )
                if _valid(path):
                    break
            _strip(path)
    except Exception as error:  # both exporters raise many kinds
        raise PasError(f"this network can't be written as ONNX: {_reason(error)}") from error


def _valid(path: str | Path) -> bool:
    """Whether every input of every node of a file is there."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError:
        return False
    return True


def _strip(path: str | Path) -> None:
    """Leave out the exporter's notes beside every operator, such as the line of code that it came from, by its path on this machine."""
    model = onnx.load(path)
    graph = model.graph
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    for one in (model, graph, *nodes, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        one.doc_string = ""
        del one.metadata_props[:]
    onnx.save(model, path)


def _plain(module: fx.GraphModule) -> None:
    """Say with plainer operators what the translation to ONNX stumbles over.

    Attention with more or fewer than four dimensions becomes one with four. The result of one with a mask is copied: taken apart, it lies
    otherwise in memory. The pooling of a whole map becomes a mean: of channels that lie last it would be a table of places.
    """
    for node in list(module.graph.nodes):
        if packet(node) is aten.adaptive_avg_pool2d and list(node.args[1]) == [1, 1]:
            node.target, node.args = aten.mean.dim, (node.args[0], [-2, -1], True)
        elif packet(node) is aten.scaled_dot_product_attention:
            if len(node.meta["val"].shape) != 4:
                _four_dimensions(module.graph, node)
            elif len(node.args) > 3 and node.args[3] is not None:
                _after(module.graph, node, aten.clone.default, memory_format=torch.contiguous_format)
    module.graph.lint()
    module.recompile()


def _four_dimensions(graph: fx.Graph, node: fx.Node) -> None:
    """All leading dimensions of an attention become one, and its heads one each. A mask that is repeated along them stays what it is, and
    can't be written.
    """
    sizes = lambda one: one.meta["val"].shape  # noqa: E731
    arguments: list[Any] = list(node.args)
    lead, result = sizes(arguments[0])[:-2], sizes(node)
    with graph.inserting_before(node):
        for place, one in enumerate(arguments):
            if isinstance(one, fx.Node) and sizes(one)[:-2] == lead:
                arguments[place] = graph.call_function(aten.reshape.default, (one, [-1, 1, *sizes(one)[-2:]]))
    _after(graph, node, aten.reshape.default, [-1, *result[1:]])
    node.args = tuple(arguments)


def _after(graph: fx.Graph, node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> None:
    """Put a call between a node and all that use it."""
    with graph.inserting_after(node):
        new = graph.call_function(target, (node, *args), kwargs)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def session(path: str | Path, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU with so many threads; 0 leaves the number to the runtime."""
    return onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])


def session_options(threads: int, *, alone: bool = False) -> onnxruntime.SessionOptions:
    """What all sessions have in common.

    The threads of a session go to sleep when its run ends, unless it is `alone` in its time. By default they spin on for a while, on cores
    that the next session needs: of two that take turns with two threads each on two cores, each took up to four times its time.
    """
    options = onnxruntime.SessionOptions()
    if not alone:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return options


@torch.no_grad()
def max_error(model: nn.Module, path: str | Path, example: Tensor) -> float:
    """Largest difference between the file and the network in eval mode, max |a - b| / max |a|, on the CPU."""
    with in_mode(model, training=False):
        expected = model(example).cpu()
    runtime = session(path, threads=0)
    (found,) = runtime.run(None, {runtime.get_inputs()[0].name: example.cpu().numpy()})
    return relative_error(expected, torch.from_numpy(found))


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
