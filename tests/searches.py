"""Small networks for the digits, and their searches step by step, so that these can be stopped and gone on with."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn

import pas
from pas import models
from pas.data.loader import Loader


def network(name: str = "repvgg_nano") -> nn.Module:
    torch.manual_seed(0)
    return models.create(name, num_classes=10, in_chans=1)


def plain_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def train(
    search: pas.Search, loader: Loader, first: int = 0, last: int | None = None, optimizer: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """The steps after `first` up to `last`, by default to the end of the search; the optimiser, to go on with."""
    optimizer = optimizer or torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)
    search.model.train()
    for x, y in itertools.islice(loader.epoch(0), first, search.method.problem.steps if last is None else last):
        (plain_loss(search.model, x, y) + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
    return optimizer
