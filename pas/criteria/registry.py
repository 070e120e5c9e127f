"""Criteria by name: those that need no data, and those that do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import nn

from pas.axes.signature import Signature
from pas.criteria import gradientwise
from pas.criteria.examples import Batch, Loss
from pas.criteria.grouped import grouped, normalised
from pas.criteria.norms import l1, magnitude
from pas.criteria.weightwise import WEIGHTWISE

WITHOUT_DATA = (*WEIGHTWISE, "random")
"""Criteria of `from_weights`."""
WITH_DATA = tuple(gradientwise.GRADIENTWISE)
"""Criteria of `from_data`."""


def from_weights(model: nn.Module, signature: Signature, criterion: str, reduce: str, normalise: str) -> np.ndarray:
    """What each channel is worth by the weights alone (channels,), in the grouped form (`grouped`).

    "random", a control, draws one number from U(0, 1) for each channel, from torch's generator, and has nothing to reduce: a sum of one
    draw a weight would be nearly the same for all.
    """
    if criterion == "random":
        return normalised(signature, torch.rand(signature.channels, dtype=torch.float64).numpy(), normalise)
    return grouped(signature, WEIGHTWISE[criterion](model, signature), reduce, normalise)


def from_data(
    model: nn.Module,
    signature: Signature,
    criterion: str,
    reduce: str,
    normalise: str,
    batches: Iterable[Batch],
    loss: Loss,
    samples: int,
) -> np.ndarray:
    """What each channel is worth by the loss on the first `samples` examples of batches (channels,), in the grouped form (`grouped`).

    Raises PasError when there are fewer than two examples, or derivatives are not finite.
    """
    return grouped(signature, gradientwise.maps(criterion, model, signature, batches, loss, samples), reduce, normalise)


CRITERIA: dict[str, Callable[[nn.Module, Signature], np.ndarray]] = {
    "magnitude": magnitude,
    "l1": l1,
    **{name: partial(from_weights, criterion=name, reduce="sum", normalise="mean") for name in WITHOUT_DATA},
}
"""Criteria that need no data, by name, comparable between axes."""
