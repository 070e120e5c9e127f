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
