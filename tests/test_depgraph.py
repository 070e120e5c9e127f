"""DepGraph's group norm: its gradient by hand, by differences and as Torch-Pruning adds it; what it is pruned to."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import error, randomise, run
from searches import network, train
from torch import nn

import pas

STEPS = 12


def searcher(model: nn.Module, example: torch.Tensor | None = None, steps: int = STEPS, **options) -> pas.Search:
    example = torch.zeros(1, 1, 32, 32) if example is None else example
    return pas.Search(model, example, budget=pas.Budget(macs=0.5), method="depgraph", steps=steps, **options)


def chain() -> tuple[nn.Module, torch.Tensor]:
    """conv, norm, relu, conv: one axis of two channels."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, 1.0]).view(2, 1, 1, 1))
        model[1].weight.copy_(torch.tensor([2.0, 0.0]))
        model[1].bias.fill_(7.0)
        model[3].weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    return model, torch.zeros(1, 1, 4, 4)


def gradients(search: pas.Search) -> dict[str, torch.Tensor]:
    search.penalty().backward()
    found = {name: p.grad.clone() for name, p in search.backbone.named_parameters() if p.grad is not None}
    search.model.zero_grad()
    return found


def test_the_gradient_by_hand() -> None:
    """Sums of squares 4 + 4 + 1 = 9 and 1, so I = 3 and 1: gamma = 16^0 and 16^1. With reg 2 over 20 steps the slices get 0.1 w and
    1.6 w; the penalty is 0.1 / 2 (9 + 16) = 1.25. Biases and shifts get nothing.
    """
    model, example = chain()
    search = searcher(model, example, steps=20, reg=2)
    assert search.penalty().item() == pytest.approx(1.25)
    found = gradients(search)
    assert set(found) == {"0.weight", "1.weight", "3.weight"}
    assert found["0.weight"].flatten().tolist() == pytest.approx([0.2, 1.6])
    assert found["1.weight"].tolist() == pytest.approx([0.2, 0.0])
    assert found["3.weight"].flatten().tolist() == pytest.approx([0.1, 0.0])
    assert not searcher(model, example, sl=0).penalty().requires_grad


def test_scores_by_hand() -> None:
    """9 and 1 over their mean 5; a closed channel of the start comes after every open one."""
    model, example = chain()
    search = searcher(model, example)
    free = search.method.problem.free
    assert search.method.scores()[free].tolist() == pytest.approx([1.8, 0.2])
    assert np.isinf(np.delete(search.method.scores(), free)).all()
    start = search.signature.dense().keep(search.signature.prunable[0].name, [1])
    other = searcher(model, example, start=start)
    assert other.method.scores()[free].tolist() == pytest.approx([1.8 - 2.8, 0.2])
    assert other.method.open()[free].tolist() == [False, True]


def test_channels_alike_are_pressed_alike() -> None:
    """max = min makes the exponent 0 / 0: gamma is 1, and nothing is NaN."""
    model, example = chain()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    search = searcher(model, example)
    assert search.method.gamma(search.method.squares())[search.method.problem.free].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["repvgg_nano", "cifar_resnet20", "mobilenetv2_mini"])
def test_the_gradient_is_that_of_the_penalty_with_gamma_fixed(name: str, monkeypatch) -> None:
    """Central differences in fp64 along random directions, for blocks with branches, tied axes and depth-wise kernels alike; every
    axis is pressed, and what isn't coupled is left alone.
    """
    search = searcher(network(name))
    search.model.double()
    randomise(search.backbone, torch.randn(4, 1, 32, 32, dtype=torch.float64), torch.Generator().manual_seed(0))
    method = search.method
    gamma = method.gamma(method.squares())
    free = method.problem.free
    for number in range(len(method.problem.widths.axes)):
        assert gamma[free][method.problem.axis_index == number].min() == 1
        assert gamma[free][method.problem.axis_index == number].max() == 16
    found = gradients(search)
    monkeypatch.setattr(method, "gamma", lambda squares: gamma)
    parameters = dict(search.backbone.named_parameters())
    assert all(("bias" in name) or name.endswith(("fc.weight", "classifier.weight")) or name in found for name in parameters)
    generator = torch.Generator().manual_seed(1)
    for key in found:
        parameter = parameters[key]
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -2, 1):  # forth, back, and where it was
            with torch.no_grad():
                parameter += sign * 1e-4 * direction
            values.append(search.penalty().item())
        slope = (values[0] - values[1]) / 2e-4
        assert slope == pytest.approx(float((found[key] * direction).sum()), rel=1e-6, abs=1e-8), key


def test_the_added_gradient_is_torch_prunings() -> None:
    """`GroupNormPruner.regularize` on a chain of two inner axes. Its I is the root of the mean over the layers of a group, divided by the
    mean of the axis: gamma is blind to both factors, so that the gradients are equal as they are.
    """
    tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip
    example = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.uniform_(0.5, 1.5)
    search = searcher(model, example)
    found = gradients(search)
    reference = copy.deepcopy(model)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.GroupNormPruner(
        reference, example, importance=importance, reg=search.method.reg, ignored_layers=[reference[8]]
    )  # fmt: skip
    for parameter in reference.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.update_regularizer()
    pruner.regularize(reference, alpha=16)
    for name, parameter in reference.named_parameters():
        assert torch.allclose(found.get(name, torch.zeros_like(parameter)), parameter.grad, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_it_lands_in_the_band_and_is_exact(digits, name: str) -> None:
    search = searcher(network(name), round_to=2)
    train(search, digits)
    limit = search.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"]
    assert search.report()["reopened_by_export"] == 0
    settled = search.settled().double().eval()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    masked, small = (cut(settled, search.current, search.remaining) for cut in (pas.mask, pas.slice))
    assert error(run(masked, x), run(small, x)) < 1e-10
    assert error(run(small, x), run(pas.fuse(small), x)) < 1e-10


def test_it_empties_the_channels_that_it_will_cut(digits) -> None:
    """Sparse learning leaves less in the channels that go than plain training does: less than half the share of the norm."""

    def share(sl: float) -> float:
        search = searcher(network(), steps=60, sl=sl, reg=3)
        train(search, digits, 0, 40)
        squares = search.method.squares().numpy()[search.method.problem.free]
        kept = search.landed()[search.method.problem.free]
        return float(squares[~kept].sum() / squares.sum())

    assert share(1) < share(0) / 2


def test_killed_and_resumed_it_goes_on_bit_for_bit(digits) -> None:
    whole, first = searcher(network()), searcher(network())
    train(whole, digits)
    before = train(first, digits, 0, 5)
    again = searcher(network())
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    optimizer = torch.optim.SGD(again.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)
    optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
    train(again, digits, 5, STEPS, optimizer)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert again.architecture == whole.architecture
