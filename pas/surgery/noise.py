"""What a network does in training only, so that its graph in eval mode doesn't show it: stochastic depth, and dropout inside attention and
between recurrent layers. A graph that is to be trained gets it back.
"""

from __future__ import annotations

import copy
import operator
import re
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from pas.axes.capture import BATCH, Example, as_arguments, rebatch

aten = torch.ops.aten
_VANISHING = re.compile(r"DropPath|StochasticDepth|DropBlock")
"""Classes of layers that hand their input on in eval mode: timm's, torchvision's and those of transformers."""
_RECURRENT = (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)


def marked(model: nn.Module) -> tuple[nn.Module, frozenset[str]]:
    """A copy in which layers that vanish in eval mode leave a node behind (a feature-wise alpha dropout), and their paths."""
    paths = [path for path, module in model.named_modules() if path and _VANISHING.search(type(module).__name__)]
    if not paths:
        return model, frozenset()
    model = copy.deepcopy(model)
    for path in paths:
        model.set_submodule(path, nn.FeatureAlphaDropout(0.1).eval())
    return model, frozenset(paths)


def attention_dropout(model: nn.Module, example: Example) -> list[float]:
    """The dropout of each call of `scaled_dot_product_attention` in training, in the order of the calls."""
    recorder = _Recorder()
    args, kwargs = as_arguments(rebatch(example, BATCH))
    with torch.no_grad(), torch.random.fork_rng(), recorder:
        copy.deepcopy(model).train()(*args, **kwargs)
    return recorder.found


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            self.found.append(float(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)))
        return func(*args, **kwargs)


class Training:
    """The mode of a graph, as a node of it: `train()` and `eval()` of a module set the attribute that it reads."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._node: fx.Node | None = None

    def node(self) -> fx.Node:
        """True in training."""
        if self._node is None:
            self._node = self._graph.create_node("get_attr", "training")
        return self._node

    def attention(self, args: tuple[Any, ...], kwargs: dict[str, Any], p: float) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of attention with a dropout of `p` in training."""
        kwargs = {key: value for key, value in kwargs.items() if key != "dropout_p"}
        args = (*args, *(None,) * (4 - len(args)))
        return (*args[:4], self._graph.call_function(operator.mul, (self.node(), p)), *args[5:]), kwargs

    def recurrent(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a recurrent layer that knows the mode: (input, hx, params, has_biases, num_layers, dropout, train, ...)."""
        return (*args[:6], self.node(), *args[7:])


def is_recurrent(node: fx.Node) -> bool:
    """A call of recurrent layers with dropout between them."""
    return getattr(node.target, "overloadpacket", None) in _RECURRENT and len(node.args) == 9 and bool(node.args[5])
