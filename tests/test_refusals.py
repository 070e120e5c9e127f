"""Whatever a person may get wrong: one clear line on the `pas` command, exit code 2, and nothing begun that would take hours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from PIL import Image
from safetensors.torch import save_file

import pas
from pas import cli, models
from pas.compose import compose
from pas.keys import run_key
from pas.publish import bundle, sealed
from pas.publish.backbone import Backbone
from pas.refusal import refusal

pytestmark = pytest.mark.usefixtures("exporter")

SHORT = ["data.subset=100", "data.image_size=16", "train.dense.epochs=1", "train.search.epochs=1", "train.finetune.epochs=1",
         "cost.runtime=torch", "cost.repeats=3", "cost.warmup=0", "hardware.threads=1", "hardware.workers=0"]  # fmt: skip


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    said = capfd.readouterr()
    assert left.value.code == 2, said.err
    assert said.out == ""
    assert said.err.startswith("pas: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


def search(folder: Path, *words: str) -> list[str]:
    return ["search", *SHORT, f"paths.runs={folder / 'runs'}", *words]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=repvgg_nan"], "no model is called 'repvgg_nan': did you mean repvgg_nano"),
        (["budget.macs=0.0001"], "can't be reached; the smallest possible is"),
        (["budget.macs=2"], "budget.macs=2: 2 macs can't be reached; the smallest possible is"),
        (["budget.macs=50"], "for a share write '50 %'"),
        (["budget.macs=300 M"], "budget.macs=300 M allows more than the dense network's"),
        (["budget.macs=1.5"], "budget.macs=1.5: must be a share in (0, 1]"),
        (["data=cifar10", "data.root=/nowhere"], "cifar10 is not (or not intact) under /nowhere: set data.root= or PAS_DATA"),
        (["data=imagefolder", "data.root=/nowhere"], "imagefolder is not (or not intact) under /nowhere"),
        (["data.subset=3"], "data.subset=3 must lie between 10 (classes) and"),
        (["model.weights=/nowhere.th"], "no weights at /nowhere.th"),
        (["options.keep=[nothing.*]"], "keep='nothing.*' matches no axis or module"),
        (["+model.args.depth=3"], "can't be made with model.args={'depth': 3}"),
        (["train.search.optimizer=sdg"], "optimizer=sdg: timm has none of that name"),
        (["hardware.device=cuda:99"], "hardware.device=cuda:99: "),
        (["data.split=val", "data.val_fraction=0.0002"], "data.split=val has no image: raise data.val_fraction=0.0002"),
        (["train.search.ema=0.9"], "train.search.ema: an average over gates"),
        (["method=scratch", "method@method.source=uniform", "train.dense.epochs=0"], "set train.dense.epochs"),
        (["method.name=nonsense", "dry_run=true"], "no method 'nonsense'"),
        (["model.args=3"], "model.args=3: model.args holds settings of its own; write model.args.NAME=VALUE"),
        (["+model.args=[1]"], "write model.args.NAME=VALUE"),
        (["experiment=[pas_paper,foo]"], "experiment=foo: there is no such file"),
        (["method=pas", "method@method.source=uniform"], "only method=random and method=scratch take their widths from another method"),
        (["method=random", "method@method.source=given"], "method=given options.start=FILE"),
        (["method=random", "method@method.source=random"], "not from another control"),
    ],
)
def test_search(words: list[str], expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(search(tmp_path, *words), capfd)
    assert not list(tmp_path.glob("runs/*/checkpoint"))  # refused before anything is trained


def test_an_error_among_its_own_causes_is_told() -> None:
    first, second = ValueError("first"), HydraException("second")
    second.__cause__, first.__context__ = first, second
    assert refusal(second, lambda where: []) == "second"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "nowhere", "--data", "digits"], "no bundle at nowhere"),
        (["evaluate", ".", "--data", "digits"], ". is not a bundle: config.json is missing"),
        (["report", "nowhere"], "no folder nowhere"),
        (["inspect", "resnet19"], "no model is called 'resnet19': did you mean"),
        (["inspect", "vit_tiny_patch16_224", "--image-size", "50"], "50"),
    ],
)
def test_other_verbs(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(arguments, capfd)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate"], "the following arguments are required: BUNDLE, --data"),
        (["inspect", "resnet18", "--image-size", "-3"], "'-3' is not a whole number of at least 1"),
        (["inspect", "resnet18", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["serch"], "invalid choice: 'serch'"),
        (["report"], "the following arguments are required: RUNS"),
    ],
)
def test_wrong_arguments(arguments: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    """These get a usage line before it."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    said = capfd.readouterr().err
    assert left.value.code == 2
    assert expected in said.splitlines()[-1]
    assert "Traceback" not in said


MINE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_chans, 8, 3), nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.middle(self.conv(x))
        return self.head(x.mean((2, 3)))


class Branches(Net):
    def middle(self, x):
        if x.sum() > 0:
            return x * 2
        return x


class Unknown(Net):
    def middle(self, x):
        return torch.special.bessel_j0(x)


class Five(Net):
    def __init__(self, num_classes, in_chans):
        super().__init__(5, in_chans)

    def middle(self, x):
        return x


class Named(Five):
    def forward(self, x):
        return {"logits": super().forward(x)}


def broken(num_classes, in_chans):
    return [][num_classes]


def text(num_classes, in_chans):
    return "a network"


def no_arguments():
    return Net(10, 1)
"""


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("pas_test_mine:Branches", "(pas_test_mine.py, line 18: if x.sum() > 0:)"),
        ("pas_test_mine:Unknown", "bessel_j0"),
        ("pas_test_mine:broken", "called with num_classes=10, in_chans=1: IndexError: list index out of range (pas_test_mine.py, line 42:"),
        ("pas_test_mine:Five", "gives a tensor of shape (1, 5) for one image; digits has 10 classes, so it must be"),
        ("pas_test_mine:Named", "Named gives a dict for one image; digits has 10 classes"),
        ("pas_test_mine:text", "returned str, a torch.nn.Module is needed"),
        ("pas_test_mine:no_arguments", "TypeError: no_arguments() got an unexpected keyword argument"),
        ("pas_test_mine:absent", "has no function absent"),
        ("pas_test_no_such_module:make", "No module named 'pas_test_no_such_module'"),
        ("pas_test_syntax:make", "importing it: SyntaxError"),
    ],
)
def test_networks_of_ones_own(
    entry: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pas_test_mine.py").write_text(MINE)
    (tmp_path / "pas_test_syntax.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "pas_test_mine", raising=False)
    for more in ([], ["dry_run=true"]):
        assert expected in refused(search(tmp_path, "model=python", f"model.entry={entry}", *more), capfd)
    assert not list(tmp_path.glob("runs/*/checkpoint"))


def test_weights_that_do_not_fit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = models.create("repvgg_nano", num_classes=7, in_chans=1).state_dict()
    save_file(state, tmp_path / "seven.safetensors")
    torch.save({"state_dict": models.create("repvgg_micro", num_classes=10, in_chans=1).state_dict()}, tmp_path / "micro.pth")
    colour = models.create("repvgg_nano", num_classes=10, in_chans=3).state_dict()
    save_file(colour, tmp_path / "colour.safetensors")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "seven.safetensors").read_bytes()[:5000])
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")  # of before torch counted batches
    for name, expected in {
        "old.pth": "they tell 7 classes apart, the data has 10 (head.fc.weight)",
        "seven.safetensors": "they tell 7 classes apart, the data has 10 (head.fc.weight)",
        "micro.pth": "of this ByobNet: ",
        "colour.safetensors": " is 16 x 3 x 3 x 3 there and 16 x 1 x 3 x 3 in the network",
        "text.pth": "it can't be read as a checkpoint (UnpicklingError",
        "half.safetensors": "it can't be read as a checkpoint (SafetensorError",
    }.items():
        assert expected in refused(search(tmp_path, f"model.weights={tmp_path / name}"), capfd)


def idx(path: Path, content: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in content.shape)
    path.write_bytes(bytes([0, 0, 8, content.ndim]) + sizes + content.tobytes())


def test_half_unpacked_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 100), ("t10k", 20)):
        idx(raw / f"{part}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    words = search(tmp_path, "data=fashion_mnist", f"data.root={tmp_path}")
    images = raw / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    assert "under " + str(tmp_path) + " (FashionMNIST/raw/t10k-images-idx3-ubyte is damaged or cut off)" in refused(words, capfd)
    images.unlink()
    assert "(FashionMNIST/raw/t10k-images-idx3-ubyte is missing)" in refused(words, capfd)
    for name in ("train", "test", "meta"):
        (tmp_path / "cifar-100-python").mkdir(exist_ok=True)
        (tmp_path / "cifar-100-python" / name).write_bytes(b"not it")
    cifar = search(tmp_path, "data=cifar100", f"data.root={tmp_path}")
    assert "(cifar-100-python/train is damaged or cut off)" in refused(cifar, capfd)
    (tmp_path / "cifar-100-python" / "train").unlink()
    assert "(cifar-100-python/train is missing)" in refused(cifar, capfd)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    return tmp_path / "pictures"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_cut_off_is_named(pictures: Path, workers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = pictures / "train" / "b" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    words = ["data=imagefolder", f"data.root={pictures}", "data.subset=null", "data.val_fraction=0", "data.image_size=16"]
    few = ["train=digits", "train.dense.epochs=1", "train.dense.batch_size=4", f"hardware.workers={workers}"]
    assert f"{bad} can't be read as an image (OSError): mend it" in refused(search(tmp_path, *words, *few), capfd)


def test_a_class_without_images_is_named(pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (pictures / "train" / "empty").mkdir()
    words = search(tmp_path, "data=imagefolder", f"data.root={pictures}", "data.subset=null")
    assert "(no image in empty)" in refused(words, capfd)


def test_a_diverging_training_stops_and_says_what_to_try(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train.search.lr=1e30", "train.search.epochs=4", "hardware.checkpoint_seconds=0"]
    with pytest.raises(SystemExit) as left:
        cli.main(search(tmp_path, *words))
    said = capfd.readouterr().err.splitlines()[-1]
    assert left.value.code == 2
    assert said.startswith("pas: search: the loss or a weight became infinite or NaN by step ")
    assert "lower train.search.lr, lengthen train.search.warmup_epochs or set train.search.clip_grad=1, and start again" in said
    # the dense parent was trained, and a run with another learning rate starts from it
    with pytest.raises(SystemExit) as left:
        cli.main(search(tmp_path, *words[1:]))
    assert left.value.code == 0
    assert "dense " not in capfd.readouterr().err


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for ten classes of grey images."""
    model = models.create("repvgg_nano", num_classes=10, in_chans=1).eval()
    signature = pas.signature(model, torch.zeros(1, 1, 16, 16))
    folder = tmp_path_factory.mktemp("good") / "bundle"
    about = {"mean": (0.5,), "std": (0.5,), "about": {"data": "fashion_mnist"}, "card": "#"}
    bundle.save(folder, pas.fuse(model), Backbone("repvgg_nano", {}, 10, 1, 16), signature.dense(), **about)
    return folder


def test_bundles_and_data_that_do_not_match(good: Path, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = refused(["evaluate", str(good), "--data", "imagefolder", "--root", str(pictures)], capfd)
    assert "tells 10 classes apart in images of 1 channels, but imagefolder has 2 classes and 3 channels" in said
    assert "no data set is called 'digit'" in refused(["evaluate", str(good), "--data", "digit"], capfd)
    assert f"{good.parent} is a run; its bundle is {good}" in refused(["evaluate", str(good.parent), "--data", "digits"], capfd)
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", str(good), "--data", "digits"])
    assert left.value.code == 0
    assert capfd.readouterr().err == f"pas: {good} was searched on fashion_mnist, not digits\n"


@pytest.mark.parametrize("name", sealed.FILES[:3])
def test_damaged_bundles(good: Path, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(good, tmp_path / "bundle")
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    assert str(copy / name) in refused(["evaluate", str(copy), "--data", "digits"], capfd)
    (copy / name).write_bytes(content.replace(b"16", b"24", 1) if name != "model.safetensors" else content[:-1] + bytes([content[-1] ^ 1]))
    assert "damaged or changed" in refused(["evaluate", str(copy), "--data", "digits"], capfd)


def test_results_and_checkpoints_that_are_damaged_or_newer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = search(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 0
    capfd.readouterr()
    run = tmp_path / "runs" / run_key(compose(words[1:]))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "schema": 9}))
    assert "result.json has schema 9, newer than 1: update pas" in refused(words, capfd)
    (run / "result.json").write_text("[" * 100_000)
    assert "result.json is damaged (nested too deeply): delete it to do the end of the run again" in refused(words, capfd)
    (run / "result.json").unlink()
    state = run / "checkpoint" / "search" / "state.json"
    record = json.loads(state.read_text())
    for changed, expected in (
        ({**record, "version": 9}, "was written by a newer version"),
        ({**record, "state": ["dict", []]}, "state.json isn't what was saved"),
        ({"version": 2}, "can't be read ('state')"),
        ([], "delete that folder to start anew"),
    ):
        state.write_text(json.dumps(changed))
        said = refused(words, capfd)
        assert f"the checkpoint {state.parent} " in said
        assert expected in said
