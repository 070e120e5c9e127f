"""SMCP: soft masks, their decay, importance, re-wiring and the scaling of norms, by hand and on small networks."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, randomise, run
from searches import network, plain_loss
from test_methods import STEPS, searcher, train
from torch import nn

import pas
from pas.gates.gated import Gated
from pas.gates.rescaled import native
from pas.methods.smcp import Smcp
from pas.surgery.forms import norms


def linear_pair(**options: float | str) -> pas.Search:
    """y = sum_i v_i w_i x with w = (2, 1, 3) and v = (3, 4, -1): 3 + 3 multiply-adds."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [1.0], [3.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 4.0, -1.0]]))
    return pas.Search(model, torch.zeros(1, 1), budget=pas.Budget(macs=0.7), method="smcp", steps=100, **options)


def close(search: pas.Search, *channels: int) -> None:
    with torch.no_grad():
        search.method.gates.value.fill_(1)
        search.method.gates.value[list(channels)] = 0
    search.method.rewired()


# -- masks


def test_the_weights_gradient_passes_the_mask() -> None:
    """With x = 1 and channel 1 closed y = 6 - 3 = 3. dL/dv_i = w_i x as if nothing were closed; what makes the closed channel gets none."""
    search = linear_pair()
    close(search, 1)
    y = search.model(torch.ones(1, 1))
    assert y.item() == 3
    y.sum().backward()
    first, second = search.backbone[0].weight.grad, search.backbone[1].weight.grad
    assert second.tolist() == [[2.0, 1.0, 3.0]]
    assert first.flatten().tolist() == [3.0, 0.0, -1.0]


def test_masked_weights_decay_further() -> None:
    """lambda_p / 2 |(1 - m) Theta|^2 = 0.25 * 4^2 with lambda_p = 1/2, whose slope is lambda_p Theta, for what reads channel 1 only."""
    search = linear_pair(decay=0.5)
    assert search.penalty().item() == 0
    close(search, 1)
    penalty = search.penalty()
    assert penalty.item() == pytest.approx(4.0)
    penalty.backward()
    assert search.backbone[1].weight.grad.tolist() == [[0.0, 2.0, 0.0]]
    assert search.backbone[0].weight.grad is None
    close(search, 0, 2)
    assert search.penalty().item() == pytest.approx(0.25 * (9 + 1))


def test_of_a_block_all_branches_and_the_identity_decay() -> None:
    """The kernels of both branches, and the scale of the identity's norm: of three closed input channels."""
    search = searcher("smcp", decay=2.0)
    block = search.backbone.stages[2][1]
    name = next(a.name for a in search.signature.prunable
                if any(slot.parameter.startswith("stages.2.1") and slot.dim == 1 for slot in a.slots))  # fmt: skip
    axis = search.signature.axis(name)
    close(search, *(int(np.flatnonzero(search.method.problem.free == axis.start + i)[0]) for i in (0, 5, 7)))
    parts = (block.conv_kxk.conv.weight[:, [0, 5, 7]], block.conv_1x1.conv.weight[:, [0, 5, 7]], block.identity.weight[[0, 5, 7]])
    assert search.penalty().item() == pytest.approx(sum(p.square().sum().item() for p in parts), rel=1e-6)


# -- importance


def seen(search: pas.Search, *inputs: float) -> np.ndarray:
    for x in inputs:
        search.model(torch.full((1, 1), x)).sum().backward()
        search.step()
    worth = search.method.importance()
    assert worth is not None
    return worth[search.method.problem.free]


def test_importance_by_hand() -> None:
    """|v_i dL/dv_i| = |v_i w_i x| = 6, 4, 3 times |x|, of the closed channel, too. Of x = 1, then -3: the latest 3, on average 2, with
    momentum from zero 0.9 * 0.1 * 1 + 0.1 * 3 = 0.39."""
    for accumulate, factor in (("latest", 3.0), ("average", 2.0), ("momentum", 0.39)):
        search = linear_pair(accumulate=accumulate)
        close(search, 1)
        assert search.method.importance() is None
        assert seen(search, 1.0, -3.0) == pytest.approx(factor * np.array([6, 4, 3]))
        assert search.method.gates.value.grad is None


def test_the_gates_gradient_is_the_published_sum(digits) -> None:
    """|sum over readers, outputs that are on, and taps of Theta dL/dTheta|, from the gradients of the weights alone."""
    search = searcher("smcp", network("cifar_resnet20"), accumulate="latest", warmup=1.0, ramp=0.0)
    problem, method = search.method.problem, search.method
    rng = np.random.default_rng(0)
    with torch.no_grad():
        method.gates.value.copy_(torch.from_numpy(rng.random(len(problem.free)) < 0.7))
    x, y = next(iter(digits.epoch(0)))
    F.cross_entropy(search.model.train()(x), y).backward()
    expected = np.zeros(search.signature.channels)
    on = method.open()
    for slot in search.signature.readers:
        weight = search.backbone.get_parameter(slot.parameter)
        makes, reads = search.signature.dims[slot.parameter][0], search.signature.dims[slot.parameter][slot.dim]
        effect = (weight * weight.grad).detach().flatten(2).sum(-1) if weight.dim() > 2 else (weight * weight.grad).detach()
        alive = np.ones(len(weight), dtype=bool) if makes is None else on[makes[:, 0]]
        if reads is not None:
            np.add.at(expected, reads[:, 0], effect[torch.from_numpy(alive)].sum(0).double().numpy())
    search.step()
    found = method.importance()
    assert found is not None
    assert found[problem.free] == pytest.approx(np.abs(expected[problem.free]), rel=1e-3, abs=1e-7)


def test_gradients_that_are_not_finite_dont_count() -> None:
    search = linear_pair(accumulate="average")
    assert seen(search, 1.0, float("inf"), float("nan"), -3.0) == pytest.approx(2 * np.array([6, 4, 3]))


def test_accumulated_gradients_are_one_step() -> None:
    """Of two backward passes, x = 1 and -3, the sum counts: |1 - 3|."""
    search = linear_pair(accumulate="average")
    for x in (1.0, -3.0):
        search.model(torch.full((1, 1), x)).sum().backward()
    search.step()
    assert search.method.importance()[search.method.problem.free] == pytest.approx(2 * np.array([6, 4, 3]))


# -- re-wiring


def test_the_first_rewiring_by_hand() -> None:
    """100 steps, warm-up 10, ramp 50 in 5 re-wirings: at 20, 30, ..., 60. Budget 0.7 * 6 = 4.2 MACs, so two of three channels, which cost
    2 each. Half the ramp is linear: 6 -> 5.1 at the third re-wiring: two channels there, and already at the first, where 5.64 is
    allowed. Least important is the third, 3 |x|.
    """
    search = linear_pair(warmup=0.1, ramp=0.5, rewirings=5, schedule="linear")
    assert sorted(search.method.moments) == [20, 30, 40, 50, 60]
    seen(search, *[1.0] * 19)
    assert search.method.open().all()
    seen(search, 1.0)
    assert search.method.open()[search.method.problem.free].tolist() == [True, True, False]


def test_channels_come_back() -> None:
    """Channel 2 is closed first (importance 3 against 4); then its reader grows tenfold, and it takes channel 1's place."""
    search = linear_pair(warmup=0.1, ramp=0.5, rewirings=5)
    seen(search, *[1.0] * 20)
    with torch.no_grad():
        search.backbone[1].weight[0, 2] = -10.0
    seen(search, *[1.0] * 10)
    assert search.method.open()[search.method.problem.free].tolist() == [True, False, True]
    assert search.landed()[search.method.problem.free].tolist() == [True, False, True]


@pytest.mark.parametrize("options", [{}, {"reads": 0.5, "makes": 0.5, "norm_scale": "importance"}], ids=["released", "mixed"])
@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_lands_in_the_band_and_rests_there(digits, name: str, options: dict[str, float | str]) -> None:
    """The masks of the last re-wiring are those of the export, and stay."""
    search = searcher("smcp", network(name), round_to=4, rewirings=4, warmup=0.0, ramp=0.2, **options)
    limit, method = search.limits.each[0], search.method
    assert isinstance(method, Smcp)
    costs = [limit.dense]
    for step in range(5):
        assert not method.rests
        train(search, digits, 1, step)
        costs.append(limit.cost.at(method.open()))
    assert method.rests
    assert costs[1] < costs[0]
    final, report = method.open(), search.report()
    assert (report["closed_by_export"], report["reopened_by_export"]) == (0, 0)
    assert 0.985 * limit.target <= costs[-1] <= limit.target
    train(search, digits, 1, 5)
    assert (method.open() == final).all()
    x = torch.randn(2, 1, 32, 32)
    assert run(search.export().eval(), x).shape == (2, 10)


@pytest.mark.parametrize("stop", [0, 2, 7])
def test_export_is_valid_at_any_moment(digits, stop: int) -> None:
    search = searcher("smcp")
    train(search, digits, stop)
    limit = search.limits.each[0]
    assert 0.99 * limit.target <= limit.cost.at(search.landed()) <= limit.target


def test_several_limits_hold_together(digits) -> None:
    model = network()
    budget = pas.Budget(macs=0.6, params=0.4)
    search = pas.Search(model, torch.zeros(1, 1, 32, 32), budget=budget, method="smcp", steps=STEPS, rewirings=6)
    train(search, digits, STEPS)
    shares = [limit.cost.at(search.landed()) / limit.target for limit in search.limits.each]
    assert 0.985 <= max(shares) <= 1


def test_gates_are_no_parameters_of_the_optimiser() -> None:
    search = searcher("smcp")
    groups = search.param_groups(0.1, 1e-4)
    assert all(p is not search.method.gates.value for group in groups for p in group["params"])
    assert search.method.gates.value.requires_grad


# -- norms


def test_the_scaled_norm_moves_at_its_native_rate() -> None:
    """With s = 1/4, gamma = 2: gamma_eff = 1/2. Forward by finite differences: dL/dgamma_eff = 3, so s 3 to gamma by the chain rule; what
    gamma gets is 3 / s = 12, after which a step of 0.1 moves gamma_eff by -0.1 * 12 / 4 = -0.3, as a step of 0.1 on slope 3 does."""
    gamma, s = torch.tensor([2.0], dtype=torch.float64, requires_grad=True), torch.tensor(0.25, dtype=torch.float64)
    with torch.no_grad():
        slope = (3 * native(gamma + 1e-6, s) - 3 * native(gamma - 1e-6, s)).item() / 2e-6
    assert slope == pytest.approx(0.25 * 3)
    (3 * native(gamma, s)).backward()
    assert gamma.grad.item() == pytest.approx(slope / 0.25**2) == 12
    with torch.no_grad():
        before, after = native(gamma, s), native(gamma - 0.1 * gamma.grad, s)
    assert (after - before).item() == pytest.approx(-0.1 * 3)


def test_the_network_is_scaled_as_written_out(digits) -> None:
    """All gradients are those of a plain network with gamma_eff in gamma's place, but those of gamma, which are divided by s."""
    search = searcher("smcp", network("cifar_resnet20"), norm_scale="channels", rewirings=2, warmup=0.0, ramp=0.4)
    train(search, digits, 5)
    x, y = next(iter(digits.epoch(1)))
    scaled = {norm.weight: f for norm, f in zip(search.method._norms, search.model.factors.tolist(), strict=True)}
    assert min(scaled.values()) < 0.9
    plain = copy.deepcopy(search.backbone)
    search.method.settle(plain, search.landed())
    reference = Gated(plain, search.signature, copy.deepcopy(search.method.gates), search.model._fold)
    for model in (search.model, reference):
        model.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
    for name, parameter in search.backbone.named_parameters():
        expected = plain.get_parameter(name).grad / scaled.get(name, 1.0)
        assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-7 * float(expected.abs().max()) + 1e-12), name


def test_which_norm_follows_which_layer() -> None:
    """ResNet: each convolution's own, those of both convolutions of a block, though the second's channels are shared by a stage. Blocks:
    each branch's, not the identity's. Depth-wise layers have none, nor have norms after a concatenation."""
    model = network("cifar_resnet20")
    pairs = {n.weight: n for n in norms(model, pas.signature(model, torch.zeros(1, 1, 32, 32)))}
    signature = pas.signature(model, torch.zeros(1, 1, 32, 32))
    assert len(pairs) == 19
    for name, norm in pairs.items():
        layer = name.replace("bn", "conv").replace("norm", "conv")
        if layer in signature.dims and signature.dims[layer][1] is not None:
            assert np.array_equal(norm.reads, signature.dims[layer][1])
    assert all(norm.reads is not None for norm in pairs.values())

    model = network("repvgg_nano")
    found = norms(model, pas.signature(model, torch.zeros(1, 1, 32, 32)))
    identities = {f"{name}.weight" for name, m in model.named_modules() if name.endswith("identity") and isinstance(m, nn.BatchNorm2d)}
    assert identities
    assert {n.weight for n in found if n.reads is None} == identities
    assert {n.weight for n in found} == {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}

    model = network("mobilenetv2_mini")
    found = norms(model, pas.signature(model, torch.zeros(1, 1, 32, 32)))
    without = {n.weight for n in found if n.reads is None}
    depthwise = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(without) == len(depthwise) > 5
    search = searcher("smcp", model, norm_scale="channels")
    assert len(search.method._norms) == len(found) - len(depthwise) - 1  # nor is the stem's scaled, whose inputs are the image


def test_shares_by_hand() -> None:
    """Two of four inputs of importance 1, 2, 3, 4 stay, the last ones: a half of the channels, 0.7 of the importance."""
    for kind, share in (("channels", 0.5), ("importance", 0.7), ("none", None)):
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
        search = pas.Search(model, torch.zeros(1, 1, 2, 2), budget=pas.Budget(macs=0.5), method="smcp", steps=9, norm_scale=kind)
        axis = search.signature.axis("0")
        search.method._worth[axis.start : axis.start + 4] = [1, 2, 3, 4]
        close(search, 0, 1)
        if share is None:
            assert "factors" not in dict(search.model.named_buffers())
        else:
            assert search.model.factors.tolist() == pytest.approx([share])


# -- equality, and resuming


@pytest.mark.parametrize("norm_scale", ["none", "channels"])
@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_the_ladder_after_training(digits, name: str, norm_scale: str) -> None:
    """Open gates are the backbone exactly; then, after training, gated = masked = sliced = fused in fp64."""
    search = searcher("smcp", network(name), norm_scale=norm_scale, round_to=4, rewirings=2, warmup=0.0, ramp=0.1)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(run(search.model.eval(), x), run(search.backbone.eval(), x))
    train(search, digits, 3)
    randomise(search.backbone, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    x = x.double()
    trained = run(copy.deepcopy(search.model).double().eval(), x)
    settled = search.settled().double().eval()
    masked = run(pas.mask(settled, search.signature, search.architecture), x)
    small = pas.slice(settled, search.signature, search.architecture)
    assert error(masked, run(small, x)) < 1e-10
    assert error(run(small, x), run(pas.fuse(small), x)) < 1e-10
    assert error(masked, run(search.model.backbone.double().eval(), x)) > 1e-3
    if name != "repvgg_nano":  # whose identity norms `settle` changes beside
        assert error(trained, masked) < 1e-5 if norm_scale == "channels" else error(trained, masked) < 1e-10


@pytest.mark.parametrize("norm_scale", ["none", "importance"])
def test_resumes_bit_for_bit(digits, norm_scale: str) -> None:
    def start() -> tuple[pas.Search, torch.optim.Optimizer]:
        search = searcher("smcp", norm_scale=norm_scale, rewirings=5, warmup=0.1, ramp=0.4, accumulate="average")
        return search, torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)

    def go(search: pas.Search, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        search.model.train()
        for x, y in itertools.islice(digits.epoch(0), first, last):
            (F.cross_entropy(search.model(x), y) + search.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad()
            search.step()

    whole, optimizer = start()
    go(whole, optimizer, 0, 12)
    first, optimizer = start()
    go(first, optimizer, 0, 7)  # between two re-wirings, of which one is over
    state, its = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second, optimizer = start()
    second.load_state_dict(state)
    optimizer.load_state_dict(its)
    go(second, optimizer, 7, 12)
    one, other = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert whole.architecture == second.architecture


def test_shrinking_goes_on_where_masks_rest(digits) -> None:
    """Masked channels are cut out for good, the norms' scales stay, and nothing changes but the size."""
    search = searcher("smcp", norm_scale="channels", round_to=4, rewirings=3, warmup=0.1, ramp=0.4)
    train(search, digits, 8)
    assert search.shrink() is search  # masks still move
    train(search, digits, 5, 8)
    randomise(search.backbone, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    small = search.shrink()
    assert small is not search
    assert small.architecture == search.architecture
    x = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    sliced = [run(s.slice().double().eval(), x) for s in (search, small)]
    assert error(*sliced) < 1e-10
    train(small, digits, 4, 13)
    assert small.report()["closed_by_export"] == 0


def test_calibration_is_ignored(digits) -> None:
    search = searcher("smcp")
    search.calibrate(itertools.islice(digits.epoch(0), 1), plain_loss)
    assert search.method.importance() is None
