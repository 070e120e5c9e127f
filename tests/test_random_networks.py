"""Networks drawn at random from the operators: masked = sliced, cost = counter, and nothing depends on names or on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import error, halves, outputs
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pas

pytestmark = pytest.mark.no_cover  # others run these lines too

STEPS = (
    "conv", "grouped", "depthwise", "norm", "act", "residual", "dense", "split", "shuffle", "shared", "squeeze", "attention", "layernorm",
    "flatten",
)  # fmt: skip


class Drawn(nn.Module):
    """A stem, the drawn steps on (N, C, 4, 4), and a classifier. `prefix` only names the modules."""

    def __init__(self, steps: list[str], prefix: str) -> None:
        super().__init__()
        self.steps, self.prefix = steps, prefix
        self._add("stem", nn.Conv2d(3, 8, 3, padding=1))
        width = 8
        for i, step in enumerate(steps):
            width = self._make(step, i, width)
        self._add("head", nn.Linear(width, 3))

    def _add(self, name: str, module: nn.Module) -> None:
        self.add_module(f"{self.prefix}{name}", module)

    def _of(self, name: str) -> nn.Module:
        return self.get_submodule(f"{self.prefix}{name}")

    def _make(self, step: str, i: int, width: int) -> int:
        """The modules of a step; the width that it leaves."""
        other = 4 * (2 + i % 3)
        if step in ("conv", "dense"):
            self._add(f"{i}", nn.Conv2d(width, other, 1 + 2 * (i % 2), padding=i % 2))
            return other + width * (step == "dense")
        if step == "grouped":
            self._add(f"{i}", nn.Conv2d(width, other, 3, padding=1, groups=4))
            return other
        modules = {
            "depthwise": lambda: nn.Conv2d(width, width, 3, padding=1, groups=width),
            "norm": lambda: nn.BatchNorm2d(width),
            "residual": lambda: nn.Sequential(nn.Conv2d(width, other, 1), nn.SiLU(), nn.Conv2d(other, width, 3, padding=1)),
            "split": lambda: nn.Conv2d(width // 2, width // 2, 1),
            "shared": lambda: nn.Conv2d(width, width, 1, bias=False),
            "squeeze": lambda: nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid()),
            "attention": lambda: nn.Sequential(nn.Linear(width, 3 * 16), nn.Linear(16, width)),
            "layernorm": lambda: nn.LayerNorm(width),
        }
        if step in modules:
            self._add(f"{i}", modules[step]())
        return width

    def forward(self, x: Tensor) -> Tensor:
        x = self._of("stem")(x)
        for i, step in enumerate(self.steps):
            x = self._step(step, i, x)
        return self._of("head")(x.mean((2, 3)))

    def _step(self, step: str, i: int, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if step == "act":
            return F.gelu(x)
        if step == "shuffle":
            return x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        if step == "flatten":
            return x.flatten(1, 2).unflatten(1, (c, h)) * 1.5
        layer = self._of(f"{i}")
        if step in ("residual", "squeeze"):
            return x + layer(x) if step == "residual" else x * layer(x.mean((2, 3), keepdim=True))
        if step == "dense":
            return torch.cat([x, layer(x).relu()], 1)
        if step == "split":
            left, right = x.chunk(2, 1)
            return torch.cat([layer(left).relu(), right], 1)
        if step == "shared":
            return layer(layer(x).relu())
        if step == "layernorm":
            return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if step == "attention":
            pack, proj = layer
            q, k, v = pack(x.flatten(2).transpose(1, 2)).reshape(n, h * w, 3, 2, 8).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, 16)
            return x + proj(y).transpose(1, 2).reshape(n, c, h, w)
        return layer(x)


def drawn(steps: list[str], prefix: str = "m") -> nn.Module:
    torch.manual_seed(len(steps))
    model = Drawn(steps, prefix).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return model


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(STEPS), min_size=2, max_size=7))
def test_any_network(steps: list[str]) -> None:
    model, x = drawn(steps), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    signature = pas.signature(model, x)
    rng = np.random.default_rng(len(steps))
    exact = tuple(axis for axis in signature.prunable if axis.exact)
    if exact:
        architecture = halves(signature, rng, exact)
        masked, small = pas.mask(model, signature, architecture), pas.slice(model, signature, architecture)
        assert error(outputs(masked, (x,)), outputs(small, (x,))) < 1e-11
    if signature.prunable:
        architecture = halves(signature, rng)
        small = pas.slice(model, signature, architecture)
        with FlopCounterMode(display=False) as counter:
            outputs(small, (x[:1],))
        assert pas.cost.macs(signature, architecture) == counter.get_total_flops() // 2
        assert pas.cost.params(signature, architecture) == sum(p.numel() for p in small.parameters())


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(STEPS), min_size=2, max_size=6))
def test_names_and_batch_mean_nothing(steps: list[str]) -> None:
    one = pas.signature(drawn(steps), torch.randn(1, 3, 4, 4, dtype=torch.float64))
    other = pas.signature(drawn(steps, "other"), torch.randn(5, 3, 4, 4, dtype=torch.float64))
    facts = lambda signature: [(a.size, a.prunable, a.exact, len(a.slots)) for a in signature.axes]  # noqa: E731
    assert facts(one) == facts(other)
    assert pas.cost.macs(one, one.dense()) == pas.cost.macs(other, other.dense())
