"""A graph that is trained does what the network's own code does in training, random numbers included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from networks import error, run
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import pas
from pas.surgery.graph import rebuild


class Model(nn.Module):
    """A language model with dropout between its layers and on its inputs."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.drop, self.layers, self.head = nn.Dropout(0.2), kind(6, 8, num_layers=3, dropout=0.5, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.drop(x))[0])


class Deep(nn.Module):
    """torchvision's stochastic depth, attention with dropout behind a causal mask, dropout of whole maps."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.depth, self.maps, self.head = nn.Linear(6, 18), StochasticDepth(0.5, "row"), nn.Dropout1d(0.3), nn.Linear(6, 3)
        self.attend = nn.MultiheadAttention(6, 2, dropout=0.4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        p = 0.5 if self.training else 0.0
        y = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.depth(y)
        return self.head(self.maps(x)).mean(1)


def vit(**arguments: float) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5, **arguments)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ViT": (lambda: vit(drop_path_rate=0.5, attn_drop_rate=0.3, proj_drop_rate=0.2), (4, 3, 32, 32)),
    "ConvNeXt": (lambda: timm.create_model("convnext_atto", drop_path_rate=0.6, num_classes=5, ls_init_value=1.0), (4, 3, 32, 32)),
    "LSTM": (lambda: Model(nn.LSTM), (4, 5, 6)),
    "GRU": (lambda: Model(nn.GRU), (4, 5, 6)),
    "causal": (Deep, (4, 5, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_graph_trains_like_the_code(name: str) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    network, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    signature = pas.signature(network, x)
    graph = rebuild(network, network, signature, signature.dense())
    assert error(run(network, x), run(graph, x)) < 1e-12
    passes = []
    for module in (network, graph, graph):
        module.train()
        torch.manual_seed(1 if len(passes) < 2 else 2)
        passes.append(run(module, x))
    assert error(passes[0], passes[1]) < 1e-12
    assert error(passes[0], passes[2]) > 1e-3, "another seed, another pass"
    assert error(run(network.eval(), x), run(graph.eval(), x)) < 1e-12


def test_a_slice_keeps_its_noise_and_is_compiled_and_exported(tmp_path) -> None:
    torch.manual_seed(0)
    network, x = vit(drop_path_rate=0.5, attn_drop_rate=0.3).eval(), torch.randn(2, 3, 32, 32)
    signature = pas.signature(network, x)
    architecture = signature.dense()
    for axis in signature.prunable:
        architecture = architecture.keep(axis.name, range(max(1, axis.size // 2)))
    small = pas.slice(network, signature, architecture)
    assert isinstance(small, torch.fx.GraphModule)
    small.train()
    assert not torch.equal(small(x), small(x))
    small.eval()
    assert torch.equal(small(x), small(x))
    exported = torch.export.export(small, (x,), strict=False)
    assert error(run(small, x), run(exported.module(), x)) < 1e-6
    assert error(run(small, x), run(torch.compile(small), x)) < 1e-5


class Attends(nn.Module):
    """Attention by hand, with dropout."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.qkv, self.out, self.p = nn.Linear(6, 24), nn.Linear(8, 6), p

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Auxiliary(nn.Module):
    """In training another attention comes first, whose dropout is not that of the others; one is torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.aux, self.main = Attends(0.0), Attends(0.5)
        self.torchs, self.head = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.loss = self.aux(x).mean()
        x = self.main(x)
        return self.head(self.torchs(x, x, x, need_weights=False)[0]).mean(1)


class Wrapped(nn.Module):
    """A layer that is called StochasticDepth and holds what it drops: the graph of eval mode shows what is in it."""

    class StochasticDepth(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.deep, self.head = nn.Linear(6, 8), self.StochasticDepth(nn.Linear(8, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.a(x)).relu()).mean(1)


class Shared(nn.Module):
    """One drop path in two blocks, whole features dropped in place, and a module that is called as torch names its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.maps = StochasticDepth(0.5, "row"), nn.FeatureAlphaDropout(0.3)
        self.blocks = nn.ModuleList([nn.ModuleDict({"linear": nn.Linear(6, 6), "drop": self.drop}) for _ in range(2)])
        self.dropout, self.head = nn.Dropout(0.9), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block["drop"](block["linear"](x).relu())
        return self.head(self.dropout(nn.functional.dropout(self.maps(x), 0.1, self.training))).mean(1)


@pytest.mark.parametrize("make", [Auxiliary, Wrapped, Shared])
def test_each_call_gets_its_own_noise(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network, x = make().double().eval(), torch.randn(4, 5, 6, dtype=torch.float64)
    signature = pas.signature(network, x)
    graph = rebuild(network, network, signature, signature.dense())
    assert error(run(network, x), run(graph, x)) < 1e-12
    if make is Auxiliary:  # its own code draws more numbers, for the loss that the graph hasn't
        kinds = [module.p for module in graph.modules() if type(module).__name__ == "Attention"]
        assert kinds == [0.5, 0.3]
        return
    passes = []
    for module in (network.train(), graph.train()):
        torch.manual_seed(1)
        passes.append(run(module, x))
    assert error(*passes) < 1e-12


def test_the_mode_is_that_of_each_module_and_is_not_saved(tmp_path) -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(Attends(0.5), nn.Linear(6, 3)).double(), torch.randn(4, 5, 6, dtype=torch.float64)
    signature = pas.signature(network, x)
    network.train()
    network[0].eval()
    graph = rebuild(network, network, signature, signature.dense())
    assert torch.equal(run(graph, x), run(graph, x))
    graph.train()
    assert not torch.equal(run(graph, x), run(graph, x))
    torch.save(graph, tmp_path / "graph.pt")
    loaded = torch.load(tmp_path / "graph.pt", weights_only=False)
    for mode in (False, True, False):
        loaded.train(mode)
        assert torch.equal(run(loaded, x), run(loaded, x)) is not mode
