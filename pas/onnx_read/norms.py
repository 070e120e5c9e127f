"""Norms with the file's weights and statistics, and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pas.onnx_read.layers import space
from pas.onnx_read.table import Node, operator

NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE_NORMS: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@operator("BatchNormalization")
def batch_norm(node: Node) -> Any:
    """nn.BatchNorm1d, 2d or 3d with the file's statistics."""
    node.only("training_mode", 0)
    eps, momentum = node.attribute("epsilon", 1e-5), node.attribute("momentum", 0.9)
    weight = node.constant(1)
    if node.rank() not in NORMS:
        raise node.error(f"its input has {node.rank()} dimensions; 2 to 5 are known")
    module = NORMS[node.rank()](len(weight), eps, 1 - momentum, device="meta", dtype=weight.dtype)
    statistics = {"running_mean": node.constant(3).clone(), "running_var": node.constant(4).clone(), "num_batches_tracked": torch.tensor(0)}
    return node.layer(module, {"weight": node.weight(1), "bias": node.weight(2), **statistics}, node.tensor(0), weight=1)


@operator("InstanceNormalization")
def instance_norm(node: Node) -> Any:
    """nn.InstanceNorm1d, 2d or 3d."""
    weight = node.constant(1)
    space(node)
    module = INSTANCE_NORMS[node.rank()](len(weight), node.attribute("epsilon", 1e-5), affine=True, device="meta", dtype=weight.dtype)
    return node.layer(module, {"weight": node.weight(1), "bias": node.weight(2)}, node.tensor(0), weight=1)


@operator("LayerNormalization")
def layer_norm(node: Node) -> Any:
    """nn.LayerNorm over the last dimensions."""
    sizes, eps, spread = _over(node)
    module = nn.LayerNorm(sizes, eps, bias=node.has(2), device="meta", dtype=node.constant(1).dtype)
    tensors = {"weight": node.weight(1, f"over {sizes}", spread), "bias": node.weight(2, f"over {sizes}", spread)}
    return node.layer(module, tensors, node.tensor(0), weight=1)


@operator("RMSNormalization")
def rms_norm(node: Node) -> Any:
    """nn.RMSNorm over the last dimensions."""
    sizes, eps, spread = _over(node)
    module = nn.RMSNorm(sizes, eps, device="meta", dtype=node.constant(1).dtype)
    return node.layer(module, {"weight": node.weight(1, f"over {sizes}", spread)}, node.tensor(0), weight=1)


def _over(node: Node) -> tuple[list[int], float, Callable[[Tensor], Tensor]]:
    """The sizes of what is normalised, epsilon, and how a weight is brought to these sizes."""
    node.only("stash_type", 1)
    one, other = (list(shape[node.attribute("axis", -1) % node.rank() :]) for shape in node.shapes())
    if one != other:
        raise node.error("it normalises over a size that the file leaves free: give it (shape=)")
    return one, node.attribute("epsilon", 1e-5), lambda tensor: tensor.expand(one)


@operator("GroupNormalization")
def group_norm(node: Node) -> Any:
    """nn.GroupNorm; before version 21 a group's channels share weight and bias."""
    node.only("stash_type", 1)
    weight, groups, channels = node.constant(1), node.attribute("num_groups"), node.shapes()[0][1]
    module = nn.GroupNorm(groups, channels, node.attribute("epsilon", 1e-5), device="meta", dtype=weight.dtype)
    repeat = channels // len(weight)
    tensors = {name: node.weight(i, f"times {repeat}", lambda t: t.repeat_interleave(repeat)) for i, name in ((1, "weight"), (2, "bias"))}
    return node.layer(module, tensors, node.tensor(0), weight=1)


@operator("LRN")
def local_response_norm(node: Node) -> Any:
    """nn.LocalResponseNorm; torch counts an even number of channels from another side."""
    size = node.attribute("size")
    if size % 2 == 0:
        raise node.error(f"size={size}, but only odd sizes mean the same in torch")
    return node.layer(nn.LocalResponseNorm(size, node.attribute("alpha", 1e-4), node.attribute("beta", 0.75), node.attribute("bias", 1.0)))


@operator("Dropout")
def dropout(node: Node) -> Any:
    """nn.Dropout, which does nothing in eval mode."""
    node.attribute("seed")
    if node.has(2) and bool(node.constant(2)):
        raise node.error("it drops values in inference too; write the file in eval mode")
    ratio = node.attribute("ratio", 0.5) if node.version < 12 else float(node.constant(1)) if node.has(1) else 0.5
    return node.layer(nn.Dropout(ratio))
