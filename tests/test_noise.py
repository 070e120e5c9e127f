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
