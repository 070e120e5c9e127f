"""Axis inference: counts by hand, names, frozen reasons, independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from networks import error, halves, run
from torch import Tensor, nn

import pas
import pas.models
from pas.axes.counting import counted
from pas.axes.ids import Ids, merge
from pas.errors import PasError

pytestmark = pytest.mark.no_cover  # counting lines would take a third of the time, and others run them too


def meta_signature(name: str, size: int = 64) -> pas.surgery.forms.Signature:
    with torch.device("meta"):
        model = timm.create_model(name)
    return pas.signature(model, torch.zeros(1, 3, size, size, device="meta"))


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("repvgg_b1", 28),  # 1 + 4 + 6 + 16 + 1 blocks, each a convolution once fused
        ("repvgg_a0", 22),  # 1 + 2 + 4 + 14 + 1
        ("mobileone_s0", 22),  # stem and 21 point-wise convolutions; depth-wise ones pass their input's axis on
        ("resnet50", 37),  # 16 blocks x 2 inner + 4 stages + stem
        ("resnet18", 12),  # 8 inner + layer1 shares the stem's axis: stem, layer2, layer3, layer4
        ("mobilenetv2_100", 25),  # 16 expansions + 7 stages + stem + head
        ("densenet121", 120),  # stem + 58 x (bottleneck + growth) + 3 transitions
        ("cifar_resnet20", 12),  # 9 inner; 16 + 16 padded + 32 padded channels of the residual stream
        ("vgg11_bn", 10),  # 8 convolutions + 2 convolutions of the classifier
    ],
)
def test_number_of_prunable_axes(name: str, axes: int) -> None:
    assert len(meta_signature(name).prunable) == axes


def test_factors_of_grouped_convolutions() -> None:
    """ResNeXt: 3 factors a block (groups, width read, width made) + 4 stages + stem."""
    signature = meta_signature("resnext50_32x4d")
    assert len(signature.prunable) == 16 * 3 + 4 + 1
    assert signature.axis("layer1.0.conv2.groups").size == 32
    assert signature.axis("layer1.0.conv2.inputs").size == 4
    assert signature.axis("layer1.0.conv2").size == 4


def test_names_order_and_slots() -> None:
    signature = meta_signature("resnet50")
    names = [axis.name for axis in signature.prunable]
    assert names[:4] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"]
    assert len(set(names)) == len(names)
    slots = signature.axis("layer1.0.conv1").slots
    assert {(s.parameter, s.dim) for s in slots} == {
        ("layer1.0.conv1.weight", 0), ("layer1.0.bn1.weight", 0), ("layer1.0.bn1.bias", 0), ("layer1.0.bn1.running_mean", 0),
        ("layer1.0.bn1.running_var", 0), ("layer1.0.conv2.weight", 1),
    }  # fmt: skip


def test_interfaces_are_frozen() -> None:
    signature = meta_signature("resnet18")
    frozen = {axis.name: axis.frozen for axis in signature.axes if not axis.prunable}
    assert frozen == {"x": "it is an input of the network", "fc": "it is an output of the network"}


def test_convolutional_classifier_is_an_output() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    signature = pas.signature(net, torch.randn(1, 3, 8, 8))
    assert [axis.name for axis in signature.prunable] == ["0"]


def test_nothing_depends_on_the_batch() -> None:
    model = timm.create_model("mobilenetv3_small_050").eval()
    one, many = (pas.signature(model, torch.randn(n, 3, 64, 64)) for n in (1, 5))
    assert one.axes == many.axes
    assert pas.cost.macs(one, one.dense()) == pas.cost.macs(many, many.dense())


class Cumulative(nn.Module):
    """An operator without a rule (cummax over channels) between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).cummax(1).values)).mean((2, 3))


def test_an_operator_without_a_rule_freezes_and_says_so() -> None:
    signature = pas.signature(Cumulative(), torch.randn(1, 3, 9, 9))
    assert [axis.name for axis in signature.prunable] == ["second"]
    assert signature.axis("first").frozen == "no rule for aten.cummax in the network"


def test_counted_even_without_a_rule() -> None:
    """An unknown operator that multiplies matrices still costs: bmm of (N, 4, 9) with (N, 9, 4) is 4 * 4 * 9
    multiply-adds.
    """

    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2)
            return torch.bmm(y, y.transpose(1, 2))

    signature = pas.signature(Gram(), torch.randn(2, 3, 3, 3))
    assert pas.cost.macs(signature, signature.dense()) == 3 * 4 * 9 + 4 * 4 * 9
    assert not signature.prunable


def test_control_flow_on_data_is_refused_in_one_line() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(pas.PasError, match=r"can.t be captured by torch\.export"):
        pas.signature(Branching(), torch.randn(2, 3))


def test_shared_weights_stay_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.again, self.head = self.conv, nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.again(self.conv(self.stem(x)).relu()).relu().mean((2, 3)))

    net, x = Twice().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    signature = pas.signature(net, x)
    architecture = halves(signature, np.random.default_rng(0))
    small = pas.slice(net, signature, architecture)
    assert small.again.weight is small.conv.weight
    assert error(run(pas.mask(net, signature, architecture), x), run(small, x)) < 1e-12
    assert pas.cost.params(signature, architecture) == sum(p.numel() for p in small.parameters())


def test_flatten_before_a_classifier_is_a_product() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    signature = pas.signature(net, x)
    architecture = signature.dense().keep("0", [1, 4])
    small = pas.slice(net, signature, architecture)
    assert small[3].weight.shape == (4, 2 * 36)
    assert torch.equal(small[3].weight, net[3].weight.view(4, 6, 36)[:, [1, 4]].flatten(1))
    assert error(run(pas.mask(net, signature, architecture), x), run(small, x)) < 1e-12


def test_code_with_stale_numbers_comes_back_as_a_graph() -> None:
    """A reshape to 24 channels written into the code, and batch norm and dropout that must still switch with the
    mode.
    """

    class Stale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop, self.head = (
                nn.Conv2d(3, 24, 1),
                nn.BatchNorm2d(24),
                nn.Dropout(0.5),
                nn.Linear(24 * 4, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x)).relu().reshape(-1, 24, 4)
            return self.head(self.drop(y.reshape(-1, 96)))

    net = Stale().double().eval()
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    signature = pas.signature(net, x)
    architecture = signature.dense().keep("conv", [0, 3, 11])
    small = pas.slice(net, signature, architecture)
    assert isinstance(small, torch.fx.GraphModule)
    assert list(small.state_dict()) == list(net.state_dict())
    assert error(run(pas.mask(net, signature, architecture), x), run(small, x)) < 1e-12
    small.train()
    assert not torch.equal(run(small, x), run(small, x)), "dropout is on in train mode"


def test_union_find_with_bindings() -> None:
    """Ties by hand: 6 channels read as 2 groups of 3; the element (g, w) stays when both do."""
    ids = Ids()
    channels = ids.fresh(6, "conv", 0)
    group, width = ids.split(channels, 2, 3, ("groups", "inputs"), "here")
    assert group.shape == (2, 1)
    assert width.shape == (3, 1)
    resolved = ids.resolve(channels)
    assert (resolved == merge(group, width, 2, 3)).all()
    other = ids.fresh(6, "other", 1)
    ids.tie(other, channels, "add")
    assert (ids.resolve(other) == resolved).all()
    again = ids.split(other, 2, 3, ("a", "b"), "there")
    assert (ids.resolve(again[0]) == group).all()
    assert (ids.resolve(again[1]) == width).all()


def test_tie_against_an_untyped_dimension_freezes() -> None:
    ids = Ids()
    channels = ids.fresh(4, "conv", 0)
    ids.tie(channels[:2], None, "because")
    assert set(ids.frozen()) == {1, 2}
    assert set(ids.frozen().values()) == {"because: it meets what stays whole"}


class ScaledByWidth(nn.Module):
    """Code that reads a width at run time: no number in the graph gives it away."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.fc((h * h.shape[1] ** -0.5).mean((2, 3)))


class Shuffle(nn.Module):
    """A channel shuffle with its number of groups in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1, groups=4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x).relu())
        n, c, height, width = h.shape
        h = h.view(n, 4, c // 4, height, width).transpose(1, 2).reshape(n, c, height, width)
        return self.fc(h.mean((2, 3)))


class MadeByCode(nn.Module):
    """A tensor that is neither parameter nor buffer, and a module with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.fc = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)
        self.alias = self.norm
        self.scale = torch.rand(1, 16, 1, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x - torch.full((1, 3, 1, 1), 0.5, dtype=x.dtype)))
        return self.fc((self.b(self.alias(h)) * self.scale).mean((2, 3)))


class Blurred(nn.Module):
    """A depth-wise convolution whose kernel is a buffer and whose group count is the code's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 4)
        self.blur = timm.layers.BlurPool2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.blur(self.a(x).relu())).mean((2, 3)))


class Wrapped(nn.Module):
    """Circular padding of channels: what is padded are copies of other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(nn.functional.pad(self.a(x), (1, 1), mode="circular")).relu())


@pytest.mark.parametrize("net", [ScaledByWidth, Shuffle, MadeByCode, Blurred, Wrapped])
def test_whatever_the_code_does_the_slice_is_right(net: type[nn.Module]) -> None:
    """Made on an example of zeros, asked on noise: masked equals sliced, for every axis alone and for all together."""
    torch.manual_seed(0)
    model = net().double().eval()
    shape = (8,) if net is Wrapped else (3, 9, 9)
    signature = pas.signature(model, torch.zeros(1, *shape, dtype=torch.float64))
    assert signature.prunable
    x = torch.randn(3, *shape, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for axes in [*((axis,) for axis in signature.prunable), signature.prunable]:
        architecture = halves(signature, rng, axes)
        small = pas.slice(model, signature, architecture)
        assert error(run(pas.mask(model, signature, architecture), x), run(small, x)) < 1e-12
        assert pas.cost.params(signature, architecture) == sum(p.numel() for p in small.parameters())


@pytest.mark.parametrize("name", ["resnetblur50", "densenetblur121d", "seresnet50", "ecaresnet26t", "resnet26d"])
@pytest.mark.slow
def test_more_of_the_families(name: str) -> None:
    from networks import randomised

    model, x = randomised(name, 64, seed=0)
    signature = pas.signature(model, x)
    architecture = halves(signature, np.random.default_rng(0))
    small = pas.slice(model, signature, architecture)
    assert error(run(pas.mask(model, signature, architecture), x), run(small, x)) < 1e-10


def test_keyword_inputs_keep_their_places() -> None:
    """The example names them in another order than the network does; by position they still mean the same."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            h = self.a(left + 2 * right).relu()
            return self.fc((h * h.shape[1] ** -0.5).mean((2, 3)))

    model, left, right = Two().double().eval(), torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    signature = pas.signature(model, {"right": right, "left": left})
    small = pas.slice(model, signature, signature.dense().keep("a", [0, 5, 7]))
    assert isinstance(small, torch.fx.GraphModule)
    masked = pas.mask(model, signature, signature.dense().keep("a", [0, 5, 7]))
    with torch.no_grad():
        assert error(masked(left, right), small(left, right)) < 1e-12
        assert error(masked(left, right), small(right=right, left=left)) < 1e-12


def test_an_operator_that_cannot_be_counted_is_an_error() -> None:
    """On zeros where there is no meta kernel (2 x 3 times 3 x 4 are 24 multiply-adds); never nothing in silence."""

    def no_meta(x: torch.Tensor) -> torch.Tensor:
        if x.is_meta:
            raise NotImplementedError
        return x @ x.new_zeros(3, 4)

    def nowhere(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(2, 3)
    assert counted(graph.call_function(no_meta, (x,))) == 24
    with pytest.raises(PasError, match="can't be counted"):
        counted(graph.call_function(nowhere, (x,)))
