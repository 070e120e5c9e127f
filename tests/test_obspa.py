"""OBSPA: without fine-tuning, by what it is shown."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, randomise, run
from torch import nn

import pas
from pas import models
from pas.criteria import magnitude
from pas.errors import PasError
from pas.surgery.reconstruct import block_cost


def network(name: str = "cifar_resnet20") -> nn.Module:
    """With norms that matter."""
    torch.manual_seed(0)
    model = models.create(name, num_classes=10, in_chans=1)
    randomise(model, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    return model.eval()


def searcher(model: nn.Module, budget: float = 0.5, **options) -> pas.Search:
    return pas.Search(model, torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=budget), method="obspa", steps=8, **options)


def calibrated(model: nn.Module, loader, budget: float = 0.5, **options) -> pas.Search:
    search = searcher(model, budget, **{"samples": 48, **options})
    search.calibrate(loader.epoch(0), loss)
    return search


def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_the_band_and_the_ladder(digits, name: str) -> None:
    """After some training of the weights, too: mask = slice = fuse of what is exported, in fp64; the backbone isn't touched."""
    search = calibrated(network(name), digits, round_to=2)
    optimizer = torch.optim.SGD(search.param_groups(lr=0.01, weight_decay=0), momentum=0.9)
    search.model.train()
    for x, y in itertools.islice(digits.epoch(0), 3):
        (loss(search.model, x, y) + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
    limit = search.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"] == 0.5 * limit["dense"]
    before = copy.deepcopy(search.backbone.state_dict())
    settled = search.settled().double().eval()
    assert all(torch.equal(before[key], value) for key, value in search.backbone.state_dict().items())
    x = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    masked = pas.mask(settled, search.current, search.remaining)
    small = pas.slice(settled, search.current, search.remaining)
    assert error(run(settled, x), run(masked, x)) == 0  # what it reads of dropped channels is zero already
    assert error(run(masked, x), run(small, x)) < 1e-10
    assert error(run(small, x), run(pas.fuse(small), x)) < 1e-10
    cut = pas.mask(search.backbone, search.current, search.remaining)
    assert error(run(small, x), run(cut.double().eval(), x)) > 1e-3


def test_refitting_brings_the_output_back(digits) -> None:
    """On the examples, and on others of the task: nearer to the dense network than the cut alone, at the same widths."""
    model = network()
    x = next(iter(digits.epoch(1)))[0]
    dense = run(model, x)
    away = {}
    for refit in (0, 1):
        search = calibrated(model, digits, 0.7, refit=refit, renorm=0, obs=0)
        away[refit] = float((run(search.settled().eval(), x) - dense).norm())
    assert away[1] < 0.7 * away[0]


def test_scores_are_costs_over_the_mean_of_their_axis(digits) -> None:
    """The channels that stay are those of the highest scores, one threshold for all axes; where nothing can be refitted, the magnitude."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.q(x), self.k(x), self.v(x)
            return self.out((q @ k.mT).softmax(-1) @ v)

    torch.manual_seed(0)
    model, x = Attends(), torch.randn(20, 5, 8)
    search = pas.Search(model, x[:1], budget=pas.Budget(params=0.7), method="obspa", steps=1, samples=20)
    search.calibrate([(x, None)], loss)
    cost = block_cost(model, search.signature, [x], damping=0.01)
    scores = search.method._judged()
    read, made = {}, {}
    for axis in search.signature.prunable:
        part = np.s_[axis.start : axis.start + axis.size]
        (read if np.isfinite(cost[part]).all() else made)[axis.name] = part
        assert scores[part].mean() == pytest.approx(1)
    assert len(read) == len(made) == 1
    (one,), (other,) = read.values(), made.values()
    assert scores[one] == pytest.approx(cost[one] / cost[one].mean())
    norms = magnitude(model, search.signature)[other]
    assert scores[other] == pytest.approx(norms / norms.mean())
    kept = search.signature.mask(search.architecture)
    for part in (one, other):
        assert scores[part][kept[part]].min() > scores[part][~kept[part]].max() if (~kept[part]).any() else True


def test_labels_and_losses_are_not_looked_at(digits) -> None:
    model = network("repvgg_nano")
    noise = torch.randn(40, 1, 32, 32)
    found = []
    for labels in (torch.zeros(40), None):
        search = searcher(model, samples=40)
        search.calibrate([(noise, labels)], lambda *_: pytest.fail("no loss is needed"))
        found.append(search.settled().state_dict())
    assert all(torch.equal(found[0][name], tensor) for name, tensor in found[1].items())


def test_answers_are_kept_until_weights_change(digits) -> None:
    search = calibrated(network("repvgg_nano"), digits)
    first = search.settled().state_dict()
    kept = search.method._last
    assert all(torch.equal(first[name], tensor) for name, tensor in search.settled().state_dict().items())
    assert search.method._last is kept
    with torch.no_grad():
        next(search.backbone.parameters()).mul_(1.1)
    second = search.settled().state_dict()
    assert search.method._last is not kept
    assert not all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_what_was_seen_is_part_of_the_state(digits) -> None:
    """Killed before and after the decision: the same network, bit for bit, as without."""
    model = network("repvgg_nano")
    search = calibrated(model, digits)
    again = searcher(model, samples=48)
    with pytest.raises(PasError, match="calibrate"):
        again.settled()
    again.load_state_dict(copy.deepcopy(search.state_dict()))
    one, other = search.settled().state_dict(), again.settled().state_dict()
    assert again.architecture == search.architecture
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    assert sum(len(batch) for batch in again.method._batches) == 48


def test_statistics_of_noise_are_not_taken_for_those_of_the_task(digits) -> None:
    """Nothing is dropped, and noise is shown: relative statistics stay what they are, absolute ones become the noise's."""
    model = network()
    noise = 3 * torch.randn(32, 1, 32, 32)
    settled = {}
    for relative in (0, 1):
        search = searcher(model, 1.0, relative=relative)
        search.calibrate([(noise, None)], loss)
        settled[relative] = search.settled().bn1.running_var
    assert torch.allclose(settled[1], model.bn1.running_var)
    with torch.no_grad():
        assert torch.allclose(settled[0], model.conv1(noise).transpose(0, 1).flatten(1).var(1), rtol=1e-4)


def test_refusals(digits) -> None:
    search = searcher(network("repvgg_nano"))
    with pytest.raises(PasError, match="at least one example"):
        search.calibrate([], loss)
