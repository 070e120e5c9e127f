"""Running statistics from plain averages."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from pas.surgery.forms import signature
from pas.surgery.slice import slice
from pas.train.recalibrate import recalibrate, transfer


def test_statistics_by_hand() -> None:
    """A 1x1 kernel of 2 on batches {1, 3} and {5, 5, 6}: values 2, 6, 10, 10 and 12. Their mean is 8, and their squared distances
    36 + 4 + 4 + 4 + 16 = 64 over 5 - 1 give a variance of 16. (A cumulative average over batches would say a mean of (4 + 32/3) / 2.) Two
    pixels of one example count as two values: a kernel of 1 on batches of (1, 5) and (3, 3) gives mean 3, variance (4 + 4 + 0 + 0) / 3.
    """
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    recalibrate(model, [torch.tensor(values).view(-1, 1, 1, 1) for values in ([1.0, 3.0], [5.0, 5.0, 6.0])])
    assert model[1].running_mean.item() == pytest.approx(8)
    assert model[1].running_var.item() == pytest.approx(16)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    recalibrate(model, [torch.tensor([1.0, 5.0]).view(1, 1, 1, 2), torch.tensor([3.0, 3.0]).view(1, 1, 1, 2)])
    assert model[1].running_mean.item() == pytest.approx(3)
    assert model[1].running_var.item() == pytest.approx(8 / 3)


def test_statistics_move_as_the_change_moves_them() -> None:
    """On {1, 3} a kernel of 1 has mean 2 and variance 2; one of 2 with a bias of 1 has mean 5 and variance 8: a scale of 2. Running
    statistics of 0 and 1 become 5 + (0 - 2) 2 = 1 and 4, those of ``2 x + 1``. An unchanged copy keeps them; a dead one scales the
    variance by 1 / 10 at most.
    """
    reference = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1e-12)).eval()
    x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    for weight, bias, mean, variance in ((1.0, 0.0, 0.0, 1.0), (2.0, 1.0, 1.0, 4.0), (0.0, 7.0, 7 - 2 / 10**0.5, 0.1)):
        with torch.no_grad():
            reference[0].weight.fill_(1.0)
            reference[0].bias.fill_(0.0)
            model = copy.deepcopy(reference)
            model[0].weight.fill_(weight)
            model[0].bias.fill_(bias)
        transfer(model, reference, [x])
        assert model[1].running_mean.item() == pytest.approx(mean, abs=1e-6)
        assert model[1].running_var.item() == pytest.approx(variance)
        assert reference[1].running_mean.item() == 0
        assert reference[1].running_var.item() == 1


def test_one_batch_is_torchs_own_estimate() -> None:
    """With ``momentum=None`` and one batch, through the norms of timm with their activations too."""
    torch.manual_seed(0)
    plain, active = timm.create_model("resnet14t", num_classes=3), timm.create_model("mobilenetv2_035", num_classes=3, drop_rate=0.5)
    assert any(isinstance(module, timm.layers.BatchNormAct2d) for module in active.modules())
    x = torch.randn(6, 3, 32, 32)
    for network in (plain, active):
        wanted = copy.deepcopy(network).eval()
        for module in wanted.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.reset_running_stats()
                module.train()
        with torch.no_grad():
            wanted(x)
        recalibrate(network, [x])
        for name, buffer in wanted.named_buffers():
            if not name.endswith("num_batches_tracked"):
                assert torch.allclose(network.get_buffer(name), buffer, atol=1e-5, rtol=1e-4), name


def test_nothing_else_changes() -> None:
    """Parameters, modes and the number of batches; no running statistics where a norm has none, or isn't reached."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.own, self.unused = nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4)
            self.drop = nn.Dropout(0.9)

        def forward(self, x: Tensor) -> Tensor:
            return self.own(self.norm(self.drop(x)))

    model = Odd()
    model.norm.eval()
    model.norm.num_batches_tracked += 7
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    x = torch.randn(50, 4) + 3
    recalibrate(model, [x[:20], (x[20:],)])
    assert [module.training for module in model.modules()] == modes
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"norm.running_mean", "norm.running_var"}
    assert torch.allclose(model.norm.running_mean, x.mean(0), atol=1e-5)  # without dropout
    assert torch.allclose(model.norm.running_var, x.var(0), atol=1e-5)


def test_identity_norms_of_a_sliced_block_see_what_they_read() -> None:
    """Their own input is what they pick from it, not all that comes in."""
    torch.manual_seed(0)
    model = timm.create_model("repvgg_a0", num_classes=3)
    found = signature(model, torch.zeros(1, 3, 32, 32))
    architecture = found.dense()
    for axis in found.prunable:
        architecture = architecture.keep(axis.name, range(0, axis.size, 2))
    small = slice(model, found, architecture)
    x = torch.randn(8, 3, 32, 32)
    inputs: list[Tensor] = []
    small.stages[0][1].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    identity = small.stages[0][1].identity
    recalibrate(small, [x])
    assert (identity.source >= 0).all()
    seen = inputs[0][:, identity.source]
    assert torch.allclose(identity.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
