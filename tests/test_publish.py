"""`pas publish`: what it writes, what it refuses, and that everything that its card promises runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from networks import run as forward
from rich.console import Console
from torch import nn

import pas
from pas import benchmark, cli, models
from pas.compose import compose
from pas.data import load
from pas.difference import difference
from pas.keys import run_key
from pas.pipeline import run
from pas.publish import bundle, names, place, registry, sealed
from pas.publish.backbone import Backbone
from pas.publish.card import card as run_card
from pas.publish.chain import Chain, chain_of
from pas.publish.licences import start
from pas.publish.publication import publish
from pas.runs import run_folder
from pas.wanted import Wanted

pytestmark = pytest.mark.usefixtures("exporter")

TINY = ["data.subset=200", "train.dense.epochs=1", "train.search.epochs=1", "train.finetune.epochs=1", "cost.runtime=torch",
        "cost.repeats=3", "cost.warmup=0", "hardware.threads=1"]  # fmt: skip
ALL = {*sealed.FILES, "widths.png", "model.pt2", "model.int8.onnx"}
IMAGES = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def finished(runs: Path) -> Path:
    config = compose([*TINY, "method.options.samples=8", f"paths.runs={runs}"])
    run(config, Console(quiet=True))
    return run_folder(config)


@pytest.fixture(scope="module")
def out(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a published network."""
    folder = tmp_path_factory.mktemp("published")
    publish(finished, "pas_tiny.digits", folder, formats=["pt2", "int8"])
    return folder


@pytest.fixture
def known(out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That network, where names are looked up."""
    monkeypatch.setenv("PAS_MODELS", str(out))
    registry.register()
    return out / "pas_tiny.digits"


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_a_bundle_under_its_public_name(finished: Path, out: Path) -> None:
    folder = out / "pas_tiny.digits"
    assert {file.name for file in folder.iterdir()} == ALL
    assert [path.name for path in out.iterdir()] == ["pas_tiny.digits"]
    about = sealed.read_config(folder)["pas"]
    assert about["name"] == "pas_tiny.digits"
    assert set(about["sha256"]) == ALL - {"README.md"}
    assert all(sealed.read_file(folder, name) for name in ALL - {"README.md", "config.json"})
    assert torch.equal(forward(pas.load(folder), IMAGES), forward(pas.load(finished / "bundle"), IMAGES))
    assert (folder / "widths.png").read_bytes().startswith(b"\x89PNG")


def test_no_file_tells_where_it_was_made(out: Path) -> None:
    for file in (out / "pas_tiny.digits").iterdir():
        assert not any(word in file.read_bytes() for word in (b"site-packages", str(Path.home()).encode() + b"/", str(out).encode()))


def test_the_card(finished: Path, out: Path) -> None:
    result, text = json.loads((finished / "result.json").read_text()), card(out / "pas_tiny.digits")
    for words in (
        "# pas_tiny.digits\n",
        f"| top-1 on the test split of digits, % | {result['dense']['top1']:.2f} | {result['searched']['top1']:.2f} |",
        "MACs (multiply-adds, input 1 x 32 x 32)",
        "fused form",
        "(widths.png)",
        "One seed was run (0).",
        "CC BY 4.0",
        "scaled to 0..1, less 0.306, divided by 0.323",
        "resized bilinearly (antialiased) from 8 x 8, without a crop.",
        "https://archive.ics.uci.edu/dataset/80/",
        "8 convolutions",
    ):
        assert words in text
    assert str(result["environment"]["commit"] or "not known") in text
    line = re.search(r"```sh\n(pas search .*)\n```", text)[1]
    assert run_key(compose(line.split()[2:])) == result["run_key"]
    assert str(finished.parent) not in line


def test_a_latency_is_told_when_it_is_known(finished: Path) -> None:
    """By the rule of the reports: not where the interval is wider than a fifth of the ratio."""
    result = json.loads((finished / "result.json").read_text())
    backbone = Backbone(**sealed.read_config(finished / "bundle")["pas"]["backbone"])
    result["dense"]["latency_ms"], result["searched"]["latency_ms"] = 2.0, 1.0
    for high, words, not_told in ((0.55, "| 2 | 1 |", "too noisy"), (0.61, "was too noisy to tell", "| 2 | 1 |")):
        result["latency"] |= {"share": 0.5, "share_low": 0.5, "share_high": high}
        text = run_card(result, backbone)
        assert words in text
        assert not_told not in text
        assert result["latency"]["device"] in text
        assert ("takes 0.500 of its time (95 % interval 0.500 to 0.550)" in text) == (high == 0.55)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "repvgg_nano", "pretrained": False, "weights": None}, ""),
        ({"name": "x", "weights": "/home/me/net.pth"}, "The training started from the weights in `net.pth`; their terms hold as well. "),
        ({"name": "onnx", "path": "/home/me/net.onnx"}, "The training started from the network and weights in `net.onnx`; their terms "),
        ({"name": "resnet50.a1_in1k", "pretrained": True}, "as `resnet50.a1_in1k` (licence as timm states it: apache-2.0); their terms "),
    ],
)
def test_where_training_started(model: dict, words: str) -> None:
    assert words in start(model)
    assert bool(start(model)) == bool(words)


def test_eight_bits(out: Path) -> None:
    """The card's numbers, found once more image by image."""
    folder, data = out / "pas_tiny.digits", load("digits", image_size=32)
    images = (data.test.images.float().numpy() / 255 - 0.306) / 0.323
    found = {}
    for file in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(folder / file)
        logits = [session.run(None, {"input": one[None].astype(np.float32)})[0][0] for one in images]
        found[file] = 100 * float((np.argmax(logits, 1) == data.test.labels.numpy()).mean())
    assert f"| top-1, % | {found['model.onnx']:.2f} | {found['model.int8.onnx']:.2f} |" in card(folder)
    assert "calibrated on 200 training images" in card(folder)
    assert (folder / "model.int8.onnx").stat().st_size < 0.4 * (folder / "model.onnx").stat().st_size


def test_again_and_instead(finished: Path, out: Path, tmp_path: Path) -> None:
    """The same network again takes the place of itself; --force lets another one, and one with fewer formats."""
    parent = tmp_path / "out"
    shutil.copytree(out, parent)
    for formats, words in (([], "model.pt2 and model.int8.onnx too: keep that with --formats pt2 int8"), (["pt2"], "model.int8.onnx too")):
        with pytest.raises(pas.PasError, match=re.escape(words)):
            publish(finished / "bundle", "pas_tiny.digits", parent, formats=formats)
    assert {file.name for file in (parent / "pas_tiny.digits").iterdir()} == ALL
    folder = publish(finished / "bundle", "pas_tiny.digits", parent, terms="mine", force=True)
    assert {file.name for file in folder.iterdir()} == ALL - {"model.pt2", "model.int8.onnx"}
    assert "The data (digits): mine." in card(folder)
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    network = pas.load(folder)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    about = sealed.read_config(other / "bundle")["pas"]
    bundle.save(other / "bundle", network, Backbone(**about["backbone"]), sealed.architecture_of(folder), mean=(0.5,), std=(0.5,),
                about=about, card="")  # fmt: skip
    with pytest.raises(pas.PasError, match="holds another network"):
        publish(other, "pas_tiny.digits", parent)
    publish(other, "pas_tiny.digits", parent, force=True)
    assert torch.equal(forward(pas.load(folder), IMAGES), forward(network, IMAGES))
    assert [path.name for path in parent.iterdir()] == ["pas_tiny.digits"]


def test_one_publisher_of_a_name(out: Path, tmp_path: Path) -> None:
    """A second one is refused; the folders of killed ones go, or come back where nothing had taken their place yet."""
    there = tmp_path / "pas_tiny.digits"
    for left in (".pas_tiny.digits.abcdefgh.tmp", ".pas_tiny.abcdefgh.tmp"):
        (tmp_path / left).mkdir()
    shutil.copytree(out / "pas_tiny.digits", tmp_path / ".pas_tiny.digits.abcdefgh.tmp.old")
    (tmp_path / ".pas_tiny.digits.lock").touch()
    with place.aside(there) as made:
        assert {file.name for file in there.iterdir()} == ALL
        assert {path.name for path in tmp_path.iterdir()} == {there.name, made.name, ".pas_tiny.abcdefgh.tmp", ".pas_tiny.digits.lock"}
        with pytest.raises(pas.PasError, match=r"another process publishes .*/pas_tiny\.digits: wait for it"), place.aside(there):
            pass
        with place.aside(tmp_path / "pas_tiny"):
            pass
        (made / "file").touch()
        place.put(made, there)
    assert [path.name for path in tmp_path.iterdir()] == [there.name]
    assert [file.name for file in there.iterdir()] == ["file"]


def test_seeds_that_were_run_beside_it(finished: Path, tmp_path: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    shutil.copytree(finished, tmp_path / "runs" / "first")
    for folder, changes in {"second": {"seed": 1}, "third": {"seed": 2, "variant": "another"}, "damaged": {"seed": "x"}}.items():
        (tmp_path / "runs" / folder).mkdir()
        changed = {**result, **changes, "searched": {**result["searched"], "top1": result["searched"]["top1"] + 4}}
        (tmp_path / "runs" / folder / "result.json").write_text(json.dumps(changed))
    mean = result["searched"]["top1"] + 2
    told = card(publish(tmp_path / "runs" / "first", "pas_tiny", tmp_path / "out"))
    assert f"With seeds 0, 1: {mean:.2f} ± 2.83 % top-1; this network is that of seed 0." in told


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (None, "PaS-tiny", "must be ARCH or ARCH.TAG"),
        (None, "pas_tiny.a.b", "must be ARCH or ARCH.TAG"),
        (None, "../tiny", "must be ARCH or ARCH.TAG"),
        (None, "resnet18.digits", "choose a name of its own"),
        (None, "repvgg_nano", "choose a name of its own"),
        ("result.json", "pas_tiny", "is not a finished run"),
        ("config.yaml", "pas_tiny", "there is no config.yaml"),
        ("bundle", "pas_tiny", "has no bundle"),
    ],
)
def test_refused(change: str | None, name: str, words: str, finished: Path, tmp_path: Path) -> None:
    folder = finished
    if change is not None:
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        shutil.rmtree(folder / change) if (folder / change).is_dir() else (folder / change).unlink()
    with pytest.raises(pas.PasError, match=re.escape(words)) as refusal:
        publish(folder, name, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_refused_by_what_is_there(finished: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(pas.PasError, match="no run at"):
        publish(tmp_path / "nowhere", "pas_tiny", tmp_path)
    with pytest.raises(pas.PasError, match="is a bundle without its run"):
        publish(out / "pas_tiny.digits", "pas_tiny", tmp_path)
    (tmp_path / "pas_tiny").mkdir()
    (tmp_path / "pas_tiny" / "notes.txt").write_text("precious")
    with pytest.raises(pas.PasError, match="holds something that is no published network"):
        publish(finished, "pas_tiny", tmp_path, force=True)
    shutil.copytree(out / "pas_tiny.digits", tmp_path / "pas_tiny", dirs_exist_ok=True)
    with pytest.raises(pas.PasError, match="holds something that is no published network"):
        publish(finished, "pas_tiny", tmp_path, force=True)
    assert (tmp_path / "pas_tiny" / "notes.txt").read_text() == "precious"
    with pytest.raises(pas.PasError, match="--formats=tflite: must be one of onnx, pt2, int8"):
        publish(finished, "pas_tiny", tmp_path / "out", formats=["tflite"])


def test_the_verb(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["publish", str(finished), "--name", "pas_tiny.digits"])
    assert left.value.code == 0
    told = capsys.readouterr()
    assert "published/pas_tiny.digits/config.json" in told.out.splitlines()
    assert told.err.splitlines()[-1].endswith(f"export PAS_MODELS={tmp_path / 'published'}")
    monkeypatch.setenv("PAS_MODELS", "published")
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", "pas_tiny", "--data", "digits"])
    assert left.value.code == 0
    top1 = json.loads((finished / "result.json").read_text())["searched"]["top1"]
    assert f"digits: top-1 {top1:.2f} %" in capsys.readouterr().out


def test_by_name(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = forward(pas.load(known), IMAGES)
    assert torch.equal(forward(pas.load("pas_tiny"), IMAGES), wanted)
    assert torch.equal(forward(pas.load("pas_tiny.digits"), IMAGES), wanted)
    assert set(benchmark.networks(Wanted("pas_tiny"))[0]) == {"dense", "searched"}
    assert difference(Path("pas_tiny"), known).equal
    for name in ("pas_tiny.digit", "pas_tin"):
        with pytest.raises(pas.PasError, match=r"did you mean pas_tiny\.digits\?"):
            pas.load(name)
    with pytest.raises(pas.PasError, match="no bundle at elsewhere"):
        pas.load("elsewhere")
    monkeypatch.setenv("PAS_MODELS", os.pathsep.join([str(tmp_path), str(known.parent)]))
    family = {folder.name: folder for folder in names.FAMILY.iterdir() if folder.is_dir()}
    assert names.published() == {"pas_tiny.digits": known, **family}
    monkeypatch.delenv("PAS_MODELS")
    with pytest.raises(pas.PasError, match=r"did you mean pas_vgg_b1\.authors\? PAS_MODELS=FOLDER isn't set"):
        pas.load("pas_vgg_b1.author")
    monkeypatch.setattr(names, "FAMILY", known.parent)  # what comes with the package
    assert names.published() == {"pas_tiny.digits": known}


def test_names_of_timm(known: Path) -> None:
    wanted = forward(pas.load(known), IMAGES)
    assert timm.list_models("pas_tiny*", pretrained=True) == ["pas_tiny.digits"]
    for name in ("pas_tiny", "pas_tiny.digits"):
        network = timm.create_model(name, pretrained=True)
        assert network.training
        assert torch.equal(forward(network.eval(), IMAGES), wanted)
    config = timm.data.resolve_model_data_config(network)
    assert (tuple(config["input_size"]), config["mean"], config["std"], config["crop_pct"]) == ((1, 32, 32), [0.306], [0.323], 1.0)
    fresh = timm.create_model("pas_tiny", in_chans=3, drop_rate=0.5).eval()
    assert forward(fresh, torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert fresh.head.drop.p == 0.5
    assert not torch.equal(fresh.head.fc.weight, network.head.fc.weight)
    other = timm.create_model("pas_tiny", pretrained=True, num_classes=3).eval()
    assert forward(other, IMAGES).shape == (3, 3)
    assert torch.equal(other.forward_features(IMAGES), network.forward_features(IMAGES))
    for wrong, words in (
        ({"in_chans": 3}, "its weights are for 1"),
        ({"features_only": True}, "use hooks"),
        ({"num_classes": 0}, "use hooks"),
        ({"depth": 3}, "can't be made with"),
    ):
        with pytest.raises(pas.PasError, match=words):
            timm.create_model("pas_tiny", pretrained=True, **wrong)


def test_tags_have_widths_of_their_own(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a damaged neighbour is passed over with a warning."""
    shutil.copytree(known, tmp_path / "pas_two.first")
    about = sealed.read_config(known)["pas"]
    backbone = Backbone(**about["backbone"])
    dense = models.create(backbone.name, num_classes=10, in_chans=1).eval()
    whole = pas.signature(dense, backbone.example()).dense()
    bundle.save(tmp_path / "pas_two.wide", pas.fuse(dense), backbone, whole, mean=(0.5,), std=(0.5,), about={}, card="")
    (tmp_path / "pas_bad").mkdir()
    (tmp_path / "pas_bad" / "config.json").write_text("{")
    monkeypatch.setenv("PAS_MODELS", str(tmp_path))
    with pytest.warns(UserWarning, match="pas_bad is passed over"):
        registry.register()
    assert not timm.is_model("pas_bad")
    assert timm.list_models("pas_two", pretrained=True) == ["pas_two.first", "pas_two.wide"]
    wide, first = (timm.create_model(f"pas_two.{tag}", pretrained=True).eval() for tag in ("wide", "first"))
    assert torch.equal(forward(wide, IMAGES), forward(pas.fuse(dense), IMAGES))
    assert torch.equal(forward(first, IMAGES), forward(pas.load(known), IMAGES))


def test_no_setting_keeps_anybody_from_timm(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that can't be looked into, and a file that no parser gets to the end of."""
    (tmp_path / "pas_deep").mkdir()
    (tmp_path / "pas_deep" / "config.json").write_text("[" * 100_000)
    monkeypatch.setenv("PAS_MODELS", os.pathsep.join(["~nobody_of_this_name/x", "x" * 300, str(tmp_path), str(known.parent)]))
    with pytest.warns(UserWarning, match="is passed over") as warned:
        registry.register()
    said = [str(one.message) for one in warned]
    for words in ("~nobody_of_this_name/x of PAS_MODELS is passed over", "xxx of PAS_MODELS is passed over", "pas_deep is passed over"):
        assert any(words in line for line in said)
    assert timm.is_model("pas_tiny")
    assert not timm.is_model("pas_deep")


def test_widths_without_weights(tmp_path: Path) -> None:
    """28 convolutions of the published widths; by hand, with biases and 2048 x 1000 + 1000 of the classifier: 18.66 M parameters."""
    network = timm.create_model("pas_vgg_b1.authors")
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions[:8]] == [8, 20, 16, 15, 10, 49, 41, 36]
    assert (len(convolutions), {layer.kernel_size for layer in convolutions}) == (28, {(3, 3)})
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(18.66e6, rel=5e-4)
    assert timm.list_models("pas_vgg_b1*", pretrained=True) == []
    for loaded in (partial(timm.create_model, "pas_vgg_b1.authors", pretrained=True), partial(pas.load, "pas_vgg_b1")):
        with pytest.raises(pas.PasError, match=r"widths without weights: timm\.create_model\('local-dir:.*pas_vgg_b1\.authors'\)"):
            loaded()
    copy = tmp_path / "copy"
    shutil.copytree(names.located("pas_vgg_b1"), copy)
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"widths"', '"fused"'))
    with pytest.raises(pas.PasError, match=r"model\.safetensors is missing"):
        pas.load(copy)


def test_widths_alone_are_a_network(out: Path, tmp_path: Path) -> None:
    folder, known = tmp_path / "widths", out / "pas_tiny.digits"
    backbone = Backbone(**sealed.read_config(known)["pas"]["backbone"])
    bundle.save_widths(folder, backbone, sealed.architecture_of(known), mean=(0.3,), std=(0.3,), about={"name": "mine"}, card="Mine.")
    assert {file.name for file in folder.iterdir()} == {"config.json", "architecture.json", "README.md"}
    shapes = lambda network: [weight.shape for weight in network.parameters()]  # noqa: E731
    assert shapes(timm.create_model(f"local-dir:{folder}")) == shapes(pas.load(known))


def test_timm_by_folder(known: Path, tmp_path: Path) -> None:
    network = timm.create_model(f"local-dir:{known}", pretrained=True).eval()
    assert torch.equal(forward(network, IMAGES), forward(pas.load(known), IMAGES))
    with pytest.raises(pas.PasError, match="local-dir:FOLDER"):
        timm.create_model("pas_network")
    shutil.copytree(known, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(pas.PasError, match="was damaged or changed"):
        timm.create_model(f"local-dir:{tmp_path / 'bundle'}", pretrained=True)


def test_hugging_face(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, and a repository as it lies in the cache once it was downloaded."""
    wanted = forward(pas.load(known), IMAGES)
    network = pas.Published.from_pretrained(known)
    assert torch.equal(forward(network, IMAGES), wanted)
    network.save_pretrained(tmp_path / "saved")
    assert {file.name for file in (tmp_path / "saved").iterdir()} == ALL
    assert all((tmp_path / "saved" / name).read_bytes() == (known / name).read_bytes() for name in ALL)
    with pytest.raises(pas.PasError, match="it is there already"):
        network.save_pretrained(known)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    with pytest.raises(pas.PasError, match="other weights"):
        network.save_pretrained(tmp_path / "changed")
    repository, commit = tmp_path / "cache" / "models--user--net", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(known, repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(forward(pas.Published.from_pretrained("user/net", cache_dir=tmp_path / "cache"), IMAGES), wanted)
    network = timm.create_model("hf-hub:user/net", pretrained=True, cache_dir=tmp_path / "cache").eval()
    assert torch.equal(forward(network, IMAGES), wanted)
    for name in ("pas_tiny", "pas_tiny.digits"):
        assert torch.equal(forward(pas.Published.from_pretrained(name), IMAGES), wanted)
    for name in ("user/other", "published/pas_tiny.digits/", "elsewhere"):
        with pytest.raises(pas.PasError, match=f"no bundle '{name}': it is no folder, no published name") as refusal:
            pas.Published.from_pretrained(name, cache_dir=tmp_path / "cache")
        assert "\n" not in str(refusal.value)


BLOCKED = "import sys\nsys.modules['pas'] = None\n"


def python(code: str, folder: Path, **environment: str) -> list[np.ndarray]:
    """Run it in a folder; the arrays that it appends to `found`."""
    code = f"import numpy, torch\nfound = []\nimages = torch.tensor(numpy.load('images.npy'))\n{code}\nnumpy.savez('found.npz', *found)"
    where = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cli.__file__).parents[1]), **environment}
    np.save(folder / "images.npy", IMAGES.numpy())
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, env=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as found:
        return [found[name] for name in found.files]


RUN = "assert not network.training\nwith torch.no_grad(): found.append(network(images).numpy())\n"
RUN_PROGRAM = "with torch.no_grad(): found.append(network(images).numpy())\n"
RUN_FILE = "found.append(session.run(None, {'input': images.numpy()})[0])\n"


def test_the_python_of_the_card(out: Path, tmp_path: Path) -> None:
    """Every piece as it stands: the first three with `pas`, the others where it can't be imported; names of timm in either order."""
    shutil.copytree(out, tmp_path / "out")
    folder = tmp_path / "out" / "pas_tiny.digits"
    wanted = forward(pas.load(folder), IMAGES).numpy()
    pieces = re.findall(r"```python\n(.*?)```", card(folder), re.DOTALL)
    assert len(pieces) == 6
    assert len([line for line in pieces[3].splitlines() if line]) <= 22
    light = "import sys, pas\nassert 'timm' not in sys.modules\nimport timm\nassert timm.is_model('pas_tiny')\n"
    inside = python(light + "".join(piece + RUN for piece in pieces[:3]), folder, PAS_MODELS=str(tmp_path / "out"))
    outside = python(BLOCKED + pieces[3] + RUN + pieces[4] + RUN_PROGRAM + pieces[5] + RUN_FILE, folder)
    assert len(inside) == len(outside) == 3
    for found in (*inside, *outside[:2]):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(outside[2], wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_program_takes_any_number_of_images(out: Path) -> None:
    folder = out / "pas_tiny.digits"
    program, network = torch.export.load(folder / "model.pt2").module(), pas.load(folder)
    for n in (1, 2, 7):
        images = torch.randn(n, 1, 32, 32)
        assert torch.equal(forward(program, images), forward(network, images))


def test_a_network_of_ones_own_with_norms(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chain: its card loads the program, which is written unasked, and no name can make it."""
    (tmp_path / "published_nets.py").write_text(
        "from torch import nn\n\n\ndef make(num_classes, in_chans):\n"
        "    return nn.Sequential(nn.Conv2d(in_chans, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(16, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = compose([*TINY, "model=python", "model.entry=published_nets:make", "method=uniform", f"paths.runs={runs}"])
    run(config, Console(quiet=True))
    with pytest.raises(pas.PasError, match="--entry published_nets:make"):
        publish(run_folder(config), "pas_own", tmp_path)
    folder = publish(run_folder(config), "pas_own", tmp_path, entry="published_nets:make")
    from published_nets import make

    network = pas.load(folder, model=make(10, 1))
    pieces = re.findall(r"```python\n(.*?)```", card(folder), re.DOTALL)
    assert len(pieces) == 2
    program, session = python(BLOCKED + pieces[0] + RUN_PROGRAM + pieces[1] + RUN_FILE, folder)
    wanted = forward(network, IMAGES).numpy()
    np.testing.assert_array_equal(program, wanted)
    np.testing.assert_allclose(session, wanted, atol=1e-4 * np.abs(wanted).max())
    assert 'pas.load(".", model=dense)' in card(folder)
    assert all(f" {word} " in card(folder) for word in ("model=python", "model.entry=published_nets:make", "method=uniform"))
    with pytest.raises(pas.PasError, match="pass it as model="):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_chains() -> None:
    conv, end = nn.Conv2d(1, 4, 3, 2, 1), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    example = torch.zeros(1, 1, 8, 8)
    assert chain_of(nn.Sequential(conv, nn.ReLU(), *end), example) == Chain((("0", 2, 1, 1),), "4")
    grouped = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 4, 5, groups=4, padding=2), nn.ReLU(), *end)
    assert chain_of(grouped, example) == Chain((("0", 2, 1, 1), ("2", 1, 2, 4)), "6")
    for layers in (
        (conv, *end),
        (conv, nn.BatchNorm2d(4), nn.ReLU(), *end),
        (conv, nn.Sigmoid(), *end),
        (conv, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)),
        (conv, nn.ReLU(), *end, nn.ReLU()),
        (nn.Conv2d(1, 4, 3, (2, 1)), nn.ReLU(), *end),
        (nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), *end),
        (nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), *end),
        (nn.Conv2d(1, 4, 3, dilation=2), nn.ReLU(), *end),
    ):
        assert chain_of(nn.Sequential(*layers), example) is None
    assert chain_of(timm.create_model("cifar_resnet20").eval(), torch.zeros(1, 3, 32, 32)) is None
