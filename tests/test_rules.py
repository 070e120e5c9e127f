"""What rules say, held against what networks compute: masked = sliced, cost = counter, for small networks that use the operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, halves, holds, outputs, randomised
from torch import Tensor, nn

import pas


class Attention(nn.Module):
    """Queries, keys and values packed in one projection, as timm writes it; the scale is the size's default."""

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.fused, self.heads, self.size = fused, 4, 6
        self.embed, self.qkv, self.proj, self.head = nn.Linear(5, 16), nn.Linear(16, 72), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        by_hand = lambda: (q * self.size**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v  # noqa: E731
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else by_hand()
        return self.head((x + self.proj(y.transpose(1, 2).reshape(n, tokens, -1))).mean(1))


class Separate(nn.Module):
    """Three projections, so that values have a size of their own; a relative position table with one row a head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 20), nn.Linear(6, 20), nn.Linear(6, 28)
        self.table, self.proj = nn.Parameter(torch.randn(9, 4)), nn.Linear(28, 3)
        self.register_buffer("index", torch.arange(25).view(5, 5) % 9)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = (layer(x).view(n, tokens, 4, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        bias = self.table[self.index.view(-1)].view(5, 5, 4).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) + bias).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, -1)).mean(1)


class Rotary(nn.Module):
    """Channels are turned in pairs, so they go in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(6, 16, bias=False), nn.Linear(6, 16, bias=False), nn.Linear(6, 16), nn.Linear(16, 3)
        angle = torch.arange(5)[:, None] * torch.logspace(0, -2, 4)
        self.register_buffer("cos", angle.cos().repeat_interleave(2, 1).double())
        self.register_buffer("sin", angle.sin().repeat_interleave(2, 1).double())

    def turn(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = (layer(x).view(n, tokens, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.head(y.transpose(1, 2).reshape(n, tokens, 16)).mean(1)


class Halves(nn.Module):
    """Chunks, a split of uneven sizes, and parts of channels that go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(11, 12, 1), nn.Conv2d(7, 5, 1)
        self.e, self.head = nn.Conv2d(5, 4, 1), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).relu().chunk(2, 1)
        y = torch.cat([left, self.b(right)], 1)
        one, two, three = y.split([7, 5, 4], 1)
        z = self.c(torch.cat([one, three], 1))
        return self.head(torch.cat([self.d(one), self.e(two)], 1).mean((2, 3)) * z.mean((1, 2, 3))[:, None])


class Partial(nn.Module):
    """A convolution over the first channels only (FasterNet), written with a slice, and a gate over a half (GLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(12, 16, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = torch.cat([self.b(y[:, :4]), y[:, 4:]], 1).relu()
        return self.head(F.glu(self.c(y), 1).mean((2, 3)))


class Shuffled(nn.Module):
    """ShuffleNet's unit: split, grouped convolution, shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.c, self.head = nn.Conv2d(8, 8, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            left, right = (self.a(x) if x.shape[1] == 3 else x).chunk(2, 1)
            y = torch.cat([left, self.c(self.b(right)).relu()], 1)
            n, c, h, w = y.shape
            x = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


class Sums(nn.Module):
    """Einstein's sums: a bilinear form and a mixing of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mix, self.head = nn.Linear(5, 12), nn.Linear(5, 12), nn.Parameter(torch.randn(5, 5)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        scores = torch.einsum("ntc,nsc->nts", a, b)
        return self.head(torch.einsum("nts,nsc->ntc", torch.einsum("nts,su->ntu", scores, self.mix), b).mean(1))


class Normalised(nn.Module):
    """Norms over channels: groups may go as a whole without changing the others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.b = nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.Conv2d(12, 8, 1)
        self.l, self.c, self.r, self.head = nn.LayerNorm(8), nn.Linear(8, 10), nn.RMSNorm(10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.g(self.a(x)).relu()).flatten(2).transpose(1, 2)
        return self.head(self.r(self.c(self.l(y)).relu()).mean(1))


class Recurrent(nn.Module):
    """A language model: embedding, two layers of LSTM, a bidirectional GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.gru, self.head = nn.GRU(8, 5, bidirectional=True, batch_first=True), nn.Linear(10, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(self.table(x))[0])[0])


class Upwards(nn.Module):
    """Transposed convolution, with groups too, and pixels from channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.c, self.d, self.head = nn.ConvTranspose2d(6, 6, 2, groups=3), nn.Conv2d(6, 20, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.pixel_shuffle(self.d(self.c(self.b(self.a(x).relu())).relu()), 2))


class Messages(nn.Module):
    """A graph network: messages along edges are added up at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.message, self.update, self.head = nn.Linear(4, 10), nn.Linear(10, 12), nn.Linear(22, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        y = self.a(x).relu()
        sent = self.message(y[edges[:, 0]]).relu()
        got = torch.zeros(y.shape[0], sent.shape[1], dtype=y.dtype).index_add(0, edges[:, 1], sent)
        return self.head(self.update(torch.cat([y, got], 1)).relu())


class Standardised(nn.Module):
    """Weights with mean 0 and variance 1, computed at every pass (NF nets)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gain, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Parameter(torch.rand(6) + 0.5), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.b.weight
        w = F.batch_norm(w.reshape(1, 6, -1), None, None, weight=self.gain, training=True).reshape_as(w)
        return self.head(F.conv2d(self.a(x).relu(), w, self.b.bias).relu().mean((2, 3)))


class Windows(nn.Module):
    """Windowed attention with a shift: space is folded into the batch, heads too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv, self.proj, self.head = nn.Conv2d(3, 12, 1), nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).permute(0, 2, 3, 1).roll((1, 1), (1, 2))
        n, h, w, c = y.shape
        y = y.view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, 3, 4).permute(2, 0, 3, 1, 4).reshape(3, -1, 4, 4).unbind(0)
        z = torch.bmm((torch.bmm(q, k.transpose(1, 2)) / 2).softmax(-1), v)
        z = z.reshape(-1, 3, 4, 4).transpose(1, 2).reshape(-1, 4, 12)
        return self.head(self.proj(z).view(n, -1, 12).mean(1))


class Autocast(nn.Module):
    """Parts of a forward under other settings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = self.a(x).relu()
        return self.b(y * y.sigmoid()).mean(1)


class Filtered(nn.Module):
    """Global filters (GFNet): images times complex weights in the Fourier domain, channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.weight, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Parameter(torch.randn(8, 5, 6, 2)), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft2(self.a(x).permute(0, 2, 3, 1), dim=(1, 2), norm="ortho") * torch.view_as_complex(self.weight)
        return self.head(self.b(torch.fft.irfft2(y, s=(8, 8), dim=(1, 2), norm="ortho")).relu().mean((1, 2)))


class ComplexRotary(nn.Module):
    """Pairs of channels as complex numbers, turned by a complex table."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(6, 16, bias=False), nn.Linear(6, 16, bias=False), nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("angle", torch.arange(5)[:, None] * torch.logspace(0, -2, 4))

    def turn(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], 4, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(self.angle), self.angle)).flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = (layer(x).view(n, tokens, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.head(y.transpose(1, 2).reshape(n, tokens, 16)).mean(1)


class KeyBias(nn.Module):
    """A packed bias whose middle is a buffer that is always zero, as BEiT and EVA write it: keys are off with it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(6, 24, bias=False), nn.Linear(8, 6), nn.Linear(6, 3)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.register_buffer("k_bias", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        y = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, self.k_bias, self.v_bias]))
        q, k, v = y.reshape(n, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.head((x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(1))


class OneKey(nn.Module):
    """Several heads that share one key and one value."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(6, 20), nn.Linear(6, 5), nn.Linear(6, 7), nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q = self.q(x).view(n, tokens, 4, 5).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, self.k(x)[:, None], self.v(x)[:, None])
        return self.head(y.transpose(1, 2).flatten(2)).mean(1)


class Largest(nn.Module):
    """Attention over space from the largest, smallest and mean channel (CBAM): channels may go, which changes these."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        over = torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True), y.min(1, keepdim=True).values], 1)
        return self.head(self.b(y * self.mix(over).sigmoid()).relu().mean((2, 3)))


class Aggregated(nn.Module):
    """Three class tokens become one by a convolution that does nothing along channels (CoaT)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 8)
        self.one, self.head = nn.Conv1d(3, 1, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(torch.stack([layer(x).relu().mean(1) for layer in (self.a, self.b, self.c)], 1)).squeeze(1).relu())


class Repeated(nn.Module):
    """A table of positions, projected once for each example (ConViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.place, self.head = nn.Linear(5, 8), nn.Linear(3, 8), nn.Linear(8, 3)
        self.register_buffer("table", torch.randn(1, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.a(x) * self.place(self.table.expand(x.shape[0], -1, -1))).relu().mean(1))


class Scaled(nn.Module):
    """A tensor that a module has as a plain attribute, neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(1.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Twice(nn.Module):
    """One layer under two names, in a network that only its graph can slice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scaled, self.out = nn.Linear(6, 8), Scaled(), nn.ModuleDict()
        self.out["a"] = self.out["b"] = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.scaled(self.first(x)).relu().view(*x.shape[:2], 2, 4).unbind(2)
        return self.head((self.out["a"](left) + self.out["b"](right)).relu().mean(1))


def images() -> tuple[Tensor, ...]:
    return (torch.randn(3, 3, 8, 8, dtype=torch.float64),)


def tokens(size: int) -> tuple[Tensor, ...]:
    return (torch.randn(3, 5, size, dtype=torch.float64),)


SDPA = "scaled_dot_product_attention"
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], dict[str, int]]] = {
    # axes that are expected, by hand: name -> size
    "attention": (Attention, tokens(5), {"embed": 16, f"{SDPA}.heads": 4, f"{SDPA}.size": 6}),
    "attention without the fused operator": (lambda: Attention(fused=False), tokens(5), {"embed": 16, "matmul.heads": 4, "matmul.size": 6}),
    "separate projections": (Separate, tokens(6), {}),
    "rotary": (Rotary, tokens(6), {}),
    "halves": (Halves, images(), {}),
    "partial": (Partial, images(), {}),
    "shuffled": (Shuffled, images(), {}),
    "sums": (Sums, tokens(5), {"a": 12}),
    "normalised": (Normalised, images(), {"g.groups": 4, "g.width": 3, "b": 8, "c": 10}),
    "recurrent": (Recurrent, (torch.randint(11, (3, 5)),), {"table": 6, "lstm.l0": 8, "gru.l0": 5}),
    "upwards": (Upwards, images(), {"a": 8, "pixel_shuffle.channels": 5}),
    "messages": (Messages, (torch.randn(6, 4, dtype=torch.float64), torch.randint(6, (6, 2))), {"a": 10, "message": 12, "update": 8}),
    "standardised": (Standardised, images(), {}),
    "windows": (Windows, images(), {}),
    "filtered": (Filtered, images(), {"a": 6, "b": 8}),
    "complex rotary": (ComplexRotary, tokens(6), {f"{SDPA}.heads": 2, f"{SDPA}.size": 4}),
    "bias of keys": (KeyBias, tokens(6), {f"{SDPA}.heads": 2, f"{SDPA}.size": 4}),
    "one key": (OneKey, tokens(6), {f"{SDPA}.heads": 4, f"{SDPA}.size": 5, "v": 7}),
    "largest": (Largest, images(), {"a": 8, "b": 6}),
    "aggregated": (Aggregated, tokens(5), {"a": 8}),
    "repeated": (Repeated, tokens(5), {"a": 8}),
    "one layer twice": (Twice, tokens(6), {}),
    "autocast": (Autocast, tokens(5), {"a": 8}),
}


@pytest.mark.parametrize("name", CASES)
def test_masked_is_sliced(name: str) -> None:
    make, example, _ = CASES[name]
    torch.manual_seed(0)
    holds(make().double().eval(), example)


def test_a_graph_has_all_names_of_a_shared_layer() -> None:
    network = Twice().double().eval()
    signature = pas.signature(network, tokens(6))
    small = pas.slice(network, signature, halves(signature, np.random.default_rng(0)))
    assert isinstance(small, torch.fx.GraphModule)
    assert small.state_dict().keys() == network.state_dict().keys()
    assert small.out.a.weight is small.out.b.weight


def test_heads_and_sizes_are_axes() -> None:
    for name, (make, example, axes) in CASES.items():
        signature = pas.signature(make().double().eval(), example)
        found = {axis.name: axis.size for axis in signature.prunable}
        missing = {key: size for key, size in axes.items() if found.get(key) != size}
        assert not missing, f"{name}: {missing} not in {found}"


def test_pairs_of_rotary_channels_go_together() -> None:
    """16 channels in 2 heads of 8: 4 pairs, which are one element each."""
    signature = pas.signature(Rotary().double(), tokens(6))
    sizes = sorted(axis.size for axis in signature.prunable if any(slot.parameter == "q.weight" for slot in axis.slots))
    assert sizes == [2, 4]


def test_the_scale_of_attention_stays() -> None:
    """Half of the head's size goes, the scale is still that of the whole: 6 ** -0.5."""
    torch.manual_seed(0)
    net, (x,) = Attention().double().eval(), tokens(5)
    signature = pas.signature(net, x)
    size = next(axis for axis in signature.prunable if axis.size == 6)
    small = pas.slice(net, signature, signature.dense().keep(size.name, [0, 3, 4]))
    scales = [node.kwargs["scale"] for node in small.graph.nodes if "scaled_dot" in str(node.target)]
    assert scales == [pytest.approx(1 / math.sqrt(6))]


def test_what_is_thrown_together_needs_no_weight() -> None:
    """Channels that are multiplied with each other and summed, with nothing in between that could be switched off: they stay whole."""

    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(5, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).exp()
            return self.head((y @ y.transpose(1, 2))[:, 0, :4])

    signature = pas.signature(Gram().double(), tokens(5))
    assert not signature.prunable
    assert signature.axis("a").frozen == "aten.matmul in the network: no weight alone switches its channels off"


def test_single_channels_are_never_cut_out_of_a_split() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            query, rest = self.a(x).split([1, 5], 1)
            return self.b(rest * query).mean((2, 3))

    signature = pas.signature(Single().double(), images())
    assert [(axis.name, axis.size) for axis in signature.prunable] == [("a#2", 5)]
    assert np.all([axis.size == 1 for axis in signature.axes if axis.name == "a"])


@pytest.mark.parametrize("name", ["fastvit_t8", "repvit_m0_9"])
def test_blocks_that_only_timm_can_merge(name: str) -> None:
    """They come back merged; pairs of a convolution and its norm keep the norm, to train with."""
    model, x = randomised(name, 64, seed=0)
    signature = pas.signature(model, x)
    architecture = halves(signature, np.random.default_rng(0))
    masked, small = pas.mask(model, signature, architecture), pas.slice(model, signature, architecture)
    assert error(outputs(masked, (x,)), outputs(small, (x,))) < 1e-10
    hooked = [path for path, module in small.named_modules() if path and hasattr(module, "reparam_conv") and module.reparam_conv is None]
    assert not hooked
    norms = [sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) for network in (model, small)]
    assert 0 < norms[1] < norms[0]
    assert pas.cost.params(signature, architecture) == sum(p.numel() for p in pas.fuse(small).parameters())
    model.stages[0].requires_grad_(False)
    trained = {name: parameter.requires_grad for name, parameter in pas.fuse(model).named_parameters()}
    assert all(flag is not name.startswith("stages.0.") for name, flag in trained.items()), "new biases as what they came from"
