"""Criteria of single weights and their grouped form, on networks small enough to derive every number by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pas
from pas import models
from pas.axes.signature import Signature, rows
from pas.criteria import CRITERIA, NORMALISERS, REDUCTIONS, WITH_DATA, WITHOUT_DATA, from_data, from_weights, grouped
from pas.criteria.derivatives import hessian_times, mean
from pas.criteria.examples import count, first, singles
from pas.criteria.gradientwise import maps
from pas.criteria.norms import l1, magnitude
from pas.criteria.weightwise import WEIGHTWISE, weights
from pas.errors import PasError
from pas.rule import CHOICES


def two_layers(v1: float = 4.0) -> tuple[nn.Module, Signature]:
    """y = a x with a = sum_i v_i w_i; w = (2, 1), v = (3, v1). Its two channels live in the rows of w and the columns of v."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [1.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, v1]]))
    return model, pas.signature(model, torch.zeros(1, 1, dtype=torch.float64))


def with_scales(model: nn.Module) -> nn.Module:
    """Fresh norms are all alike; these aren't."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    return model


def half_square(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return network(x).square().mean() / 2


def batch(*values: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(values, dtype=torch.float64)[:, None], torch.zeros(len(values))


def of_axis(signature: Signature, scores: np.ndarray) -> list[float]:
    (axis,) = signature.prunable
    return scores[axis.start : axis.start + axis.size].tolist()


def judged(criterion: str, *batches, v1: float = 4.0, samples: int = 100) -> list[float]:
    """The importances of the two channels, summed over their slots."""
    model, signature = two_layers(v1)
    return of_axis(signature, from_data(model, signature, criterion, "sum", "none", batches, half_square, samples))


# -- by the weights


@pytest.mark.parametrize(
    ("reduce", "of_l1", "of_l2"),
    [
        ("sum", (5, 5), (13, 17)),
        ("mean", (2.5, 2.5), (6.5, 8.5)),
        ("max", (3, 4), (9, 16)),
        ("prod", (6, 4), (36, 16)),
        ("first", (2, 1), (4, 1)),
    ],
)
def test_norms_reduced_over_slots(reduce: str, of_l1: tuple[float, float], of_l2: tuple[float, float]) -> None:
    """|w| = (2, 1) and |v| = (3, 4); their squares (4, 1) and (9, 16). The kernel that makes the channels comes first."""
    model, signature = two_layers(-4)
    assert of_axis(signature, from_weights(model, signature, "group_l1", reduce, "none")) == pytest.approx(of_l1)
    assert of_axis(signature, from_weights(model, signature, "group_l2", reduce, "none")) == pytest.approx(of_l2)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("none", (13, 17)),
        ("sum", (13 / 30, 17 / 30)),
        ("mean", (13 / 15, 17 / 15)),
        ("max", (13 / 17, 1)),
        ("standardise", (0, 1)),
        ("gaussian", (-(0.5**0.5), 0.5**0.5)),  # mean 15, deviation sqrt((4 + 4) / (2 - 1))
    ],
)
def test_normalised_inside_an_axis(normalise: str, expected: tuple[float, float]) -> None:
    model, signature = two_layers()
    assert of_axis(signature, from_weights(model, signature, "group_l2", "sum", normalise)) == pytest.approx(expected)


def test_normalising_keeps_the_order_of_signs_and_says_nothing_of_nothing() -> None:
    """Sums of -1 and 0.5 must not be divided by their negative mean; an axis of zeros stays zero, of one channel finite."""
    _, signature = two_layers()
    for normalise in NORMALISERS:
        for values, rising in (((-1.0, 0.5), True), ((0.0, 0.0), False)):
            found = of_axis(signature, grouped(signature, {"0.weight": torch.tensor(values)[:, None]}, "sum", normalise))
            assert (found[0] < found[1]) is rising, normalise
            assert np.isfinite(found).all()
        assert np.isfinite(NORMALISERS[normalise](np.array([3.0])))


def test_only_norm_scales_count_for_slimming() -> None:
    """gamma = (-3, 1, 2) of the norm between two convolutions; the second axis, which no norm scales, gets NaN."""
    convs = [nn.Conv2d(a, b, 1) for a, b in ((1, 3), (3, 2), (2, 1))]
    model = nn.Sequential(convs[0], nn.BatchNorm2d(3), nn.ReLU(), *convs[1:])
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-3.0, 1.0, 2.0]))
    signature = pas.signature(model, torch.zeros(1, 1, 4, 4))
    scores = from_weights(model, signature, "bn_scale", "sum", "none")
    scaled, plain = (scores[axis.start : axis.start + axis.size] for axis in signature.prunable)
    assert scaled.tolist() == [3, 1, 2]
    assert np.isnan(plain).all()


def test_random_draws_one_number_a_channel_alike_for_axes_of_all_sizes() -> None:
    model = models.create("repvgg_nano", num_classes=10, in_chans=1)
    signature = pas.signature(model, torch.zeros(1, 1, 32, 32))
    torch.manual_seed(3)
    drawn = from_weights(model, signature, "random", "sum", "none")
    torch.manual_seed(3)
    assert np.array_equal(drawn, from_weights(model, signature, "random", "max", "none"))
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    assert drawn.std() == pytest.approx(12**-0.5, abs=0.03)
    assert not np.array_equal(drawn, from_weights(model, signature, "random", "sum", "none"))


def test_magnitude_counts_kernels_by_what_makes_and_reads_them() -> None:
    """A transposed convolution makes along dimension 1: its columns are (3, 4) and (0, 5) long in L1 7 and 5 of mean 6; what reads them is
    left out by `l1`. `magnitude` has L2 norms of 5 and 5 there, of the readers 1 and 3 (mean 2), and no slot of the shift, which is zero.
    """
    model = nn.Sequential(nn.ConvTranspose2d(2, 2, 1), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 5.0]])[:, :, None, None])
        model[0].bias.zero_()
        model[1].weight.copy_(torch.tensor([[1.0, 3.0]])[:, :, None, None])
    signature = pas.signature(model, torch.zeros(1, 2, 4, 4))
    assert of_axis(signature, l1(model, signature)) == pytest.approx([7 / 6, 5 / 6])
    assert of_axis(signature, magnitude(model, signature)) == pytest.approx([(1 + 0.5) / 2, (1 + 1.5) / 2])


# -- by the loss: L = mean of (a x)^2 / 2, so with s = mean of x^2: g_w = s a v, g_v = s a w


def test_snip_by_hand() -> None:
    """x = 1 and -3: s = 5, a = 10. w g = 5 * 10 * (6, 4) in both slots, 1000 in all: shares of 0.3 and 0.2 twice."""
    for batches in ([batch(1, -3)], [batch(1, 1), batch(-3, -3)]):
        assert judged("snip", *batches) == pytest.approx([0.6, 0.4])


def test_first_order_taylor_by_hand() -> None:
    """One batch: w g = (300, 200) in both slots. Two: 10 * (6, 4) for x = 1 and 9 times as much for x = -3, whose squares have the means
    (3600 + 291600) / 2 and (1600 + 129600) / 2, and whose sizes (60 + 540) / 2 and (40 + 360) / 2.
    """
    assert judged("taylor_squared", batch(1, -3)) == pytest.approx([2 * 300**2, 2 * 200**2])
    assert judged("taylor_abs", batch(1, -3)) == pytest.approx([600, 400])
    assert judged("taylor_squared", batch(1), batch(-3)) == pytest.approx([2 * 147600, 2 * 65600])
    assert judged("taylor_abs", batch(1), batch(-3)) == pytest.approx([600, 400])


def test_a_batch_counts_by_its_examples() -> None:
    """x = 1, 1 and then 4 alone: w g = 10 * (6, 4) times 1 and 16; squares (2 * 1 + 256) / 3 = 86 times 100 * (36, 16)."""
    assert judged("taylor_squared", batch(1, 1), batch(4)) == pytest.approx([2 * 86 * 3600, 2 * 86 * 1600])


def test_second_order_taylor_by_hand() -> None:
    """E_n[g_n^2] of w_i is v_i^2 (10^2 + 90^2) / 2 = 4100 v_i^2, so w_i^2 E / 2 = 2050 * (36, 16), the same in both slots. With a = 2 for
    v = (3, -4): g_n = 2 x^2 v, E = v^2 (4 + 324) / 2 = 164 v^2, so 82 * (36, 16).
    """
    for batches in ([batch(1, -3)], [batch(1), batch(-3)]):
        assert judged("fisher", *batches) == pytest.approx([2 * 73800, 2 * 32800])
        assert judged("fisher", *batches, v1=-4) == pytest.approx([2 * 2952, 2 * 1312])


def test_grasp_and_crop_by_hand() -> None:
    """|g|^2 / 2 = s^2 a^2 N / 2 with N = |w|^2 + |v|^2, whose gradient is H g: by w_i, s^2 (a N v_i + a^2 w_i). With v = (3, -4): s = 5,
    a = 2, N = 30, so w_i (H g)_i = 25 (60 w_i v_i + 4 w_i^2) = (9400, -5900), and of v the same with v_i^2: (9900, -4400).
    """
    for batches in ([batch(1, -3)], [batch(1, 1), batch(-3, -3)]):
        assert judged("grasp", *batches, v1=-4) == pytest.approx([19300, -10300])
        assert judged("crop", *batches, v1=-4) == pytest.approx([19300, 10300])
    assert judged("grasp", batch(1, -3)) == pytest.approx([122500, 102500])  # v = (3, 4): a = 10, 25 (300 w v + 100 w^2)


def test_grasp_keeps_what_the_gradient_flow_needs() -> None:
    """Weights of a channel shrunk by a share e change |g|^2 by -2 e times its importance: less flow for the first, more for the second."""
    importance = judged("grasp", batch(1, -3), v1=-4)
    x, y = batch(1, -3)

    def flow(channel: int, share: float) -> float:
        model, _ = two_layers(-4)
        with torch.no_grad():
            model[0].weight[channel] *= 1 - share
            model[1].weight[:, channel] *= 1 - share
        gradients = torch.autograd.grad(half_square(model, x, y), list(model.parameters()))
        return sum(float(g.square().sum()) for g in gradients)

    for channel in (0, 1):
        slope = (flow(channel, 1e-5) - flow(channel, -1e-5)) / 2e-5
        assert slope == pytest.approx(-2 * importance[channel], rel=1e-6)


def test_only_so_many_examples_are_seen() -> None:
    """The third of them, which would count 10^4 times as much, isn't; nor is a batch asked for that isn't needed."""
    assert judged("taylor_squared", batch(1, -3, 100), samples=2) == pytest.approx(judged("taylor_squared", batch(1, -3)))

    def batches():
        yield batch(1, 2)
        yield batch(3, 4)
        raise AssertionError("no further batch is needed")

    found = list(first(batches(), 3))
    assert [count(one) for one in found] == [2, 1]
    assert [x.item() for x, _ in singles(found)] == [1, 2, 3]


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_data_is_needed_and_finite(criterion: str) -> None:
    for batches in ([], [batch(1)]):
        with pytest.raises(PasError, match="at least two examples"):
            judged(criterion, *batches)
    with pytest.raises(PasError, match="infinite or NaN"):
        judged(criterion, batch(1, float("inf")))


# -- derivatives


def curved() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double()
    return model, [(torch.randn(n, 2, 4, 4, dtype=torch.float64), torch.randint(4, (n,))) for n in (5, 2)]


def entropy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(network(x), y)


def test_hessian_times_a_vector_is_the_slope_of_the_gradient() -> None:
    """(g(w + h v) - g(w - h v)) / 2 h, over batches of unequal size, norms in eval mode and in training mode."""
    for training in (False, True):
        model, batches = curved()
        model.train(training)
        named = dict(model.named_parameters())
        vector = mean(model, named, batches, entropy)
        product = hessian_times(model, named, batches, entropy, vector)
        ends = []
        for h in (1e-5, -1e-5):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                for name, parameter in moved.named_parameters():
                    parameter += h * vector[name]
            ends.append(mean(moved, dict(moved.named_parameters()), batches, entropy))
        for name in named:
            slope = (ends[0][name] - ends[1][name]) / 2e-5
            assert torch.allclose(product[name], slope, rtol=1e-6, atol=1e-7), name


def test_the_gradient_over_batches_is_that_over_all_examples() -> None:
    model, batches = curved()
    model.eval()
    together = tuple(torch.cat(part) for part in zip(*batches, strict=True))
    named = dict(model.named_parameters())
    of_parts, of_all = (mean(model, named, given, entropy) for given in (batches, [together]))
    products = [hessian_times(model, named, given, entropy, of_all) for given in (batches, [together])]
    for name in named:
        assert torch.allclose(of_parts[name], of_all[name], atol=1e-12)
        assert torch.allclose(products[0][name], products[1][name], atol=1e-12)


class Attention(nn.Module):
    """One head over 4 tokens of 6 features, in torch's fused attention, which can't be differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x)[:, None] for part in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v)[:, 0]).mean(1)


def test_curvature_of_attention() -> None:
    torch.manual_seed(0)
    model, data = Attention(), (torch.randn(4, 4, 6), torch.randint(6, (4,)))
    signature = pas.signature(model, data[0])
    scores = from_data(model, signature, "crop", "sum", "none", [data], entropy, 4)
    for axis in signature.prunable:
        assert (scores[axis.start : axis.start + axis.size] > 0).all()


# -- the mode of norms


@pytest.mark.parametrize("criterion", ["snip", "grasp", "crop"])
def test_an_example_alone_has_no_statistics(criterion: str) -> None:
    """So a third one, in a batch of its own, counts for nothing, and two alone are too few."""
    assert judged(criterion, batch(1, -3), batch(7)) == judged(criterion, batch(1, -3))
    with pytest.raises(PasError, match="two examples in one batch"):
        judged(criterion, batch(1), batch(-3))


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_norms_see_the_batch_where_published_and_the_model_stays_as_it_was(criterion: str) -> None:
    """Behind a 1x1 convolution of one input channel a norm in training mode takes the kernel's scale out again, so that the kernel has no
    gradient (but for the norm's epsilon); in eval mode it has one. Dropout never acts: two calls agree.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-12), nn.Tanh(), nn.Dropout(0.5), nn.Conv2d(4, 3, 1), nn.Flatten(2)
    ).double()
    x = torch.randn(6, 1, 5, 5, dtype=torch.float64) + 1
    signature = pas.signature(model, x)
    before, training = copy.deepcopy(model.state_dict()), model.training

    def loss(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(x).mean(2), y)

    data = (x, torch.randint(3, (6,)))
    found, again = (maps(criterion, model, signature, [data], loss, 6) for _ in range(2))
    largest = max(float(value.abs().max()) for value in found.values())
    at_initialisation = criterion in ("snip", "grasp", "crop")
    assert bool(found["0.weight"].abs().max() < 1e-9 * largest) is at_initialisation
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training is training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


# -- grouping on networks


class Grouped(nn.Module):
    """Two convolutions of four groups (products of axes), a residual, a depth-wise one, two maps concatenated, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 3, 3, padding=1)
        self.a, self.b = (nn.Conv2d(8, 8, 3, padding=1, groups=4) for _ in range(2))
        self.norm, self.deep = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(11 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = y + self.deep(self.norm(self.b(self.a(y))))
        return self.head(torch.cat([y, self.side(x)], 1).flatten(1))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("criterion", WEIGHTWISE)
def test_a_channels_slices_are_what_goes_when_it_alone_is_dropped(criterion: str, reduce: str) -> None:
    """Against the signature's own account of what a mask without this channel removes, channel by channel."""
    torch.manual_seed(0)
    model, x = Grouped(), torch.zeros(1, 1, 2, 2)
    signature = pas.signature(model, x)
    found = WEIGHTWISE[criterion](model, signature)
    scores = grouped(signature, found, reduce, "none")
    by_hand = {"sum": sum, "mean": np.mean, "max": max, "prod": np.prod, "first": lambda parts: parts[0]}
    assert any(table is not None and table.shape[1] > 1 for dims in signature.dims.values() for table in dims)
    for axis in signature.prunable:
        for channel in range(axis.start, axis.start + axis.size):
            mask = np.arange(signature.channels) != channel
            parts = []
            for name, value in found.items():
                for d, table in enumerate(signature.dims[name]):
                    gone = torch.from_numpy(~rows(table, mask, value.shape[d]))
                    if gone.any():
                        parts.append(value.transpose(0, d)[gone].double().sum().item())
            expected = by_hand[reduce](parts) if parts else np.nan
            assert scores[channel] == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini", "cifar_resnet20"])
def test_every_criterion_judges_every_channel(name: str) -> None:
    """Maps are of the fused form's parameters and shapes; every searched channel has a finite number, axes are comparable."""
    torch.manual_seed(0)
    model = with_scales(models.create(name, num_classes=10, in_chans=1))
    signature = pas.signature(model, torch.zeros(1, 1, 32, 32))
    data = [(torch.randn(4, 1, 32, 32), torch.randint(10, (4,)))]
    shapes = {n: w.shape for n, w in weights(pas.fuse(model), signature).items()}
    for criterion in (*WITHOUT_DATA, *WITH_DATA):
        if criterion == "bn_scale" and name == "repvgg_nano":
            continue  # no norms are left in its fused form
        if criterion in WITH_DATA:
            found = maps(criterion, model, signature, data, entropy, 4)
            assert {n: value.shape for n, value in found.items()} == shapes
            scores = grouped(signature, found, "sum", "mean")
        else:
            scores = from_weights(model, signature, criterion, "sum", "mean")
        for axis in signature.prunable:
            part = scores[axis.start : axis.start + axis.size]
            assert np.abs(part).mean() == pytest.approx(1), (criterion, axis.name)
            assert part.std() > 0


def test_words_of_the_configuration_are_those_of_the_criteria() -> None:
    assert CHOICES["uniform"]["criterion"] == CHOICES["magnitude"]["criterion"] == tuple(CRITERIA)
    assert CHOICES["spa"]["criterion"] == (*WITHOUT_DATA, *WITH_DATA)
    assert CHOICES["spa"]["reduce"] == tuple(REDUCTIONS)
    assert CHOICES["spa"]["normalise"] == tuple(NORMALISERS)


# -- Torch-Pruning


class Residual(nn.Module):
    """A plain chain, then a residual block, then a flattened map into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.n0 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.n1 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.n2 = nn.Conv2d(8, 5, 1), nn.BatchNorm2d(5)
        self.outer, self.n3 = nn.Conv2d(5, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.n0(self.first(x)))
        x = torch.relu(self.n1(self.second(x)))
        x = torch.relu(x + self.n3(self.outer(torch.relu(self.n2(self.inner(x))))))
        return self.head(x.flatten(1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", ["chain", "cifar_resnet20"])
def test_as_torch_pruning_does(network: str) -> None:
    """The same importances as GroupMagnitudeImportance's, which counts no biases and calls standardise "standarization".

    Of the CIFAR ResNet the channels inside of blocks: the padded shortcuts shift channels, which Torch-Pruning's groups don't follow.
    """
    tp = pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed")
    torch.manual_seed(0)
    if network == "chain":
        model, x, makers = Residual(), torch.randn(2, 3, 4, 4), ["first", "second", "inner"]
    else:
        model, x = models.create(network, num_classes=10, in_chans=3), torch.randn(2, 3, 32, 32)
        makers = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    with_scales(model)
    signature = pas.signature(model.eval(), x)
    graph = tp.DependencyGraph().build_dependency(model, x)
    for p, criterion in ((1, "group_l1"), (2, "group_l2")):
        found = {name: value for name, value in WEIGHTWISE[criterion](model, signature).items() if not name.endswith(".bias")}
        for reduce in REDUCTIONS:
            for normalise in NORMALISERS:
                scores = grouped(signature, found, reduce, normalise)
                theirs = {"none": None, "standardise": "standarization"}.get(normalise, normalise)
                judge = tp.importance.GroupMagnitudeImportance(p=p, group_reduction=reduce, normalizer=theirs)
                for name in makers:
                    if name == "second" and reduce in ("max", "prod"):
                        continue  # of a flattened channel these see the last pixel only
                    layer = model.get_submodule(name)
                    group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels)))
                    channels = signature.dims[f"{name}.weight"][0][:, 0]
                    expected = judge(group).numpy()
                    wrong = np.abs(scores[channels] - expected).max() / np.abs(expected).max()
                    assert wrong < 1e-5, (name, p, reduce, normalise)  # theirs are in single precision
