"""ResRep: gradient resetting by hand, compactors folded away exactly, and the budget's band."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import error, randomise, run
from searches import network, train
from timm.models.byobnet import RepVggBlock
from torch import nn

import pas
from pas.axes.signature import rows
from pas.surgery.compactor import CompactedNorm, Compactor, Place, fold, insert, places
from pas.surgery.forms import identity_input, typed_blocks

STEPS = 20
NETWORKS = ("chain", "repvgg_nano", "mobilenetv2_mini", "cifar_resnet20")


def searcher(name: str = "repvgg_nano", budget: float = 0.5, **options) -> pas.Search:
    return pas.Search(network(name), torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=budget), method="resrep", steps=STEPS, **options)


def optimizer_of(search: pas.Search) -> torch.optim.Optimizer:
    return torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)


def chain() -> nn.Module:
    """A biased and a bare convolution with their norms, and a head: two axes of four and three channels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip


# -- compactors


def test_the_gradient_is_reset_by_hand() -> None:
    """Q = I, x = (1, 2), L = 3 z_0 + 5 z_1: dL/dQ = ((3, 6), (5, 10)). Row 1 is masked: nothing of it. The lasso 0.1 adds 0.1 Q_j / ||Q_j||
    = 0.1 on the diagonal, to both rows.
    """
    search = pas.Search(chain(), torch.zeros(1, 1, 8, 8), budget=pas.Budget(macs=0.5), method="resrep", steps=10, lasso=0.1)
    compactor = Compactor(torch.ones(2))
    compactor.mask.copy_(torch.tensor([1.0, 0.0]))
    search.method.compactors = [compactor]
    z = compactor(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1))
    ((torch.tensor([3.0, 5.0]) * z.flatten()).sum() + search.penalty()).backward()
    assert compactor.weight.grad.flatten().tolist() == pytest.approx([3.1, 6.0, 0.0, 0.1])
    assert search.penalty().item() == pytest.approx(0.2)


def test_the_gradient_agrees_with_differences() -> None:
    """Of all that isn't masked, the gradient is that of the loss and the lasso together."""
    torch.manual_seed(0)
    compactor = Compactor(torch.ones(3, dtype=torch.float64))
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)

    def value(weight: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(compactor, {"weight": weight}, (x,))
        return out.square().sum() + 0.1 * torch.linalg.vector_norm(weight, dim=1).sum()

    assert torch.autograd.gradcheck(value, (torch.randn(3, 3, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("name", NETWORKS)
def test_compactors_change_nothing_at_first_and_fold_away_exactly(name: str) -> None:
    """At first the very same output. With random compactors the folded network computes the same in eval mode in fp64, and is a plain one
    again: the same modules, parameters and buffers.
    """
    model = chain() if name == "chain" else network(name)
    signature = pas.signature(model, torch.zeros(1, 1, 32, 32))
    model.double()
    generator = torch.Generator().manual_seed(1)
    randomise(model, torch.randn(8, 1, 32, 32, dtype=torch.float64), generator)
    x = torch.randn(3, 1, 32, 32, dtype=torch.float64)
    plain, whole = copy.deepcopy(model), run(model.eval(), x)
    found = places(model, signature, signature.prunable)
    compactors = [insert(model, place) for place in found]
    assert torch.equal(run(model, x), whole)
    assert set(dict(plain.named_parameters())) <= set(dict(model.named_parameters()))
    with torch.no_grad():
        for compactor in compactors:
            compactor.weight += 0.3 * torch.randn(compactor.weight.shape, generator=generator, dtype=torch.float64)
    mixed = run(model, x)
    assert error(whole, mixed) > 1e-2
    model.train()
    for place in found:
        fold(model, place)
    assert all(module.training for module in model.modules())
    assert error(mixed, run(model.eval(), x)) < 1e-12
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}


def compacted(name: str, seed: int) -> tuple[nn.Module, list[Place], list[Compactor], torch.Tensor]:
    """A network in fp64 with norms that matter, a few scales negative, its compactors, and images."""
    model = chain() if name == "chain" else network(name)
    signature = pas.signature(model, torch.zeros(1, 1, 32, 32))
    model.double()
    generator = torch.Generator().manual_seed(seed)
    randomise(model, torch.randn(8, 1, 32, 32, dtype=torch.float64, generator=generator), generator)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::3] *= -1
    found = places(model, signature, signature.prunable)
    return model, found, [insert(model, place) for place in found], torch.randn(4, 1, 32, 32, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_untrained_compactors_fold_to_the_very_network(name: str) -> None:
    """Q = I: every kernel, scale, shift, mean and variance of every branch and identity is what it was."""
    model, found, _, _ = compacted(name, 2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for place in found:
        fold(model, place)
    for key, tensor in model.state_dict().items():
        assert torch.allclose(tensor, before[key], rtol=1e-12, atol=1e-14), key


@pytest.mark.parametrize("name", NETWORKS)
def test_a_diagonal_folds_exactly_in_training_mode(name: str) -> None:
    """Q = diag(d), some of it negative: with the statistics of another batch the output is that of the compactors, and the scale of each
    norm is d times what it was while kernels stay.
    """
    model, found, compactors, x = compacted(name, 3)
    generator = torch.Generator().manual_seed(4)
    kernels = {key: tensor.clone() for key, tensor in model.named_parameters() if tensor.dim() == 4}
    with torch.no_grad():
        for compactor in compactors:
            size = len(compactor.weight)
            d = (0.2 + 2 * torch.rand(size, generator=generator)) * torch.where(torch.arange(size) % 4 == 1, -1, 1)
            compactor.weight.copy_(d.diag())
    folded = copy.deepcopy(model)
    for place in found:
        fold(folded, place)
    assert all(torch.allclose(tensor, kernels[key], rtol=1e-12) for key, tensor in folded.named_parameters() if key in kernels)
    assert error(run(model.train(), x), run(folded.train(), x)) < 1e-10


def test_a_pair_folds_as_by_hand() -> None:
    """eps = 1, v = (3, 8), gamma = (2, 6): s = (1, 2). W = ((3, 4), (3, -4)), mu - b = (1, 2), b = (10, 20), beta = (1, 4).

    Row 0 of Q is (1, 1/2): sum_i Q_0i s_i W_i = (3, 4) + (3, -4) = (6, 0), so r = 5/6 and W' = (5, 0); mu' = 5/6 (1 + 2) + 10 = 12.5. The
    cosine of the two kernels is (9 - 16) / 25 = -7/25: v' = (5/6)^2 (3 + 8 - 2 * 7/25 sqrt(24)), gamma' = sqrt(v' + 1) / (5/6), and
    beta' = 1 + 2 = 3. Row 1 is zero: no kernel, mean b, variance 0, scale sqrt(0 + 1) and no shift.
    """
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, eps=1.0), nn.ReLU(), nn.Conv2d(2, 1, 1))
    signature = pas.signature(model, torch.zeros(1, 2, 4, 4))
    model.double()
    (place,) = places(model, signature, signature.prunable)
    compactor, (conv, norm) = insert(model, place), model[:2]
    with torch.no_grad():
        for tensor, value in (
            (conv.weight[:, :, 0, 0], [[3, 4], [3, -4]]), (conv.bias, [10, 20]), (norm.weight, [2, 6]), (norm.bias, [1, 4]),
            (norm.running_mean, [11, 22]), (norm.running_var, [3, 8]), (compactor.weight, [[1, 0.5], [0, 0]]),
        ):  # fmt: skip
            tensor.copy_(torch.tensor(value))
    fold(model, place)
    norm, variance = model[1], 25 / 36 * (11 - 14 / 25 * 24**0.5)
    assert conv.weight.flatten().tolist() == pytest.approx([5, 0, 0, 0])
    assert conv.bias.tolist() == [10, 20]
    assert norm.running_mean.tolist() == pytest.approx([12.5, 20])
    assert norm.running_var.tolist() == pytest.approx([variance, 0])
    assert norm.weight.tolist() == pytest.approx([(variance + 1) ** 0.5 * 6 / 5, 1])
    assert norm.bias.tolist() == pytest.approx([3, 0])


def test_an_identity_folds_as_by_hand() -> None:
    """A block of two channels, eps = 0 and all scales s = 1 but the identity's s = (1, 2) with v = (4, 9), means (1, 2), shifts (1, 1);
    Q = ((1, 1/2), (0, 3)). Kernels 1x1 are ((1, 0), (0, 1)) with v = (1, 16) and no mean.

    The identity keeps Q_jj gamma_j = gamma (1, 3), mean and variance, and has the shift Q (1, 1) = (1.5, 3). Row 0 of the 1x1 kernel is
    (1, 0) + 1/2 (0, 1) + 1/2 * 2 (0, 1) = (1, 1.5), made as long as it was (r = 1 / sqrt(3.25)); its mean 1/2 * 2 * 2 r = 2 r.
    Both that channel 1 adds are the same direction, (0, 1), with deviations 1/2 * 4 and 1/2 * 2 * 3: v' = (1^2 + (2 + 3)^2) r^2 = 26 r^2.
    Row 1 is 3 (0, 1), which stays (0, 1), with its mean 0 and v = 16, and thrice the scale, 12.
    """
    block = RepVggBlock(2, 2, 3)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), block, nn.Conv2d(2, 1, 1))
    signature = pas.signature(model, torch.zeros(1, 1, 4, 4))
    model.double()
    place = Place("1", "", signature.prunable[-1])
    compactor, one, identity = insert(model, place), block.conv_1x1, block.identity
    with torch.no_grad():
        for norm in (block.conv_kxk.bn, one.bn, identity):
            norm.eps = 0.0
        for tensor, value in (
            (one.conv.weight[:, :, 0, 0], [[1, 0], [0, 1]]), (one.bn.weight, [1, 4]), (one.bn.bias, [0, 0]), (one.bn.running_var, [1, 16]),
            (identity.weight, [2, 6]), (identity.bias, [1, 1]), (identity.running_mean, [1, 2]), (identity.running_var, [4, 9]),
            (compactor.weight, [[1, 0.5], [0, 3]]),
        ):  # fmt: skip
            tensor.copy_(torch.tensor(value))
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    before = run(model.eval(), x)
    fold(model, place)
    assert error(before, run(model, x)) < 1e-12
    r = 3.25**-0.5
    assert identity.weight.tolist() == pytest.approx([2, 18])
    assert identity.bias.tolist() == pytest.approx([1.5, 3])
    assert (identity.running_mean.tolist(), identity.running_var.tolist()) == ([1, 2], [4, 9])
    assert one.conv.weight.flatten().tolist() == pytest.approx([r, 1.5 * r, 0, 1])
    assert one.bn.running_mean.tolist() == pytest.approx([2 * r, 0])
    assert one.bn.running_var.tolist() == pytest.approx([26 * r**2, 16])
    assert one.bn.weight.tolist() == pytest.approx([26**0.5, 12])


def test_rows_that_have_nearly_vanished_fold_to_finite_numbers() -> None:
    """Rows of norm 1e-15, 1e-20 and 0 in single precision, whose squares are out of its range: ratios to 1e20 at least."""
    model = chain()
    signature = pas.signature(model, torch.zeros(1, 1, 8, 8))
    place = places(model, signature, signature.prunable)[0]
    compactor, x = insert(model, place), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        compactor.weight[1:] *= torch.tensor([1e-15, 1e-20, 0])[:, None]
    before = run(model.eval(), x)
    fold(model, place)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert error(before, run(model, x)) < 1e-5


def test_rows_keep_their_norms_whatever_q() -> None:
    model, found, compactors, _ = compacted("repvgg_nano", 5)
    kernels = {key: tensor.clone() for key, tensor in model.named_parameters() if tensor.dim() == 4}
    with torch.no_grad():
        for compactor in compactors:
            compactor.weight.normal_(generator=torch.Generator().manual_seed(6))
    for place in found:
        fold(model, place)
    moved = 0
    for key, tensor in model.named_parameters():
        if key in kernels:
            assert torch.allclose(tensor.flatten(1).norm(dim=1), kernels[key].flatten(1).norm(dim=1))
            moved += not torch.allclose(tensor, kernels[key])
    assert moved == 16  # two branches of eight blocks


def test_places_are_the_layers_that_alone_make_an_axis() -> None:
    """All of a plain chain; of a residual network the inner convolutions, of inverted residuals the expansions, whose channels a
    depth-wise convolution passes on; not what an addition ties, nor what two norms read, nor a grouped convolution.
    """

    def paths(model: nn.Module, size: int = 32) -> list[str]:
        signature = pas.signature(model, torch.zeros(1, 1, size, size))
        return [place.path for place in places(model, signature, signature.prunable)]

    assert paths(chain()) == ["1", "4"]
    assert paths(network("cifar_resnet20")) == [f"layer{s}.{b}.bn1" for s in (1, 2, 3) for b in range(3)]
    assert {"blocks.1.0.bn1", "blocks.4.1.bn1"} <= set(paths(network("mobilenetv2_mini")))
    assert "blocks.1.0.bn3" not in paths(network("mobilenetv2_mini"))
    assert len(paths(network())) == 8
    grouped = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    assert paths(grouped) == []


def test_statistics_after_folding_are_those_of_the_new_convolution() -> None:
    """With uncorrelated inputs, which W passes on, mean and variance of W' x are what the folded norm holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    x = torch.randn(64, 2, 32, 32, dtype=torch.float64) * torch.tensor([1.0, 3.0])[:, None, None] + 2
    signature = pas.signature(model, torch.zeros(1, 2, 4, 4))
    model.double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2)[:, :, None, None])
        model[0].bias.fill_(1.0)
    model[1].momentum = None
    model.train()(x)
    (place,) = places(model, signature, signature.prunable)
    compactor = insert(model, place)
    assert isinstance(model[1], CompactedNorm)
    with torch.no_grad():
        compactor.weight.copy_(torch.tensor([[1.0, 0.5], [-0.5, 2.0]]))
    fold(model, place)
    made = run(model[0], x)
    assert model[1].running_mean.tolist() == pytest.approx(made.mean((0, 2, 3)).tolist(), rel=1e-6)
    assert model[1].running_var.tolist() == pytest.approx(made.var((0, 2, 3)).tolist(), rel=2e-2)


# -- the search


def test_compactors_have_a_group_of_their_own() -> None:
    """Momentum 0.99 and no decay; no compactor is in another group."""
    search = searcher()
    *others, own = search.param_groups(lr=0.02, weight_decay=1e-2)
    assert (own["lr"], own["weight_decay"], own["momentum"]) == (0.02, 0.0, 0.99)
    weights = {id(compactor.weight) for compactor in search.method.compactors}
    assert weights == {id(p) for p in own["params"]}
    assert not weights & {id(p) for group in others for p in group["params"]}


def test_selection_by_hand() -> None:
    """Half of the MACs of a chain; nothing in the warm-up of 2 steps, then a tenth of the 20 channels more a step: ceil(20 k / 10) of the
    lowest rows, until those that go are all selected. Each selected row loses 1 / (0.2 * 20) of norm a step.
    """
    model = nn.Sequential(nn.Conv2d(1, 20, 1), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 1, 1))
    search = pas.Search(
        model, torch.zeros(1, 1, 1, 1), budget=pas.Budget(macs=0.5), method="resrep", steps=20, warmup=0.1, ramp=0.5, every=0.05, fall=0.2
    )  # fmt: skip
    (compactor,) = search.method.compactors
    with torch.no_grad():
        compactor.weight.copy_(torch.diag(1 - torch.arange(20) / 1000))  # the last ones least
    counts, norms = [], []
    for _ in range(10):
        search.step()
        counts.append(int((compactor.mask == 0).sum()))
        norms.append(compactor.norms()[-1].item())
    assert counts == [0, 0, 2, 4, 6, 8, 10, 10, 10, 10]
    assert (compactor.mask == 0).nonzero().flatten().tolist() == list(range(10, 20))
    assert norms[1:] == pytest.approx([0.981, 0.731, 0.481, 0.231, 0, 0, 0, 0, 0], abs=1e-6)
    assert compactor.norms()[:10].tolist() == pytest.approx((1 - torch.arange(10) / 1000).tolist())
    free = search.method.problem.free
    assert search.method.open()[free].tolist() == [True] * 10 + [False] * 8 + [False] * 2
    assert (search.landed()[free] == search.method.open()[free]).all()


def test_tied_axes_stay_whole_unless_the_budget_demands_more() -> None:
    """A half is to be had of the inner axes alone, a tenth is not."""
    for budget, whole in ((0.5, True), (0.04, False)):
        search = searcher("cifar_resnet20", budget)
        places_ = {place.axis.name for place in search.method.places}
        widths = search.architecture.widths()
        tied = {axis.name: axis.size for axis in search.widths.axes if axis.name not in places_}
        assert all(widths[name] == size for name, size in tied.items()) == whole
        limit = search.report()["budget"][0]
        assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"]


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_it_lands_in_the_band_and_is_exact(digits, name: str) -> None:
    """What is settled computes what the search trains, in eval mode, and mask = slice = fuse."""
    search = searcher(name, round_to=2)
    train(search, digits)
    limit = search.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"]
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    trained = copy.deepcopy(search.model).double().eval()
    search.model.double()
    settled = search.settled().eval()
    assert not any(isinstance(module, Compactor) for module in settled.modules())
    assert any(isinstance(module, Compactor) for module in search.backbone.modules())
    if name == "mobilenetv2_mini":  # where identities have norms, these lose the means of dropped channels
        assert error(run(trained, x), run(settled, x)) < 1e-10
    masked, small = (cut(settled, search.current, search.remaining) for cut in (pas.mask, pas.slice))
    assert error(run(masked, x), run(small, x)) < 1e-10
    assert error(run(small, x), run(pas.fuse(small), x)) < 1e-10


def test_a_dead_channel_does_not_swamp_kernels_by_its_identity() -> None:
    """An identity that reads a channel of no variance has a scale of 1 / sqrt(eps), about 300, which Q would mix into kernels whose rows
    have a norm near 1: cut to what stays, they would be 100 times shorter. Left out, rows stay within a factor of 2.
    """
    search = searcher()
    model, mask, generator = search.backbone, np.ones(search.signature.channels, dtype=bool), torch.Generator().manual_seed(0)
    mask[search.method.problem.free] = np.arange(search.method.problem.free.size) % 2 == 0
    typed = typed_blocks(model, search.signature)
    with torch.no_grad():
        for compactor in search.method.compactors:
            compactor.weight += 0.1 * torch.randn(compactor.weight.shape, generator=generator)
        for item in typed.values():
            for norm in (*(norm for _, norm in item.block.branches), item.block.identity):
                if norm is not None:
                    norm.weight.fill_(1)
            if item.block.identity is not None:
                item.block.identity.running_var[torch.from_numpy(~rows(identity_input(item), mask, len(norm.weight)))] = 0
    settled, seen = copy.deepcopy(model), 0
    search.method.settle(settled, mask)
    for path, item in typed_blocks(settled, search.signature).items():
        on = rows(item.reads, mask, item.block.main.weight.shape[1])
        for (conv, _), (old, _) in zip(item.block.branches, typed[path].block.branches, strict=True):
            new, before = (layer.weight.detach()[:, on].flatten(1).norm(dim=1) for layer in (conv, old))
            assert (new / before).log2().abs().max() < 1, path
        seen += item.block.identity is not None and not on.all()
    assert seen == 4


def test_what_is_dropped_is_zero_by_then(digits) -> None:
    """Rows that fall within a fifth of the search are zero at its end: the export closes nothing, and changes nothing."""
    search = searcher("cifar_resnet20", ramp=0.2, every=0.05)
    train(search, digits)
    assert search.report()["closed_by_export"] == search.report()["reopened_by_export"] == 0
    assert not search.method.open().all()
    search.model.double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    trained, settled = run(copy.deepcopy(search.model).eval(), x), search.settled().eval()
    assert error(trained, run(pas.slice(settled, search.current, search.remaining), x)) < 1e-4
    for place, compactor in zip(search.method.places, search.method.compactors, strict=True):
        gone = ~search.landed()[place.axis.start : place.axis.start + place.axis.size]
        assert (compactor.norms().detach().numpy()[gone] < 1e-5).all()


def test_a_start_is_kept_to() -> None:
    model = network()
    architecture = pas.signature(model, torch.zeros(1, 1, 32, 32)).dense()
    for name, size in architecture.widths().items():
        architecture = architecture.keep(name, range(0, size, 2))
    search = pas.Search(model, torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=0.15), method="resrep", steps=STEPS, start=architecture)
    inside = search.signature.mask(architecture)
    assert (search.method.open() == inside).all()
    assert not (search.landed() & ~inside).any()


def test_killed_and_resumed_it_goes_on_bit_for_bit(digits) -> None:
    whole, first, again = searcher(), searcher(), searcher()
    train(whole, digits, 0, 12)
    before = train(first, digits, 0, 5)
    assert any((c.mask == 0).any() for c in first.method.compactors)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    optimizer = optimizer_of(again)
    optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
    train(again, digits, 5, 12, optimizer)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert again.architecture == whole.architecture
    assert np.array_equal(again.method.scores(), whole.method.scores())
