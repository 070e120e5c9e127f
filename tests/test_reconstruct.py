"""Refitting against numpy's least squares, against the published left-to-right sweep, and through whole networks."""

from __future__ import annotations

import copy
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, halves, randomised, run
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pas
from pas.surgery.gram import Geometry, moments
from pas.surgery.layerwise import captured, run_layers
from pas.surgery.reconstruct import _refit, block_cost, layers, reconstruct

DAMPING = 0.01


def refit(model: nn.Module, x: Tensor, kept: dict[str, list[int]] | list[int], damping: float = 0.0) -> nn.Module:
    """The network refitted to the kept channels of its axes (of its only one, where a list is given)."""
    signature = pas.signature(model, x)
    if isinstance(kept, list):
        kept = {signature.prunable[0].name: kept}
    architecture = signature.dense()
    for name, channels in kept.items():
        architecture = architecture.keep(name, channels)
    return reconstruct(model, signature, signature.mask(architecture), x.split(5), damping=damping)


def chain(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*layers).double()


def unfolded(x: Tensor, weight: Tensor, **geometry: int) -> np.ndarray:
    """X (C k k, places) by torch's own unfolding."""
    columns = F.unfold(x, tuple(weight.shape[2:]), **geometry)
    return columns.transpose(0, 1).flatten(1).numpy()


# -- one layer


@pytest.mark.parametrize("seed", range(5))
def test_a_linear_reader_is_numpys_least_squares(seed: int) -> None:
    """[W_R, b] minimises ||W X + b - W_R X_R - b'||, X with a row of ones, whatever order the removed ones are named in."""
    rng = np.random.default_rng(seed)
    model = chain(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3), seed=seed)
    x = torch.randn(60, 4, dtype=torch.float64)
    kept = rng.choice(9, rng.integers(1, 9), replace=False).tolist()
    hidden = torch.tanh(model[0](x)).detach().numpy()
    wanted = np.linalg.lstsq(np.c_[hidden[:, sorted(kept)], np.ones(60)], model(x).detach().numpy(), rcond=None)[0].T
    for order in (kept, kept[::-1]):
        found = refit(model, x, order)
        assert np.allclose(found[2].weight.detach()[:, sorted(kept)], wanted[:, :-1], atol=1e-8)
        assert np.allclose(found[2].bias.detach(), wanted[:, -1], atol=1e-8)
        dropped = [c for c in range(9) if c not in kept]
        assert not found[2].weight[:, dropped].any()
        assert torch.equal(found[0].weight, model[0].weight)


GEOMETRIES = [
    (nn.Conv2d(6, 5, 3, padding=1), {"padding": 1}),
    (nn.Conv2d(6, 5, (3, 3), stride=2, padding=2, dilation=2, bias=False), {"stride": 2, "padding": 2, "dilation": 2}),
    (nn.Conv2d(6, 5, 1), {}),
]


@pytest.mark.parametrize(("layer", "space"), GEOMETRIES)
def test_a_convolution_is_least_squares_over_its_unfolded_input(layer: nn.Conv2d, space: dict[str, int]) -> None:
    """With a bias there is a row of ones; without, and without a norm behind it, there isn't."""
    torch.manual_seed(1)
    model = chain(nn.Conv2d(3, 6, 3), nn.ReLU(), copy.deepcopy(layer), seed=1)
    x = torch.randn(12, 3, 11, 9, dtype=torch.float64)
    kept = [0, 2, 3, 5]
    hidden = torch.relu(model[0](x)).detach()
    rows = unfolded(hidden[:, kept], layer.weight, **space)
    given = model(x).detach().transpose(0, 1).flatten(1).numpy()
    if layer.bias is not None:
        rows = np.r_[rows, np.ones((1, rows.shape[1]))]
    wanted = np.linalg.lstsq(rows.T, given.T, rcond=None)[0].T
    found = refit(model, x, kept)[2]
    size = 4 * layer.weight[0, 0].numel()
    assert np.allclose(found.weight.detach()[:, kept].flatten(1), wanted[:, :size], atol=1e-8)
    if layer.bias is not None:
        assert np.allclose(found.bias.detach(), wanted[:, -1], atol=1e-8)


def test_damping_is_the_published_formula() -> None:
    """W_R = W H_:R (H_RR)^-1 with 1 % of the mean diagonal of X_R X_R' added to that of the rows of channels."""
    model = chain(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))
    x = torch.randn(40, 4, dtype=torch.float64)
    kept = [1, 2, 4, 6]
    rows = torch.cat([torch.relu(model[0](x)).T, torch.ones(1, 40, dtype=torch.float64)]).detach()
    hessian = rows @ rows.T
    hessian[range(7), range(7)] += DAMPING * hessian.diagonal()[kept].mean()
    r = [*kept, 7]
    whole = torch.cat([model[2].weight, model[2].bias[:, None]], 1).detach()
    wanted = whole @ hessian[:, r] @ torch.linalg.inv(hessian[r][:, r])
    found = refit(model, x, kept, DAMPING)[2]
    assert torch.allclose(torch.cat([found.weight[:, kept], found.bias[:, None]], 1), wanted, atol=1e-10)
    removed = [c for c in range(7) if c not in kept]  # and the update of the surgeon: order-free, S at once
    inverse = torch.linalg.inv(hessian)
    update = whole[:, removed] @ torch.linalg.inv(inverse[removed][:, removed]) @ inverse[removed][:, r]
    assert torch.allclose(wanted, whole[:, r] - update, atol=1e-9)


def sweep(weight: Tensor, hessian: Tensor, removed: list[int]) -> Tensor:
    """The published update: columns from left to right, what a removed one gave is handed to those on its right only (SparseGPT)."""
    weight = weight.clone()
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    for c in range(weight.shape[1]):
        lost = weight[:, c] / upper[c, c] if c in removed else torch.zeros(len(weight), dtype=weight.dtype)
        weight[:, c:] -= lost[:, None] * upper[c, c:]
    return weight


@pytest.mark.parametrize("seed", range(8))
def test_never_worse_than_the_mask_or_the_sweep(seed: int) -> None:
    """In tr((W - W') H (W - W')'), the damped objective; most often clearly better."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 4, bias=False)).double()
    with torch.no_grad():
        model[0].weight[5:] = model[0].weight[:5] + 0.3 * torch.randn(5, 5, dtype=torch.float64)
    x = torch.randn(50, 5, dtype=torch.float64)
    kept = sorted(rng.choice(10, 6, replace=False).tolist())
    removed = [c for c in range(10) if c not in kept]
    rows = torch.relu(model[0](x)).T.detach()
    hessian = rows @ rows.T
    hessian += torch.eye(10, dtype=torch.float64) * DAMPING * hessian.diagonal()[kept].mean()
    dense, found = model[2].weight.detach(), refit(model, x, kept, DAMPING)[2].weight.detach()
    worth = lambda w: float(((dense - w) @ hessian @ (dense - w).T).trace())  # noqa: E731
    plain = dense.clone()
    plain[:, removed] = 0
    swept = sweep(dense, hessian, removed)
    assert swept[:, removed].abs().max() < 1e-12
    assert worth(found) <= worth(swept) * (1 + 1e-9)
    assert worth(found) < 0.9 * worth(plain)


def test_what_the_kept_channels_can_say_is_recovered() -> None:
    """Channel 2 is 2 a - b and channel 4 is constant: without them the output is the same, on inputs never seen too."""
    model = chain(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3))
    with torch.no_grad():
        first = model[0]
        for part in (first.weight, first.bias):
            part[2] = 2 * part[0] - part[1]
        first.weight[4] = 0
    # a zero border isn't what a constant channel has, so the second layer doesn't pad; nor does the first matter
    x = torch.randn(20, 3, 9, 9, dtype=torch.float64)
    found = refit(model, x, [0, 1, 3])
    other = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    assert error(run(model, other), run(found, other)) < 1e-8
    assert error(run(model, other), run(pas.mask(model, pas.signature(model, x), kept_of(model, x, [0, 1, 3])), other)) > 0.1


def kept_of(model: nn.Module, x: Tensor, kept: list[int]) -> pas.Architecture:
    signature = pas.signature(model, x)
    return signature.dense().keep(signature.prunable[0].name, kept)


def test_a_norms_mean_moves_where_there_is_no_bias() -> None:
    """The mean of what a removed channel gave goes into the running mean: the output stays when that channel is constant."""
    model = chain(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 3.0
    x = torch.randn(10, 3, 4, 4, dtype=torch.float64)
    found = refit(model, x, [0, 2, 3])
    assert error(run(model, x), run(found, x)) < 1e-10
    assert torch.allclose(found[2].running_mean, model[2].running_mean - 3 * model[1].weight[:, 1, 0, 0])


class Shared(nn.Module):
    """Two readers of one input, one of them in groups, and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 6, 3, padding=1)
        self.right = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.between = nn.Linear(6, 5)
        self.twice = nn.Linear(5, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.between(torch.relu(self.left(x) + self.right(x)).mean((2, 3))))
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


def test_groups_and_a_shared_input() -> None:
    """Each group is a least-squares problem of its own; both readers of the input are refitted; what is used twice is masked."""
    torch.manual_seed(0)
    model = Shared().double()
    x = torch.randn(20, 3, 6, 6, dtype=torch.float64)
    signature = pas.signature(model, x)
    inner = next(axis for axis in signature.prunable if ("right.weight", 1) in axis.slots)  # a place in each group of four
    channels = [0, 1, 3]
    found = refit(model, x, {inner.name: channels})
    hidden = torch.relu(model.stem(x)).detach()
    kept = [group * 4 + c for group in range(2) for c in channels]
    ones = np.ones((1, 20 * 36))
    left = np.linalg.lstsq(
        np.r_[unfolded(hidden[:, kept], model.left.weight, padding=1), ones].T,
        model.left(hidden).detach().transpose(0, 1).flatten(1).numpy().T, rcond=None)[0].T  # fmt: skip
    assert np.allclose(found.left.weight.detach()[:, kept].flatten(1), left[:, :-1], atol=1e-8)
    given = model.right(hidden).detach().transpose(0, 1).flatten(1).numpy()
    for group in range(2):
        rows = unfolded(hidden[:, kept[3 * group : 3 * group + 3]], model.right.weight, padding=1)
        wanted = np.linalg.lstsq(np.r_[rows, ones].T, given[3 * group : 3 * group + 3].T, rcond=None)[0].T
        assert np.allclose(found.right.weight.detach()[3 * group : 3 * group + 3][:, channels].flatten(1), wanted[:, :-1], atol=1e-8)
        assert np.allclose(found.right.bias.detach()[3 * group : 3 * group + 3], wanted[:, -1], atol=1e-8)
    (tied,) = (axis for axis in signature.prunable if ("twice.weight", 1) in axis.slots)
    found = refit(model, x, {tied.name: [0, 2, 4]})
    expected = model.twice.weight.detach().clone()
    expected[:, [1, 3]] = 0
    assert torch.equal(found.twice.weight, expected)
    assert not found.head.weight[:, [1, 3]].any()
    assert not torch.equal(found.head.weight[:, 0], model.head.weight[:, 0])


def test_large_inputs_are_unfolded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some examples, or some lines of one: the same sums."""
    x = torch.randn(5, 4, 9, 7, dtype=torch.float64)
    space, kept = Geometry((3, 3), (2, 1), ((1, 1), (0, 0)), (1, 2), 2), torch.tensor([1])
    conv = lambda y: F.conv2d(y, torch.ones(2, 2, 3, 3, dtype=y.dtype), None, (2, 1), (1, 0), (1, 2), 2)  # noqa: E731
    whole = moments([x], space, kept, conv, 1)
    assert whole.columns == 5 * 5 * 3
    for at_once in (1, 60, 2 * 9 * 15, 700):
        monkeypatch.setattr("pas.surgery.gram.AT_ONCE", at_once)
        parts = moments(list(x.split(2)), space, kept, conv, 1)
        assert parts.columns == whole.columns
        for name in ("gram", "cross", "x", "e"):
            assert torch.allclose(getattr(parts, name), getattr(whole, name), atol=1e-10), (at_once, name)


# -- whole networks

NETWORKS = [("cifar_resnet20", 16), ("repvgg_nano", 32), ("mobilenetv2_mini", 16), ("repvgg_b1g4", 32)]


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_the_refitted_network_is_its_slice(name: str, size: int) -> None:
    """mask = slice = fuse in fp64; nearer to the dense network than the mask on the examples; nothing removed, nothing changed."""
    model, images = randomised(name, size, seed=3)
    images = torch.cat([images, torch.randn(6, 3, size, size, dtype=torch.float64)])
    signature = pas.signature(model, images)
    before = copy.deepcopy(model.state_dict())
    architecture = halves(signature, np.random.default_rng(0), tuple(axis for axis in signature.prunable if axis.exact))
    found = reconstruct(model, signature, signature.mask(architecture), images.split(4), damping=1e-3)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    small = pas.slice(found, signature, architecture)
    assert error(run(found, images), run(small, images)) < 1e-10
    assert error(run(pas.mask(found, signature, architecture), images), run(pas.fuse(small), images)) < 1e-10
    dense, plain = run(model, images), run(pas.mask(model, signature, architecture), images)
    assert (run(found, images) - dense).norm() < 0.8 * (plain - dense).norm()
    same = reconstruct(model, signature, np.ones(signature.channels, dtype=bool), images.split(4), damping=1e-3)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in pas.fuse(model).state_dict().items())


def test_what_follows_is_fitted_to_what_came_before() -> None:
    """The second reader's least squares are over the activations of the network whose first reader is refitted."""
    model = chain(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(80, 4, dtype=torch.float64)
    one, two = (axis.name for axis in pas.signature(model, x).prunable)
    kept = [0, 3, 4, 7]
    found = refit(model, x, {one: kept, two: kept})
    hidden = found[:4](x).detach()
    wanted = np.linalg.lstsq(np.c_[hidden[:, kept], np.ones(80)], model[4](hidden).detach().numpy(), rcond=None)[0].T
    assert np.allclose(found[4].weight.detach()[:, kept], wanted[:, :-1], atol=1e-8)
    assert not torch.allclose(found[2].weight, refit(model, x, {two: kept})[2].weight)


class Live(TorchDispatchMode):
    """Counts the bytes of results that are alive; `peak`: the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.known:
                storage = leaf.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, which: int, size: int) -> None:
        self.known.discard(which)
        self.now -= size


def test_memory_does_not_grow_with_depth() -> None:
    """Of the pass alone: weights and the captured graph do grow. At its peak a few activations of all examples are alive."""

    def peak(depth: int) -> int:
        torch.manual_seed(0)
        deep = [part for _ in range(depth) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
        model, x = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *deep), torch.randn(16, 3, 32, 32)
        program = captured(model, x)
        found, tensors = layers(model, pas.signature(model, x), program), dict(model.named_parameters())
        assert len(found) == depth
        keep = np.arange(8) % 2 == 0
        visits = {layer.node: partial(_refit, layer, tensors, keep, DAMPING) for layer in found}
        live = Live()
        with torch.no_grad(), live:
            run_layers(model, program, x.split(4), visits)
        return live.peak

    few, activation = peak(3), 16 * 8 * 32 * 32 * 4
    assert activation < few < 20 * activation  # nine taps of half of the channels, twice, beside what flows
    assert peak(24) < few + activation / 2


# -- costs


def test_costs_by_the_definition() -> None:
    """The damped objective after removing one channel with its best answer, from a solve for each; two readers add up."""
    torch.manual_seed(2)
    model = Shared().double()
    x = torch.randn(10, 3, 6, 6, dtype=torch.float64)
    signature = pas.signature(model, x)
    found = block_cost(model, signature, x.split(3), damping=DAMPING)
    hidden = torch.relu(model.stem(x)).detach()
    inner = next(axis for axis in signature.prunable if ("right.weight", 1) in axis.slots)

    def cost(weight: Tensor, rows: Tensor, removed: list[int]) -> float:
        """min over W' without these columns of tr((W - W') H (W - W')')."""
        hessian = rows @ rows.T - rows.sum(1)[:, None] * rows.sum(1) / rows.shape[1]
        hessian += torch.eye(len(rows), dtype=rows.dtype) * DAMPING * (rows @ rows.T).diagonal().mean()
        kept = [c for c in range(len(rows)) if c not in removed]
        best = torch.zeros_like(weight)
        best[:, kept] = weight @ hessian[:, kept] @ torch.linalg.inv(hessian[kept][:, kept])
        return float(((weight - best) @ hessian @ (weight - best).T).trace()) / 10

    for place in range(4):
        both = [9 * (4 * group + place) + tap for group in range(2) for tap in range(9)]
        wanted = cost(model.left.weight.detach().flatten(1), torch.from_numpy(unfolded(hidden, model.left.weight, padding=1)), both)
        for group in range(2):
            rows = torch.from_numpy(unfolded(hidden[:, 4 * group : 4 * group + 4], model.right.weight, padding=1))
            weight = model.right.weight.detach()[3 * group : 3 * group + 3].flatten(1)
            wanted += cost(weight, rows, [9 * place + tap for tap in range(9)])
        assert found[inner.start + place] == pytest.approx(wanted, rel=1e-8)
    (tied,) = (axis for axis in signature.prunable if ("twice.weight", 1) in axis.slots)
    assert np.isfinite(found[tied.start : tied.start + tied.size]).all()  # the head reads them too
