"""Bundles: reloaded exactly, refused when damaged, nothing executed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import halves, randomised, run

import pas
from pas import onnx
from pas.publish import bundle
from pas.publish.backbone import Backbone


def write(folder: Path, name: str, size: int = 32) -> tuple[torch.nn.Module, torch.Tensor]:
    model, x = randomised(name, size, seed=0)
    model, x = model.float(), x.float()
    signature = pas.signature(model, x)
    architecture = halves(signature, np.random.default_rng(0))
    plain = pas.fuse(pas.slice(model, signature, architecture))
    about = {"budget": {"kind": "macs"}}
    bundle.save(
        folder,
        plain,
        Backbone(name, {}, 10, 3, size),
        architecture,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        about=about,
        card="# a card",
    )
    return plain, x


@pytest.mark.parametrize("name", ["repvgg_a0", "cifar_resnet20", "mobilenetv3_small_100", "resnext50_32x4d"])
def test_reloaded_exactly_and_equal_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    plain, x = write(tmp_path / "bundle", name)
    again = pas.load(tmp_path / "bundle")
    assert not again.training
    assert torch.equal(run(plain, x), run(again, x))
    assert onnx.max_error(plain, tmp_path / "bundle" / "model.onnx", x) < 1e-4
    assert {file.name for file in (tmp_path / "bundle").iterdir()} == set(bundle.FILES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    torch.manual_seed(0)
    model = timm.create_model("repvgg_nano", num_classes=10)
    signature = pas.signature(model, torch.zeros(1, 3, 32, 32))
    architecture = halves(signature, np.random.default_rng(0))
    plain = pas.fuse(pas.slice(model, signature, architecture)).eval()
    about = {"budget": {"kind": "macs"}}
    bundle.save(
        path,
        plain,
        Backbone("repvgg_nano", {}, 10, 3, 32),
        architecture,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        about=about,
        card="#",
    )
    return path


@pytest.mark.parametrize("name", bundle.FILES[:3])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_byte_is_refused_or_harmless(folder: Path, name: str, data: st.DataObject, tmp_path_factory) -> None:
    """Truncated or with a byte changed: one line, or a network; never a traceback of another kind."""
    copy = tmp_path_factory.mktemp("damaged") / "bundle"
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    at = data.draw(st.integers(0, min(len(content) - 1, 3000)))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] = data.draw(st.integers(0, 255))
    (copy / name).write_bytes(bytes(content))
    try:
        network = pas.load(copy)
    except pas.PasError as refusal:
        if "\n" in str(refusal):
            pytest.fail(f"more than one line: {refusal}")
        return
    assert run(network, torch.zeros(1, network_channels(network), 32, 32)).shape[0] == 1


def network_channels(network: torch.nn.Module) -> int:
    return next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d)).in_channels


@pytest.mark.parametrize("missing", bundle.FILES[:3])
def test_a_missing_file_is_named(folder: Path, missing: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bundle")
    (tmp_path / "bundle" / missing).unlink()
    with pytest.raises(pas.PasError, match=missing):
        pas.load(tmp_path / "bundle")


def test_newer_bundles_and_foreign_entries(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bundle")
    file = tmp_path / "bundle" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "pas": {**config["pas"], "schema": 99}}))
    with pytest.raises(pas.PasError, match="newer"):
        pas.load(tmp_path / "bundle")
    entry = {**config["pas"], "backbone": {**config["pas"]["backbone"], "name": "os:getcwd"}}
    file.write_text(json.dumps({**config, "pas": entry}))
    with pytest.raises(pas.PasError, match="pass it as model="):
        pas.load(tmp_path / "bundle")


def test_no_bundle() -> None:
    with pytest.raises(pas.PasError, match="no bundle at"):
        pas.load("nowhere/at/all")
