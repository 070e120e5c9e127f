"""Bundles: reloaded exactly, refused when damaged, nothing executed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from networks import halves, randomised, run

import pas
from pas import onnx
from pas.difference import difference
from pas.publish import bundle, sealed
from pas.publish.backbone import Backbone

pytestmark = pytest.mark.usefixtures("exporter")


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


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "name", ["repvgg_a0", "cifar_resnet20", "mobilenetv3_small_100", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)]
)
def test_reloaded_exactly_and_equal_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    plain, x = write(tmp_path / "bundle", name)
    again = pas.load(tmp_path / "bundle")
    assert not again.training
    assert torch.equal(run(plain, x), run(again, x))
    assert onnx.max_error(plain, tmp_path / "bundle" / "model.onnx", x) < 1e-4
    assert {file.name for file in (tmp_path / "bundle").iterdir()} == set(sealed.FILES)


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


@pytest.mark.parametrize("missing", sealed.FILES[:3])
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
    for change, words in (
        ({"name": "os:getcwd"}, "pass it as model="),
        ({"name": "nothing_like_it"}, "no model is called"),
        ({"num_classes": "10"}, "backbone.num_classes='10': must be a whole number"),
        ({"image_size": 10**9}, "must be a whole number from 1 to 10000"),
        ({"in_chans": True}, "backbone.in_chans=True"),
        ({"args": [1]}, "must have a name and arguments"),
        ({"args": {"checkpoint_path": "weights.pth"}}, "checkpoint_path: a bundle may not set it"),
        ({"args": {"act_layer": "os.system"}}, "describes no network that can be made"),
        ({"args": {"no_such_argument": 1}}, "can't be made with model.args"),
    ):
        file.write_text(json.dumps(undigested(config, **change)))
        with pytest.raises(pas.PasError, match=re.escape(words)) as refusal:
            pas.load(tmp_path / "bundle")
        assert "\n" not in str(refusal.value)


def test_what_a_file_hands_in_loads_no_other_file(folder: Path, tmp_path: Path) -> None:
    """timm passes `model_args` of a config.json on to the network."""
    shutil.copytree(folder, tmp_path / "bundle")
    torch.save(timm.create_model("repvgg_nano", num_classes=10).state_dict(), tmp_path / "other.pth")
    file = tmp_path / "bundle" / "config.json"
    config = json.loads(file.read_text())
    for args, words in (
        ({"checkpoint_path": str(tmp_path / "other.pth")}, "checkpoint_path: a bundle may not set it"),
        ({"in_chans": 10**9}, "backbone.in_chans=1000000000"),
    ):
        changed = {**config, "model_args": args, "pas": {**config["pas"], "sha256": {**config["pas"]["sha256"]}}}
        changed["pas"]["sha256"]["config.json"] = sealed._own_digest(changed)
        file.write_text(json.dumps(changed))
        with pytest.raises(pas.PasError, match=re.escape(words)):
            timm.create_model(f"local-dir:{tmp_path / 'bundle'}")


def test_a_bundle_that_is_cut_from_itself(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two published networks, each the backbone of the other."""
    for name, other in (("pas_here.first", "pas_there"), ("pas_there.first", "pas_here")):
        shutil.copytree(folder, tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(undigested(json.loads(file.read_text()), name=other)))
    monkeypatch.setenv("PAS_MODELS", str(tmp_path))
    with pytest.raises(pas.PasError, match="its backbone is made from itself"):
        pas.load("pas_here")


@pytest.mark.parametrize("name", ["..", "", "."])
def test_names_that_are_no_files(folder: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bundle")
    file = tmp_path / "bundle" / "config.json"
    config = json.loads(file.read_text())
    config["pas"]["sha256"][name] = ""
    config["pas"]["sha256"]["config.json"] = sealed._own_digest(config)
    file.write_text(json.dumps(config))
    with pytest.raises(pas.PasError, match="files outside of its folder"):
        sealed.read_config(tmp_path / "bundle")


def test_a_listed_file_is_missing(folder: Path, tmp_path: Path) -> None:
    """Nothing of such a bundle is copied."""
    shutil.copytree(folder, tmp_path / "bundle")
    network = pas.Published.from_pretrained(tmp_path / "bundle")
    (tmp_path / "bundle" / "model.onnx").unlink()
    with pytest.raises(pas.PasError, match=r"model\.onnx is missing"):
        sealed.read_file(tmp_path / "bundle", "model.onnx")
    with pytest.raises(pas.PasError, match=r"model\.onnx is missing"):
        network.save_pretrained(tmp_path / "copy")
    assert not any((tmp_path / "copy").iterdir())


def undigested(config: dict, **backbone: object) -> dict:
    """As bundles of the first schema were, with another backbone."""
    about = {name: value for name, value in config["pas"].items() if name != "sha256"}
    return {**config, "pas": {**about, "schema": 1, "backbone": {**about["backbone"], **backbone}}}


def test_bundles_without_digests_still_load(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bundle")
    file = tmp_path / "bundle" / "config.json"
    file.write_text(json.dumps(undigested(json.loads(file.read_text()))))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(run(pas.load(tmp_path / "bundle"), x), run(pas.load(folder), x))


@pytest.mark.parametrize("name", sealed.DIGESTED)
def test_every_digested_file_is_checked(folder: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bundle")
    assert sealed.read_file(tmp_path / "bundle", name) == (folder / name).read_bytes()
    file = tmp_path / "bundle" / name
    file.write_bytes(file.read_bytes()[:-1] + b"\n")
    with pytest.raises(pas.PasError, match=f"{name} was damaged or changed"):
        sealed.read_file(tmp_path / "bundle", name)


def test_a_changed_architecture_is_not_compared_or_started_from(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bundle")
    assert difference(folder, tmp_path / "bundle").equal
    file = tmp_path / "bundle" / "architecture.json"
    whole = json.loads(file.read_text())
    next(axis for axis in whole["axes"].values() if len(axis.get("keep", [])) > 1)["keep"].pop()
    file.write_text(json.dumps(whole))
    for read in (sealed.architecture_of, lambda path: difference(folder, path)):
        with pytest.raises(pas.PasError, match="damaged or changed"):
            read(tmp_path / "bundle")


def test_no_bundle() -> None:
    with pytest.raises(pas.PasError, match="no bundle at"):
        pas.load("nowhere/at/all")
