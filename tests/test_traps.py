"""Code that a rule could get wrong: whatever is said to be prunable must be right, and what can't be followed must stay whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, outputs
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pas


class Code(nn.Module):
    """Layers `a` (6 -> 8 channels) and `o` (8 -> 4), and whatever else the code asks for, in a forward given as a function."""

    def __init__(self, run: Callable[[Code, Tensor], Tensor], **more: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.a, self.o, self.run = nn.Linear(6, 8), nn.Linear(8, 4), run
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def keys(change: Callable[[Code, Tensor], Tensor], **more: nn.Module | nn.Parameter) -> Code:
    """Queries times keys, with nothing but `change` between the keys' layer and the product."""
    layers = {"q": nn.Linear(6, 8), "v": nn.Linear(6, 8)}
    return Code(lambda s, x: s.o((s.q(x) @ change(s, s.a(x)).mT) @ s.v(x)), **layers, **more)


def vector(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*sizes))


def written(s: Code, k: Tensor) -> Tensor:
    k[:, 0] = s.c
    return k


def added(s: Code, k: Tensor) -> Tensor:
    k[:, 2:].add_(1)
    return k


def seen(s: Code, k: Tensor) -> Tensor:
    view = k.view(k.shape[0], 5, 2, 4)
    view += 1
    return k


def flat(s: Code, k: Tensor) -> Tensor:
    k.view(-1, 8).relu_()
    return k


def scattered(s: Code, x: Tensor) -> Tensor:
    y = s.a(x)
    place = (torch.arange(5) // 2).view(1, 5, 1).expand(x.shape[0], 5, 8)
    return s.o(torch.zeros_like(y).scatter_add(1, place, y))


def layered(s: Code, x: Tensor) -> Tensor:
    return s.o(s.l(s.a(x), s.h.repeat(1, x.shape[0], 1))[0])


def expanded(s: Code, x: Tensor) -> Tensor:
    h, c = (state.expand(-1, x.shape[0], -1).contiguous() for state in (s.h, s.c))
    return s.o(s.l(s.a(x), (h, c))[0])


def unused(s: Code, x: Tensor) -> Tensor:
    s.q(x)
    return s.o(s.a(x).view(-1, 5, 8))


TRAPS: dict[str, Callable[[], nn.Module]] = {
    "a row written into the keys": lambda: keys(written, c=vector(8)),
    "a part of the keys added to": lambda: keys(added),
    "keys changed through a view": lambda: keys(seen),
    "keys changed through a view that fits by chance": lambda: keys(flat),
    "a clip that moves zero": lambda: keys(lambda s, k: F.hardtanh(k, 0.5, 2.0)),
    "a pad that isn't zero": lambda: keys(lambda s, k: F.pad(k, (0, 0, 0, 1), value=1.0)[:, 1:]),
    "a quotient of zeros": lambda: keys(lambda s, k: k / k.abs().sum(1, keepdim=True)),
    "normalised keys": lambda: keys(lambda s, k: F.normalize(k, dim=1)),
    "a factor of size one": lambda: Code(
        lambda s, x: s.o((s.p @ s.a(x).view(x.shape[0], 5, 2, 4).transpose(1, 2)).sum(2).flatten(1)), p=vector(1, 5, 5)
    ),
    "an einsum over a letter of size one": lambda: Code(lambda s, x: torch.einsum("btc,oc->bto", s.a(x), s.p), p=vector(5, 1)),
    "an einsum with dots": lambda: Code(lambda s, x: s.o(torch.einsum("b...c,cd->b...d", s.a(x), s.p)), p=vector(8, 8)),
    "an einsum of three": lambda: Code(lambda s, x: s.o(torch.einsum("btc,buc,cd->btd", s.a(x), s.a(x), s.p)), p=vector(8, 8)),
    "an einsum without a sum": lambda: Code(lambda s, x: s.o(torch.einsum("btc,bc->btc", s.a(x), s.a(x)[:, 0]))),
    "a stable sort": lambda: Code(lambda s, x: s.o(torch.sort(s.a(x), dim=-1, stable=True)[0])),
    "a group norm over tokens": lambda: Code(lambda s, x: s.o(s.n(s.a(x))), n=nn.GroupNorm(1, 5)),
    "dropout by the function": lambda: Code(lambda s, x: s.o(F.dropout(s.a(x), 0.5, s.training).view(-1, 5, 8))),
    "a product of weights": lambda: Code(lambda s, x: s.o(s.a(F.linear(x, s.p @ s.r))), p=vector(6, 3), r=vector(3, 6)),
    "a learned state": lambda: Code(layered, l=nn.GRU(8, 4, batch_first=True, bidirectional=True), h=vector(2, 1, 4)),
    "learned states, expanded": lambda: Code(
        expanded, l=nn.LSTM(8, 4, batch_first=True, bidirectional=True), h=vector(2, 1, 4), c=vector(2, 1, 4)
    ),
    "a result that nothing uses": lambda: Code(unused, q=nn.Linear(6, 8)),
    "a vector times a matrix, a matrix times a vector": lambda: Code(
        lambda s, x: s.o(s.a(x)) + s.p @ (s.c @ s.r), c=vector(6), r=vector(6, 4), p=vector(4, 4)
    ),
    "a projected LSTM": lambda: Code(lambda s, x: s.p(s.l(s.a(x))[0]), l=nn.LSTM(8, 6, proj_size=3, batch_first=True), p=nn.Linear(3, 4)),
    "scattered channels": lambda: Code(scattered),
    "weights that nothing uses": lambda: Code(lambda s, x: s.o(s.n(s.a(x)).view(-1, 5, 8)), n=nn.LayerNorm(8), u=nn.Linear(3, 3)),
    "an output that is no number": lambda: Code(lambda s, x: (s.o(s.a(x)), s.o(s.a(x)) > 0)),
    "a mean in another dtype": lambda: Code(lambda s, x: s.o(s.a(x)) + s.a(x).mean(dtype=torch.float64)),
    "the dtype of another": lambda: Code(lambda s, x: s.o(s.a(x).type_as(s.p)), p=vector(3)),
    "a gather of fewer": lambda: Code(
        lambda s, x: s.o(s.a(x)) + s.a(x).gather(1, torch.zeros(x.shape[0], 2, 4).long()).sum((1, 2))[:, None, None]
    ),
    "a weight without a dimension": lambda: Code(lambda s, x: s.o(s.a(x)) + F.linear(s.a(x), s.p)[..., None], p=vector(8)),
    "one bias for all": lambda: Code(lambda s, x: s.o(F.linear(x, s.p, s.c)), p=vector(8, 6), c=vector(1)),
    "narrow over everything": lambda: Code(lambda s, x: s.o(s.a(x).narrow(-1, 0, 8))),
    "rows of a table that nothing reads": lambda: Code(lambda s, x: s.o(s.a(x) + s.p[:5]), p=vector(9, 8)),
    "a table of counted size": lambda: Code(lambda s, x: s.o(s.a(x) + torch.ones(8, dtype=x.dtype)), n=nn.Identity()),
}  # fmt: skip


def sound(model: nn.Module, x: Tensor) -> None:
    """Each axis alone, an odd number of its channels: exact ones equal the mask, for any number of examples; all of them run, and cost
    what is said.
    """
    signature = pas.signature(model, x)
    rng = np.random.default_rng(0)
    for axis in signature.prunable:
        count = max(1, axis.size // 2 - 1 + axis.size // 2 % 2)
        architecture = signature.dense().keep(axis.name, rng.choice(axis.size, count, replace=False))
        masked, small = pas.mask(model, signature, architecture), pas.slice(model, signature, architecture)
        for batch in (1, 2, 5):
            some = torch.randn(batch, *x.shape[1:], dtype=x.dtype)
            found = outputs(small, (some,))
            if axis.exact:
                assert error(outputs(masked, (some,)).double(), found.double()) < 1e-10, axis.name
        with FlopCounterMode(display=False) as counter:
            small(x[:1])
        assert pas.cost.macs(signature, architecture) == counter.get_total_flops() // 2
        assert pas.cost.params(signature, architecture) == sum(p.numel() for p in small.parameters())


@pytest.mark.parametrize("name", TRAPS)
def test_right_or_whole(name: str) -> None:
    torch.manual_seed(0)
    sound(TRAPS[name]().double().eval(), torch.randn(2, 5, 6, dtype=torch.float64))


def test_circular_padding_is_done_once() -> None:
    class Circular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            return self.o(y.amax((2, 3)) * y.shape[1] ** -0.5)

    torch.manual_seed(0)
    sound(Circular().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64))


def test_a_graph_knows_the_mode() -> None:
    """Dropout by a function, by a module of channels, and norms that keep statistics: on in train mode, off in eval mode."""

    class Modes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n = nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
            self.d, self.o = nn.Dropout2d(0.5), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.d(self.n(self.a(x))).reshape(-1, 8, 36)
            return self.o(F.dropout(y.mean(2), 0.5, self.training))

    torch.manual_seed(0)
    model, x = Modes().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    signature = pas.signature(model, x)
    small = pas.slice(model, signature, signature.dense().keep("a", [0, 3, 4, 6]))
    assert isinstance(small, torch.fx.GraphModule)
    assert torch.equal(small(x), small(x))
    small.train()
    before = small.n.running_mean.clone()
    assert not torch.equal(small(x), small(x))
    assert not torch.equal(before, small.n.running_mean)


def test_what_nothing_reads_stays() -> None:
    signature = pas.signature(TRAPS["rows of a table that nothing reads"]().double(), torch.randn(2, 5, 6, dtype=torch.float64))
    assert [axis.name for axis in signature.prunable] == ["a"]
    assert "no weight reads it, so that a gate would do nothing" in {axis.frozen for axis in signature.axes}


def test_no_branch_drowns_what_another_adds() -> None:
    """Statistics that suit the network's own small weights would make random ones huge beside the attention, whose scale depends on the
    size that is sliced.
    """

    class Drowned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.q, self.k, self.v = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, eps=1e-30), *(nn.Linear(3, 8) for _ in range(3))
            self.o = nn.Linear(8, 4)
            with torch.no_grad():
                self.a.weight *= 1e-12
                self.a.bias *= 1e-12
                self.n.running_var.fill_(1e-24)

        def forward(self, x: Tensor) -> Tensor:
            y = x.flatten(2).transpose(1, 2)
            y = F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y))
            return self.o(self.n(self.a(x)).flatten(2).transpose(1, 2) + y)

    torch.manual_seed(0)
    sound(Drowned().double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64))
