"""What a network does in training only, so that its graph in eval mode doesn't show it: stochastic depth, and dropout inside attention and
between recurrent layers. Modules that know their own mode take the places of these calls in a graph that is to be trained.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from pas.axes.capture import BATCH, Example, as_arguments, in_mode, owner, packet, rebatch, silent

aten = torch.ops.aten
_RECURRENT = (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
_DROPOUT = (aten.dropout, aten.dropout_, aten.feature_dropout, aten.feature_dropout_, aten.alpha_dropout, aten.alpha_dropout_,
            aten.feature_alpha_dropout, aten.feature_alpha_dropout_)  # fmt: skip
Place = tuple[str, int]
"""The module whose forward makes a call, and which of its calls of that kind it is."""


class Attention(nn.Module):
    """``dropout(softmax(scale q k' + mask)) v``, whose dropout follows the mode."""

    def __init__(self, p: float, scale: float, causal: bool, grouped: bool) -> None:
        super().__init__()
        self.p, self.scale, self.causal, self.grouped = p, scale, causal, grouped

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        p = self.p if self.training else 0.0
        attend = nn.functional.scaled_dot_product_attention
        return attend(q, k, v, mask, p, self.causal, scale=self.scale, enable_gqa=self.grouped)


def marked(model: nn.Module, example: Example) -> tuple[nn.Module, frozenset[str]]:
    """A copy in which layers that vanish in eval mode leave a node behind (a feature-wise alpha dropout), and their paths.

    Layers of somebody's own that drop something, hold nothing, and hand their one input on as it is when the network runs in eval mode.
    """
    found = {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if path and "drop" in type(module).__name__.lower().replace("stochasticdepth", "drop") and not _holds_something(module)
    }
    if not found:
        return model, frozenset()
    passed: dict[int, bool] = {}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        passed[id(module)] = passed.get(id(module), True) and len(args) == 1 and not kwargs and output is args[0]

    hooks = [module.register_forward_hook(watch, with_kwargs=True) for module in set(found.values())]
    arguments, keywords = as_arguments(example)
    try:
        with torch.no_grad(), in_mode(model, training=False):
            model(*arguments, **keywords)
    finally:
        for hook in hooks:
            hook.remove()
    paths = [path for path, module in found.items() if passed.get(id(module))]
    model = copy.deepcopy(model)
    for path in paths:
        model.set_submodule(path, nn.FeatureAlphaDropout(0.1).eval())
    return model, frozenset(paths)


def _holds_something(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.") or any(True for _ in module.children()) or bool(module.state_dict())


def attention_dropout(model: nn.Module, example: Example, graph: fx.Graph) -> dict[fx.Node, float]:
    """The dropout that each attention of a graph in eval mode has in training, from the graph of that mode.

    Of a module that calls attention more or less often in training than in eval mode nothing is known, and of a network that can't be
    captured in training neither: these have none.
    """
    attends = [node for node in graph.nodes if packet(node) is aten.scaled_dot_product_attention]
    if not attends or not _noisy(model):
        return {}
    args, kwargs = as_arguments(rebatch(example, BATCH))
    try:
        with silent():
            trained = torch.export.export(copy.deepcopy(model).train(), args, kwargs, strict=False).graph
    except Exception:  # the exporter, and a forward that wants more in training, raise many kinds
        return {}
    others = [node for node in trained.nodes if packet(node) is aten.scaled_dot_product_attention]
    counts, wanted = Counter(map(owner, others)), Counter(map(owner, attends))
    found = {place: _probability(node) for place, node in _places(others).items()}
    return {node: found[place] for place, node in _places(attends).items() if counts[place[0]] == wanted[place[0]] and found[place]}


def _places(nodes: list[fx.Node]) -> dict[Place, fx.Node]:
    seen: Counter[str] = Counter()
    found = {}
    for node in nodes:
        found[owner(node), seen[owner(node)]] = node
        seen[owner(node)] += 1
    return found


def _probability(node: fx.Node) -> float:
    value: Any = node.kwargs.get("dropout_p", node.args[4] if len(node.args) > 4 else 0.0)
    return float(value)


def _noisy(model: nn.Module) -> bool:
    """Whether any module has a probability to drop something."""
    return any(
        isinstance(value, float) and value > 0 and (name in ("p", "prob", "rate") or "drop" in name.lower())
        for module in model.modules()
        for name, value in vars(module).items()
    )


def dropout_of(node: fx.Node) -> nn.Module | None:
    """A module that knows the mode, for a call of dropout that asks for it."""
    if packet(node) not in _DROPOUT:
        return None
    p: Any = node.args[1]
    name = str(packet(node)).removeprefix("aten.").removesuffix("_")
    if name == "feature_dropout":
        return {3: nn.Dropout1d, 5: nn.Dropout3d}.get(len(node.meta["val"].shape), nn.Dropout2d)(p)
    return {"dropout": nn.Dropout, "alpha_dropout": nn.AlphaDropout, "feature_alpha_dropout": nn.FeatureAlphaDropout}[name](p)


def is_recurrent(node: fx.Node, module: nn.Module | None) -> bool:
    """A call of recurrent layers with dropout between them, made by torch's own module."""
    return packet(node) in _RECURRENT and isinstance(module, nn.RNNBase) and module.dropout > 0


def recurrent(graph: fx.Graph, path: str, node: fx.Node, args: tuple[Any, ...]) -> dict[fx.Node, fx.Node]:
    """The module in the place of a call (input, hx, ...), and what takes the places of its results."""
    state = tuple(args[1]) if isinstance(args[1], (list, tuple)) else args[1]
    result = graph.call_module(path, (args[0], state))
    results = [graph.call_function(operator.getitem, (result, i)) for i in (0, 1)]
    if packet(node) is aten.lstm:
        results[1:] = [graph.call_function(operator.getitem, (results[1], i)) for i in (0, 1)]
    return {user: results[int(str(user.args[1]))] for user in node.users} | {node: result}
