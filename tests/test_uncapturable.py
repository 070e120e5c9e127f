"""What `pas` says of networks that it can't follow: one line that names the place, and what a person can do."""

from __future__ import annotations

import io

import pytest
import torch
from networks import holds
from rich.console import Console
from torch import Tensor, nn

import pas
from pas import inspection
from pas.axes.rules.elementwise import pointwise
from pas.axes.rules.table import RULES, rule


class Net(nn.Module):
    """Two convolutions and a classifier; what lies between differs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.between(self.a(x))).mean((2, 3)))


class Decides(Net):
    def between(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x


class Counts(Net):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.nonzero(x.flatten()).sum()


class Picks(Net):
    def between(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1).reshape(-1, 8)
        return x + rows[rows.sum(1) > 0].mean()


class Leaves(Net):
    def between(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)


class Fixed(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(2, 8, 6, 6)


@torch.library.custom_op("pas_tests::unknown", mutates_args=())
def unknown(x: Tensor) -> Tensor:
    return x * 3


class Unknown(Net):
    def between(self, x: Tensor) -> Tensor:
        return unknown(x)


class Narrow(Net):
    def between(self, x: Tensor) -> Tensor:
        return x[:, :4]


CASES = {
    Decides: ("if x.sum() > 0:", "torch.where"),
    Counts: ("aten.nonzero in the network", "test_uncapturable.py, line ", "multiply by a mask"),
    Picks: ("aten.index in the network", "test_uncapturable.py, line ", "multiply by a mask"),
    Leaves: ("return torch.from_numpy(x.detach().numpy() * 2)", "with torch"),
    Unknown: ("return unknown(x)", "torch.library.register_fake"),
    Narrow: ("Narrow doesn't run on 3 copies of this example", "expected input[3, 4, 6, 6] to have 8 channels", "self.head(self.b("),
    Fixed: ("Fixed doesn't run on 3 copies of this example", "return x.reshape(2, 8, 6, 6)", "any number of them"),
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__.lower())
def test_one_line_names_the_place_and_what_to_do(kind: type[Net]) -> None:
    with pytest.raises(pas.PasError) as raised:
        pas.signature(kind(), torch.randn(2, 3, 8, 8))
    said = str(raised.value)
    assert "\n" not in said
    for words in (kind.__name__, *CASES[kind]):
        assert words in said


@torch.library.custom_op("pas_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


twice.register_fake(torch.empty_like)
twice.register_autograd(lambda _, gradient: gradient * 2)


class Custom(Net):
    def between(self, x: Tensor) -> Tensor:
        return twice(x)


def test_a_custom_operator_keeps_its_channels_until_it_gets_a_rule() -> None:
    torch.manual_seed(0)
    network, images = Custom().double().eval(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    signature = pas.signature(network, images)
    assert signature.axis("a").frozen == "no rule for pas_tests.twice in the network"
    assert signature.axis("b").prunable
    console = Console(record=True, width=100, file=io.StringIO())
    inspection.show("net", signature, console)
    assert "No rule: what such an operator reads stays whole until it gets one" in console.export_text()
    rule(torch.ops.pas_tests.twice)(pointwise)
    try:
        assert holds(network, (images,)).axis("a").prunable
    finally:
        del RULES[torch.ops.pas_tests.twice]


@pytest.mark.parametrize("operator", [twice, torch.ops.pas_tests.twice.default])
def test_an_operator_is_registered_under_any_of_its_names(operator: object) -> None:
    rule(operator)(pointwise)
    assert RULES.pop(torch.ops.pas_tests.twice) is pointwise


@pytest.mark.parametrize("nothing", ["pas_tests.twice", len, torch.relu])
def test_a_rule_for_no_operator_is_refused(nothing: object) -> None:
    with pytest.raises(pas.PasError, match="a rule is for an operator, such as"):
        rule(nothing)
