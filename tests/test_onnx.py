"""The ONNX file: equal to the network, for any batch, quietly, and honest about what can't be exported."""

import onnx as onnx_files
import pytest
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from pas import models, onnx
from pas.errors import PasError

pytestmark = pytest.mark.usefixtures("exporter")


def randomised(name: str, channels: int = 3) -> nn.Module:
    """A network whose norms let the input through, as a trained one's do."""
    torch.manual_seed(0)
    model = models.create(name, num_classes=10, in_chans=channels)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    model(torch.randn(8, channels, 32, 32))
    return model


@pytest.mark.parametrize("name", ["cifar_resnet20", "repvgg_nano"])
def test_file_equals_network_for_every_batch(name: str, tmp_path, capfd, recwarn) -> None:
    model = reparameterize_model(randomised(name).eval()).train()
    path, example = tmp_path / "model.onnx", torch.randn(1, 3, 32, 32)
    onnx.export(model, example, path)
    assert model.training
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    for count in (1, 3):
        assert onnx.max_error(model, path, torch.randn(count, 3, 32, 32)) < 1e-4
    graph = onnx_files.load(path).graph
    assert graph.input[0].name == "input"
    assert graph.output[0].name == "output"
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_error_of_another_network_is_seen(tmp_path) -> None:
    model = randomised("repvgg_nano").eval()
    onnx.export(model, torch.randn(1, 3, 32, 32), tmp_path / "model.onnx")
    with torch.no_grad():
        model.head.fc.bias[0] += 0.1
    assert onnx.max_error(model, tmp_path / "model.onnx", torch.randn(2, 3, 32, 32)) > 1e-3


def test_network_that_branches_on_its_input_is_refused(tmp_path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(PasError, match=r"can't be written as ONNX: ."):
        onnx.export(Branching(), torch.randn(1, 3, 8, 8), tmp_path / "model.onnx")


class Attention(nn.Module):
    """Attention over four tokens of `rank` dimensions in all, perhaps with a mask, whose heads are joined again."""

    def __init__(self, lead: tuple[int, ...], masked: bool) -> None:
        super().__init__()
        self.lead, self.qkv = lead, nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(*lead[-1:], 4, 4)) if masked else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (one.unflatten(-1, (-1, 2)).transpose(-2, -3).reshape(-1, *self.lead, 4, 2) for one in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return y.reshape(x.shape[0], -1, 4, 2).transpose(1, 2).reshape(x.shape[0], -1)


@pytest.mark.parametrize(("lead", "masked"), [((4,), False), ((4,), True), ((2, 2), False), ((), False)])
def test_attention_of_any_rank_and_with_a_mask_is_written(lead: tuple[int, ...], masked: bool, tmp_path) -> None:
    """Windows make it five dimensions, heads merged into the batch three; torch's own exporter refuses both."""
    torch.manual_seed(0)
    model, x = Attention(lead, masked).eval(), torch.randn(3, 4, 8)
    onnx.export(model, x, tmp_path / "model.onnx")
    assert onnx.max_error(model, tmp_path / "model.onnx", x) < 1e-5


def test_a_pool_behind_channels_that_lie_last_is_no_table_of_places(tmp_path) -> None:
    model = models.create("test_convnext", num_classes=5, in_chans=3).eval()
    onnx.export(model, torch.randn(1, 3, 64, 64), tmp_path / "model.onnx")
    assert "Gather" not in {node.op_type for node in onnx_files.load(tmp_path / "model.onnx").graph.node}
