"""What operators are written in: an fx graph that grows call by call, knowing the shape of every value.

Every call is also made on meta tensors for two different sizes of what the file leaves free (the batch first of all). A number
that is the same in both is a constant; one that isn't is a `Size`, computed in the graph. Calls on constants alone are folded.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pas.onnx_read.size import Size

Value = fx.Node | Tensor | np.ndarray
"""A computed tensor, a constant one, or an array of integers and `Size`s."""
BATCH = (61, 67)


class Builder:
    """The network so far. `batch`: the file's fixed batch size, None where it leaves it free."""

    def __init__(self, batch: int | None) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.batch = batch
        self.names: dict[int, str] = {}
        self._alive: list[Tensor] = []  # an id stands for a tensor only while that is there
        self._loaded: dict[int, fx.Node] = {}
        self._parameters: dict[tuple[int, str], nn.Parameter] = {}
        self._sizes: dict[tuple[fx.Node, int], int | Size] = {}
        self._first: fx.Node | None = None

    # -- values

    def input(self, name: str, dtype: torch.dtype, shapes: tuple[tuple[int, ...], ...]) -> fx.Node:
        """An input of the network, with its shape at both sizes."""
        node = self.graph.placeholder(_word(name))
        node.meta["probes"] = tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)
        self._first = self._first or node
        return node

    def constant(self, tensor: Tensor, name: str) -> Tensor:
        """A tensor that the file holds, or that follows from such ones, under its name."""
        if id(tensor) not in self.names:
            self.names[id(tensor)] = name
            self._alive.append(tensor)
        return tensor

    def size(self, value: fx.Node | Tensor, dim: int) -> int | Size:
        """The size of one dimension."""
        if isinstance(value, Tensor):
            return value.shape[dim]
        if (value, dim) not in self._sizes:
            self._sizes[value, dim] = self.call("size", value, dim)
        return self._sizes[value, dim]

    def batch_size(self) -> int | Size:
        """The number of examples."""
        assert self._first is not None  # a network has an input
        return self.size(self._first, 0)

    # -- calls

    def call(self, target: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Call a function, or a tensor's method by its name, in the network; at once if all arguments are constants."""
        if not _computed((args, kwargs)):
            with torch.no_grad():
                return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
        args, kwargs = self._prepare(args), self._prepare(kwargs)
        kind = "call_method" if isinstance(target, str) else "call_function"
        node = self.graph.create_node(kind, target, args, kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)

        return self._probed(node, run)

    def module(self, hint: str, module: nn.Module, tensors: Mapping[str, Tensor | None], *inputs: Any) -> Any:
        """Call a module (made on the meta device) that holds these parameters and buffers; it gets a free name near `hint`."""
        path = self._path(hint)
        node = self.graph.call_module(path, self._prepare(inputs))
        result = self._probed(node, module.eval())
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                module.register_parameter(name, tensor)
            elif tensor is not None:
                module.register_buffer(name, tensor)
        self._place(path, module)
        return result

    def parameter(self, constant: Tensor, form: str, change: Callable[[Tensor], Tensor] = lambda t: t) -> nn.Parameter:
        """A constant as a weight. A matrix in the same form is one weight, however many layers use it; of a vector each gets its
        own, as exporters merge vectors that happen to be equal, such as the scales of fresh norms.
        """
        if _vector(constant) or (id(constant), form) not in self._parameters:
            self._alive.append(constant)
            tensor = change(constant).clone(memory_format=torch.contiguous_format)
            self._parameters[id(constant), form] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        return self._parameters[id(constant), form]

    # -- inside

    def _probed(self, node: fx.Node, function: Callable[..., Any]) -> Any:
        """The node's results, with their value at both sizes."""
        results = []
        for i in range(2):

            def probe(source: fx.Node, i: int = i) -> Any:
                return source.meta["probes"][i]

            args, kwargs = fx.map_arg((node.args, node.kwargs), probe)
            with torch.no_grad(), torch.device("meta"):
                results.append(function(*args, **kwargs))
        return self._wrap(node, tuple(results))

    def _wrap(self, node: fx.Node, results: tuple[Any, ...]) -> Any:
        node.meta["probes"] = results
        if isinstance(results[0], Tensor):
            return node
        if isinstance(results[0], (tuple, list)):
            parts = []
            for i in range(len(results[0])):
                part = self.graph.call_function(operator.getitem, (node, i))
                parts.append(self._wrap(part, tuple(result[i] for result in results)))
            return tuple(parts)
        if results[0] == results[1]:
            self.graph.erase_node(node)
            return results[0]
        return Size(self.call, node)

    def _prepare(self, value: Any) -> Any:
        """Arguments as fx takes them: constants become attributes of the network, or plain numbers."""
        if isinstance(value, Size):
            return value.node
        if isinstance(value, (tuple, list)):
            return type(value)(self._prepare(item) for item in value)
        if isinstance(value, dict):
            return {key: self._prepare(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(self._prepare(value.start), self._prepare(value.stop), value.step)
        if not isinstance(value, Tensor):
            return value
        return value.item() if value.dim() == 0 else self.load(value)

    def load(self, constant: Tensor, *, learnt: bool = True) -> fx.Node:
        """A constant as a parameter, or as a buffer where it has no gradient, a single element, or isn't to be learnt."""
        if id(constant) not in self._loaded or _vector(constant):
            self.constant(constant, "constant")
            name = self.names[id(constant)]
            path = self._path(name if "." in name else f"tensors.{name}")  # exporters use short names for what they compute
            if learnt and constant.is_floating_point() and constant.numel() > 1:
                tensor: Tensor = self.parameter(constant, "as it is")
            else:
                tensor = constant.clone()
            self._place(path, tensor)
            with self.graph.inserting_before(self._start()):
                node = self.graph.get_attr(path)
            node.meta["probes"] = (tensor.detach().to("meta"),) * 2
            self._loaded[id(constant)] = node
        return self._loaded[id(constant)]

    def _start(self) -> fx.Node:
        return next((node for node in self.graph.nodes if node.op != "placeholder"), self.graph._root)

    def _path(self, hint: str) -> str:
        """A dotted name near `hint` under which nothing lies yet."""
        words = [_word(word) for word in re.split(r"[./:]+", hint) if word.strip("_")] or ["value"]
        count, path = 1, words
        while self._taken(path):
            count += 1
            path = [*words[:-1], f"{words[-1]}_{count}"] if not self._blocked(words) else ["_".join(words) + f"_{count}"]
        return ".".join(path)

    def _blocked(self, words: list[str]) -> bool:
        """Whether a layer or a tensor lies where this name needs a container."""
        module: Any = self.root
        for word in words[:-1]:
            module = getattr(module, word, None)
            if module is None:
                return False
            if type(module) is not nn.Module:
                return True
        return False

    def _taken(self, words: list[str]) -> bool:
        if self._blocked(words):
            return True
        module: Any = self.root
        for word in words:
            module = getattr(module, word, None)
            if module is None:
                return False
        return True

    def _place(self, path: str, value: nn.Module | Tensor) -> None:
        *parents, last = path.split(".")
        module = self.root
        for word in parents:
            if not hasattr(module, word):
                module.add_module(word, nn.Module())
            module = getattr(module, word)
        if isinstance(value, nn.Module):
            module.add_module(last, value)
        elif isinstance(value, nn.Parameter):
            module.register_parameter(last, value)
        else:
            module.register_buffer(last, value)


def _vector(tensor: Tensor) -> bool:
    return tensor.numel() == max(tensor.shape, default=1)


def _word(text: str) -> str:
    """Text as a part of a dotted name: nothing that Python or a module would take for something else."""
    word = re.sub(r"\W+", "_", text, flags=re.ASCII) or "value"
    return f"{word}_" if hasattr(nn.Module, word) or keyword.iskeyword(word) else word


def _computed(value: Any) -> bool:
    """Whether there is anything in these arguments that only the run knows."""
    if isinstance(value, (tuple, list)):
        return any(map(_computed, value))
    if isinstance(value, dict):
        return any(map(_computed, value.values()))
    if isinstance(value, slice):
        return _computed((value.start, value.stop))
    return isinstance(value, (fx.Node, Size))
