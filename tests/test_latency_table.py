"""What a network runs on a device, and tables of how long that takes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pas
from pas import models
from pas.cost.conditions import Conditions, Header
from pas.cost.kernels import Kernel, kernel
from pas.cost.operator_onnx import BINARY, UNARY
from pas.cost.operators import Key, operators
from pas.cost.table import Network, Table, Writer, matching, points, read, wanted
from pas.errors import PasError

HEADER = Header("a processor", "onnxruntime", "float32", "NCHW", 1, 2, {"onnxruntime": "1.23"})
KEY = Key("conv", (3, 3), (1, 1), (1, 1), (1, 1), (14, 14), "relu")


class Small(nn.Module):
    """A convolution with a norm and ReLU6, a depth-wise one, groups, a sum, a pool, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.c = nn.Conv2d(16, 32, 1, groups=4)
        self.d = nn.Conv2d(32, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.norm(self.a(x)))
        y = self.d(self.c(self.b(x)).sigmoid())
        return self.fc((x + y).mean((2, 3)))


def test_operators_and_their_widths() -> None:
    """With half of `a` (which `d` and the sum share), one of four groups, and 2 of 8 channels in each group of `c`."""
    signature = pas.signature(Small().eval(), torch.zeros(1, 3, 16, 16))
    found = operators(signature)
    assert [(str(one.key), one.dense()) for one in found] == [
        ("conv 3x3 p1x1 /2 at 16x16, relu6", (3, 16)),
        ("depthwise 5x5 p2x2 at 8x8", (16,)),
        ("grouped 1x1 p0x0 at 8x8, sigmoid", (4, 4, 32)),
        ("conv 1x1 p0x0 at 8x8", (32, 16)),
        ("add", (16 * 64,)),
        ("mean", (16 * 64,)),
        ("linear at 1", (16, 5)),
    ]
    assert [one.place for one in found] == ["a", "b", "c", "d", "add", "mean", "fc"]
    sizes = {axis.name: axis.size for axis in signature.prunable}
    architecture = signature.dense()
    for name, size in sizes.items():
        architecture = architecture.keep(name, range(max(1, size // 2)))
    kept = [one.kept(signature.mask(architecture)) for one in found]
    small = pas.slice(Small().eval(), signature, architecture)
    assert kept[0] == (3, small.a.out_channels)
    assert kept[1] == (small.b.out_channels,)
    assert kept[2] == (small.c.groups, small.c.in_channels // small.c.groups, small.c.out_channels)
    assert kept[3] == (small.d.in_channels, small.d.out_channels)
    assert kept[6] == (small.fc.in_features, 5)


def test_repvgg_is_plain_convolutions() -> None:
    """In its fused form: a convolution with ReLU a block, no sums and no norms."""
    model = models.create("repvgg_nano", num_classes=10, in_chans=1)
    kinds = [one.key.kind for one in operators(pas.signature(model, torch.zeros(1, 1, 32, 32)))]
    assert set(kinds) == {"conv", "adaptive_avg_pool2d", "linear"}


def test_attention_has_operators_too() -> None:
    model = models.create("test_vit", num_classes=10, in_chans=3).eval()
    found = operators(pas.signature(model, torch.zeros(1, 3, 160, 160)))
    attention = next(one for one in found if one.key.kind == "scaled_dot_product_attention")
    assert attention.dense() == (2, 32)  # heads, and the size of each
    assert attention.key.size == (101, 101)
    assert sum(one.key.kind == "linear" for one in found) >= 6 * 4  # query-key-value, projection and two more in each of six blocks


@pytest.mark.parametrize(
    ("key", "widths"),
    [
        (KEY, (16, 32)),
        (Key("depthwise", (3, 3), (2, 2), (1, 1), (1, 1), (14, 14), "relu6"), (32,)),
        (Key("grouped", (1, 1), (1, 1), (0, 0), (1, 1), (14, 14), "tanh"), (4, 8, 18)),
        (Key("linear", size=(4,)), (32, 10)),
        (Key("max_pool2d", (3, 3), (2, 2), (1, 1), (1, 1), (14, 14)), (32,)),
        (Key("avg_pool2d", (2, 2), (2, 2), (0, 0), (1, 1), (14, 14)), (32,)),
        (Key("matmul"), (3, 8, 16, 8)),
        (Key("scaled_dot_product_attention", size=(20, 30)), (3, 16)),
        (Key("layer_norm"), (20, 48)),
        *((Key(kind), (1000,)) for kind in (*UNARY, *BINARY)),
    ],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_an_operator_takes_time(key: Key, widths: tuple[int, ...], runtime: str) -> None:
    ms, iqr = kernel(key, widths, Conditions(runtime, spread=1e9)).ms()
    assert 0 < ms < 1000
    assert iqr >= 0


def test_operators_that_nobody_can_build_are_refused() -> None:
    with pytest.raises(PasError, match="no way is known to time 'sort' alone"):
        kernel(Key("sort"), (10,), Conditions())
    with pytest.raises(PasError, match="no way is known to time 'sort' alone"):
        kernel(Key("sort"), (10,), Conditions("torch"))


def test_a_noisy_moment_is_waited_for_and_a_noisy_machine_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 1 and 3 ms spread over 2 / 2 of their median; allowed are ten times 0.05. The third turn is calm."""
    waited: list[float] = []
    monkeypatch.setattr("pas.cost.kernels.time.sleep", waited.append)
    monkeypatch.setattr("pas.cost.kernels.TRIES", 1)
    turns = iter([[1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    assert Kernel(KEY, (8, 8), lambda: next(turns), 0.05).ms() == (1.0, 0.0)
    assert waited == [0.0, 0.5, 2.0]
    with pytest.raises(PasError, match=r"relu \(8 to 8\) spreads over 100% of their median"):
        Kernel(KEY, (8, 8), lambda: [1.0, 1.0, 3.0, 3.0], 0.05).ms()


def test_points_that_a_network_needs() -> None:
    """`a` reads three channels that stay and makes up to 16: at 8 and 16; the classifier's outputs stay."""
    signature = pas.signature(Small().eval(), torch.zeros(1, 3, 16, 16))
    found: dict[str, list[tuple[int, ...]]] = {}
    for key, widths in points(wanted(operators(signature), signature, 8)):
        found.setdefault(str(key), []).append(widths)
    assert found["conv 3x3 p1x1 /2 at 16x16, relu6"] == [(3, 8), (3, 16)]
    assert found["linear at 1"] == [(8, 5), (16, 5)]
    assert len(found["conv 1x1 p0x0 at 8x8"]) == 4 * 2  # 8, 16, 24 and 32 channels to 8 or 16
    assert wanted(operators(signature), signature, 16)[Key("linear", size=(1,))] == [[1, 16], [5]]  # no block is narrower


def write(path: Path, points: dict[tuple[int, ...], float]) -> None:
    writer = Writer(path, HEADER)
    for widths, ms in points.items():
        writer.add(KEY, widths, ms, 0.0)
    writer.close()


def test_table_comes_back_and_a_cut_line_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    write(path, {(8, 8): 1.0, (8, 16): 2.0, (16, 8): 2.5})
    whole = path.read_text()
    for cut in range(whole.rindex("{"), len(whole)):
        path.write_text(whole[:cut])
        assert read(path).points == {str(KEY): {(8, 8): 1.0, (8, 16): 2.0}}
    with pytest.raises(PasError, match=r"lacks conv 3x3 p1x1 at 14x14, relu at widths \(16, 8\)"):
        Table(HEADER, {str(KEY): {(8, 8): 1.0, (8, 16): 2.0, (16, 16): 4.0}}).grids({KEY: [[8, 16], [8, 16]]})
    write(path, {(16, 8): 2.5, (16, 16): 4.0})  # behind what is left
    table = matching(path, HEADER)
    assert table.points == {str(KEY): {(8, 8): 1.0, (8, 16): 2.0, (16, 8): 2.5, (16, 16): 4.0}}
    assert table.grids({KEY: [[8, 16], [16]]})[KEY].values.tolist() == [[2], [4]]  # points of another network are left out
    with pytest.raises(PasError, match="the table has no linear at 1; measure it with pas profile"):
        table.grids({Key("linear", size=(1,)): [[1], [1]]})


def test_tables_of_other_machines_and_what_is_no_table_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    write(path, {(8, 8): 1.0})
    other = Header("another processor", "torch", "float32", "NCHW", 32, 1, {"torch": "2.11"})
    expected = (
        r"is of a processor, onnxruntime \(onnxruntime 1.23\), float32, NCHW, batch 1, 2 threads; "
        r"this is another processor, torch \(torch 2.11\), float32, NCHW, batch 32, 1 thread:"
    )
    with pytest.raises(PasError, match=expected):
        matching(path, other)
    with pytest.raises(PasError, match="can't be read"):
        read(tmp_path / "nothing.jsonl")
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(first), "schema": 99}) + "\n")
    with pytest.raises(PasError, match="schema 99, newer than 1"):
        read(path)
    for damaged in ("{}", '{"operator": "conv", "widths": [1], "ms": 0}', "[]", '{"network": "a"}'):
        path.write_text(first + damaged + "\n" + "".join(rest))
        with pytest.raises(PasError, match="line 2 is damaged"):
            read(path)


def test_blocks_and_networks_come_back(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "table.jsonl", HEADER)
    network = Network("abc", {"conv1": 8}, 0.5, 3.25)
    writer.runtime(16, 0.25)
    writer.network(network)
    writer.close()
    table = read(tmp_path / "table.jsonl")
    assert (table.block, table.reference_ms, table.networks) == (16, 0.25, [network])


@given(st.binary(max_size=200))
def test_any_file_is_refused_in_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.jsonl"
        path.write_bytes(content)
        with pytest.raises(PasError) as refusal:
            read(path)
        assert "\n" not in str(refusal.value).replace(str(path), "")


@given(st.dictionaries(st.tuples(st.integers(1, 99), st.integers(1, 99)), st.floats(1e-6, 1e6).map(lambda ms: round(ms, 6)), min_size=1))
def test_any_points_come_back(points: dict[tuple[int, int], float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "table.jsonl", points)
        assert read(Path(folder) / "table.jsonl").points == {str(KEY): points}
    assert np.isfinite(list(points.values())).all()
