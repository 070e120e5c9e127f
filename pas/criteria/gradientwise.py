"""What each single weight is worth, by the loss on data: maps of importance over the parameters of the fused form.

w is a weight, g the gradient of the mean loss by it, H the Hessian. A higher number is one that stays longer; removing the weight
changes w by -w. Criteria of trained networks (Taylor, Fisher) are taken in eval mode. Those of networks at their initialisation (SNIP,
GraSP, CroP) see norms in training mode, as published: the statistics of a fresh norm are those of no data; everything else, such as
dropout, is in eval mode also there, so that the same data gives the same numbers. Norms that were merged into a re-parameterised
block's kernel count with their running statistics, and batches of a single example, which has no statistics, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pas.axes.signature import Signature
from pas.criteria.derivatives import hessian_times, mean
from pas.criteria.examples import Batch, Loss, count, first, singles
from pas.criteria.weightwise import Maps, weights
from pas.errors import PasError
from pas.surgery.fuse import fuse

Criterion = Callable[[nn.Module, Maps, list[Batch], Loss], Maps]
"""(network, its weights, examples, loss) -> one number a weight."""
AT_INITIALISATION = ("snip", "grasp", "crop")
"""Criteria for which norms are in training mode."""


def maps(criterion: str, model: nn.Module, signature: Signature, batches: Iterable[Batch], loss: Loss, samples: int) -> Maps:
    """The map of a criterion out of `GRADIENTWISE`, over the first `samples` examples of batches; the model is left as it is.

    Raises PasError when there are fewer than two examples, or derivatives are not finite.
    """
    fresh = criterion in AT_INITIALISATION
    examples = [batch for batch in first(batches, samples) if count(batch) > fresh]
    if sum(map(count, examples)) < 2:
        raise PasError(f"{criterion} needs at least two examples{' in one batch, for the statistics of norms' if fresh else ''}")
    network = fuse(model).requires_grad_(False).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.training = fresh  # of it alone: some hold a dropout
    judged = {name: weight.requires_grad_() for name, weight in weights(network, signature).items()}
    found = {name: value.detach() for name, value in GRADIENTWISE[criterion](network, judged, examples, loss).items()}
    if not all(bool(value.isfinite().all()) for value in found.values()):
        raise PasError(f"{criterion}: derivatives on these examples are infinite or NaN: train the dense network, or look at its inputs")
    return found


def taylor_squared(network: nn.Module, weights: Maps, batches: list[Batch], loss: Loss) -> Maps:
    """(w g)^2, the squared first-order change of the loss, g the gradient over one batch, then the mean over batches (Molchanov et al.,
    https://arxiv.org/abs/1906.10771, the first-order criterion).
    """
    moment = mean(network, weights, batches, loss, torch.square)
    return {name: weight.square() * moment[name] for name, weight in weights.items()}


def taylor_abs(network: nn.Module, weights: Maps, batches: list[Batch], loss: Loss) -> Maps:
    """|w g|, the same without the square."""
    size = mean(network, weights, batches, loss, torch.abs)
    return {name: weight.abs() * size[name] for name, weight in weights.items()}


def fisher(network: nn.Module, weights: Maps, batches: list[Batch], loss: Loss) -> Maps:
    """w^2 E_n[g_n^2] / 2, the change of the loss to second order where it is at a minimum: optimal brain damage (LeCun et al., 1989), its
    diagonal Hessian the empirical Fisher information, from the gradients g_n of single examples.

    The first-order term, -w g, is left out, as there: on a trained network g is what the examples at hand differ by.
    """
    information = mean(network, weights, singles(batches), loss, torch.square)
    return {name: weight.square() * information[name] / 2 for name, weight in weights.items()}


def snip(network: nn.Module, weights: Maps, batches: list[Batch], loss: Loss) -> Maps:
    """|w g| over its sum in the whole network: the connection sensitivity of SNIP (Lee et al., https://arxiv.org/abs/1810.02340)."""
    slope = mean(network, weights, batches, loss)
    sizes = {name: (weight * slope[name]).abs() for name, weight in weights.items()}
    total = torch.stack([size.sum() for size in sizes.values()]).sum()
    return {name: size / total.clamp_min(torch.finfo(size.dtype).tiny) for name, size in sizes.items()}


def grasp(network: nn.Module, weights: Maps, batches: list[Batch], loss: Loss) -> Maps:
    """w (H g): how much of the gradient flow a weight carries (GraSP, Wang et al., https://arxiv.org/abs/2002.07376).

    Removing a weight changes |g|^2 by -2 w (H g) to first order. The paper's score is -w (H g), and the weights with the lowest ones
    stay, those whose removal takes most from the flow; so this is its negative. The paper's temperature in the softmax is left out: it
    belongs to the loss.
    """
    return _flow(network, weights, batches, loss)


def crop(network: nn.Module, weights: Maps, batches: list[Batch], loss: Loss) -> Maps:
    """|w (H g)|: what keeps the gradient flow as it is, in either direction (CroP, Rachwan et al., https://arxiv.org/abs/2206.11009)."""
    return {name: value.abs() for name, value in _flow(network, weights, batches, loss).items()}


GRADIENTWISE: dict[str, Criterion] = {
    "taylor_squared": taylor_squared,
    "taylor_abs": taylor_abs,
    "fisher": fisher,
    "snip": snip,
    "grasp": grasp,
    "crop": crop,
}
"""Maps that need data, by the name of the criterion."""


def _flow(network: nn.Module, weights: Maps, batches: list[Batch], loss: Loss) -> Maps:
    """w (H g); g over all examples, and so H."""
    slope = mean(network, weights, batches, loss)
    product = hessian_times(network, weights, batches, loss, slope)
    return {name: weight * product[name] for name, weight in weights.items()}
