"""ONNX in: whole networks against ONNX Runtime, what can be done with them, searches from them, and what is refused."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx as files
import pytest
import timm
import torch
import torch.nn.functional as F
from networks import error, halves, randomise, run
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn

import pas
from pas import cli, models, onnx, pipeline
from pas.compose import compose
from pas.errors import PasError
from pas.keys import run_key
from pas.onnx_read.skeleton import skeleton
from pas.publish.evaluate import evaluate
from pas.runs import run_folder

pytestmark = pytest.mark.usefixtures("exporter")

FILES = Path(__file__).parent / "files"


def one_node(operator: str, shape: list, constants: dict[str, np.ndarray] | None = None, *, outputs: int = 1, **attributes) -> bytes:
    """A file of one node that reads "x"."""
    constants = constants or {}
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(operator, ["x", *constants], names, name="the_node", **attributes)
    return file_of([node], shape, constants, names[0])


def file_of(nodes: list, shape: list, constants: dict[str, np.ndarray], output: str, version: int = 17, domain: str = "a") -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["any"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", version), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


# ---- whole networks --------------------------------------------------------------------------------------------------

class Mobile(nn.Module):
    """An inverted residual with squeeze and excitation between a stem and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU6(), nn.Conv2d(32, 32, 5, 1, 2, groups=32), nn.BatchNorm2d(32), nn.SiLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.PReLU(8), nn.Conv2d(8, 32, 1), nn.Hardsigmoid())
        self.narrow = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16 * 8 * 8, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.wide(x)
        return self.head(x + self.narrow(y * self.gate(y)))


VIT = partial(timm.create_model, "vit_tiny_patch16_224", num_classes=10, img_size=32, patch_size=8)
NETWORKS = {
    "resnet": (32, partial(models.cifar_resnet.CifarResNet, 1)),
    "mobile": (32, Mobile),
    "vit": (32, partial(VIT, depth=1)),
    "repvgg_nano": (32, partial(models.create, "repvgg_nano", num_classes=10)),
}
LARGER = {
    name: (64, partial(timm.create_model, name, num_classes=10))
    for name in ("resnet18", "mobilenetv3_small_050", "convnext_atto", "efficientnet_b0", "densenet121")
}
ALL = [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)]
Written = Callable[[str], tuple[Path, nn.Module, torch.Tensor]]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    """A network as a file, the network (fused), and three images."""

    @cache
    def one(name: str) -> tuple[Path, nn.Module, torch.Tensor]:
        size, make = {**NETWORKS, **LARGER}[name]
        torch.manual_seed(0)
        model, images = make(), torch.randn(8, 3, size, size)
        randomise(model, images, torch.Generator().manual_seed(0))
        model = pas.fuse(model.eval())
        path = tmp_path_factory.mktemp(name) / "net.onnx"
        onnx.export(model, images, path)
        return path, model, images[:3]

    return one


@pytest.mark.parametrize("name", ALL)
def test_network_comes_back(name: str, written: Written) -> None:
    path, model, images = written(name)
    network = pas.from_onnx(path)
    assert not network.training
    for batch in (images[:1], images):
        assert onnx.max_error(network, path, batch) < 1e-5
        assert error(run(model, batch), run(network, batch)) < 1e-4
    original, found = (pas.signature(one, images) for one in (model, network))
    assert pas.cost.macs(found, found.dense()) == pas.cost.macs(original, original.dense())
    assert [axis.size for axis in found.prunable] == [axis.size for axis in original.prunable]


@pytest.mark.parametrize("name", ALL)
def test_network_is_trained_sliced_saved_and_written_again(name: str, written: Written, tmp_path) -> None:
    path, _, images = written(name)
    network = pas.from_onnx(path).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(network(images), torch.arange(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    fresh = pas.from_onnx(path)
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(run(fresh, images), run(network, images))

    signature = pas.signature(network, images)
    architecture = halves(signature, np.random.default_rng(0))
    small = pas.slice(network, signature, architecture)
    exact = all(axis.exact for axis in signature.prunable)
    assert not exact or error(run(pas.mask(network, signature, architecture), images), run(small, images)) < 1e-4
    onnx.export(small, images, tmp_path / "small.onnx")
    assert onnx.max_error(small, tmp_path / "small.onnx", images) < 1e-4
    again = pas.from_onnx(tmp_path / "small.onnx")
    assert error(run(small, images), run(again, images)) < 1e-4


@pytest.mark.parametrize("name", ["keras_cnn", "jax_cnn"])
def test_file_of_another_producer_is_halved(name: str, tmp_path) -> None:
    path, images = FILES / f"{name}.onnx", torch.randn(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    network = pas.from_onnx(path)
    for batch in (images[:1], images):
        assert onnx.max_error(network, path, batch) < 1e-4
    search = pas.Search(network, images, budget=pas.Budget(macs=0.5), method="uniform", steps=1)
    small = search.export().eval()
    dense = pas.cost.macs(search.signature, search.signature.dense())
    assert 0.4 * dense < pas.cost.macs(search.signature, search.architecture) <= 0.5 * dense
    onnx.export(small, images, tmp_path / "small.onnx")
    assert onnx.max_error(small, tmp_path / "small.onnx", images) < 1e-4
    first = models.from_file(path, in_chans=3, image_size=32).eval()
    assert torch.equal(run(first, images.permute(0, 3, 1, 2)), run(network, images))


class Recurrent(nn.Module):
    """The last state of a recurrent layer, through a linear one."""

    def __init__(self, kind: type[nn.RNNBase], both: bool) -> None:
        super().__init__()
        self.layer = kind(6, 8, batch_first=True, bidirectional=both)
        self.head = nn.Linear(16 if both else 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_layer_of_a_file_with_a_fixed_batch_takes_any(kind, tmp_path) -> None:
    torch.manual_seed(0)
    model, x = Recurrent(kind, both=kind is nn.LSTM).eval(), torch.randn(3, 5, 6)
    fixed(model, x[:1], tmp_path / "net.onnx")
    network = pas.from_onnx(tmp_path / "net.onnx")
    assert any(type(module) is kind for module in network.modules())
    assert error(run(model, x), run(network, x)) < 1e-5


def test_transformer_of_a_file_with_a_fixed_batch_takes_any(tmp_path) -> None:
    torch.manual_seed(0)
    model, x = VIT(depth=1).eval(), torch.randn(3, 3, 32, 32)
    fixed(model, x[:1], tmp_path / "net.onnx")
    assert error(run(model, x), run(pas.from_onnx(tmp_path / "net.onnx"), x)) < 1e-4


def fixed(model: nn.Module, x: torch.Tensor, path: Path) -> None:
    """Written as the exporter does by default: for the batch of the example."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (x,), str(path), dynamo=True, external_data=False, verbose=False)
    finally:
        logging.disable(before)


def test_shared_matrices_stay_shared_and_vectors_do_not(tmp_path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norms = nn.Linear(8, 8), nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for norm in self.norms:
                x = self.layer(norm(x))
            return x

    onnx.export(Tied().eval(), torch.randn(2, 8), tmp_path / "net.onnx")
    network = pas.from_onnx(tmp_path / "net.onnx")
    linear = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    norms = [module.weight for module in network.modules() if isinstance(module, nn.LayerNorm)]
    assert len(linear) == len(norms) == 2
    assert linear[0] is linear[1]
    assert norms[0] is not norms[1]


def test_sizes_that_the_file_computes_stay_free() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "zeros"], ["batches"]),
        helper.make_node("Mul", ["batches", "two"], ["twice"]),
        helper.make_node("Concat", ["twice", "six"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Slice", ["shape", "zeros", "one"], ["first"]),
        helper.make_node("Concat", ["first", "one", "twelve"], ["wide"], axis=0),
        helper.make_node("Reshape", ["flat", "wide"], ["y"]),
    ]
    numbers = {"zero": np.int64(0), "zeros": np.array([0]), "two": np.array([2]), "six": np.array([6]), "one": np.array([1])}
    network = pas.from_onnx(file_of(nodes, ["n", 3, 4], {**numbers, "twelve": np.array([12])}, "y"))
    x = torch.randn(5, 3, 4)
    assert torch.equal(run(network, x), x.reshape(5, 1, 12))


def test_an_output_needs_no_shape(tmp_path) -> None:
    """Runtimes run such a file, though the standard's checker refuses it."""
    model = files.load_model_from_string(file_of([helper.make_node("Relu", ["x"], ["y"])], ["n", 3], {}, "y"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    x = torch.randn(2, 3)
    assert torch.equal(run(pas.from_onnx(tmp_path / "net.onnx"), x), x.relu())
    with pytest.raises(PasError, match="give the path of an ONNX file, or its bytes"):
        pas.from_onnx(model)


def test_free_image_size_can_be_given() -> None:
    weight = np.random.default_rng(0).normal(size=(2, 1, 3, 3)).astype(np.float32)
    file = one_node("Conv", ["n", 1, "h", "w"], {"w": weight}, auto_pad="SAME_UPPER", strides=[2, 2])
    with pytest.raises(PasError, match="which the file leaves free: give it"):
        pas.from_onnx(one_node("Conv", ["n", 1, "h", "w"], {"w": weight}, auto_pad="SAME_UPPER", strides=[3, 3]))
    assert run(pas.from_onnx(file, shape=(1, 9, 9)), torch.zeros(2, 1, 9, 9)).shape == (2, 2, 5, 5)
    with pytest.raises(PasError, match=r"takes examples of shape \(1, h, w\), not \(3, 9, 9\)"):
        pas.from_onnx(file, shape=(3, 9, 9))


# ---- refusals --------------------------------------------------------------------------------------------------------

X = ["n", 2, 4, 4]
BODY = helper.make_graph(
    [helper.make_node("Identity", ["go"], ["more"]), helper.make_node("Identity", ["old"], ["new"])],
    "body",
    [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
     helper.make_tensor_value_info("old", TensorProto.FLOAT, ["any"])],
    [helper.make_tensor_value_info("more", TensorProto.BOOL, []), helper.make_tensor_value_info("new", TensorProto.FLOAT, ["any"])],
)  # fmt: skip
REFUSED = {
    "no ONNX file": (b"not a model", "is no ONNX file, or only a part of one|holds no network"),
    "empty": (b"", "holds no network"),
    "operator": (one_node("NonZero", X), r"node 'the_node' \(NonZero\) can't be read: this operator is not known"),
    "attribute": (one_node("MaxPool", X, kernel_shape=[2, 2], storage_order=1), r"the_node.*storage_order=1, but only 0"),
    "control flow": (
        file_of([helper.make_node("Loop", ["", "", "x"], ["y"], name="loop", body=BODY)], X, {}, "y"),
        r"node 'loop' \(Loop\) is control flow",
    ),
    "quantised": (
        one_node("QuantizeLinear", X, {"scale": np.float32(0.1)}),
        r"node 'the_node' \(QuantizeLinear\) belongs to a quantised model",
    ),
    "another domain": (
        file_of([helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")], X, {}, "y", domain="com.microsoft"),
        r"node 'y' \(com.microsoft.FusedConv\) is no operator of ONNX",
    ),
    "old": (file_of([helper.make_node("Relu", ["x"], ["y"])], X, {}, "y", version=9), "has opset 9; 11 and newer"),
    "sizes that values decide": (
        file_of([helper.make_node("Cast", ["x"], ["i"], to=7), helper.make_node("Reshape", ["x", "i"], ["y"])], [4], {}, "y"),
        r"node 'y' \(Reshape\) can't be read: its sizes 'i' depend on the values",
    ),
    "computed weights": (
        file_of([helper.make_node("Relu", ["x"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])], X, {}, "y"),
        r"node 'y' \(Conv\) can't be read: its input 'w' is computed",
    ),
    "shapes that don't fit": (
        one_node("Conv", X, {"w": np.zeros((3, 5, 1, 1), np.float32)}),
        r"node 'the_node' \(Conv\) can't be read: its inputs don't fit",
    ),
    "no attribute of the operator": (one_node("Relu", X, colour=3), "no valid ONNX model"),
    "examples that mix": (
        file_of([helper.make_node("Reshape", ["x", "s"], ["f"]), helper.make_node("Gather", ["f", "i"], ["y"], axis=0)], [2, 2],
                {"s": np.array([4]), "i": np.array([[0, 1], [2, 3]])}, "y"),
        "computes across the examples of its fixed batch of 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(what: str, tmp_path) -> None:
    content, message = REFUSED[what]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(PasError, match=message) as refused:
        pas.from_onnx(tmp_path / "net.onnx")
    assert "\n" not in str(refused.value)
    assert "net.onnx" in str(refused.value)


def test_missing_cut_and_scattered_files_are_refused(tmp_path, written: Written) -> None:
    with pytest.raises(PasError, match=r"no ONNX file at .*absent.onnx"):
        pas.from_onnx(tmp_path / "absent.onnx")
    content = written("repvgg_nano")[0].read_bytes()
    for share in (0.3, 0.6, 0.99):
        (tmp_path / "cut.onnx").write_bytes(content[: int(share * len(content))])
        with pytest.raises(PasError, match=r"cut.onnx (is no|holds no)"):
            pas.from_onnx(tmp_path / "cut.onnx")
    model = files.load_model_from_string(content)
    files.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(pas.from_onnx(tmp_path / "net.onnx").state_dict()) > 10
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(PasError, match=r"keeps its weights in 'weights.bin', which isn't beside it"):
        pas.from_onnx(tmp_path / "net.onnx")


# ---- pas search model=onnx -------------------------------------------------------------------------------------------

SHORT = ["data.subset=200", "train.search.epochs=1", "train.finetune.epochs=1", "cost.runtime=torch", "cost.repeats=5", "cost.warmup=1",
         "hardware.threads=1", "method.options.samples=8"]  # fmt: skip


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    """A classifier of the digits."""
    torch.manual_seed(0)
    model = models.create("repvgg_nano", num_classes=10, in_chans=1)
    randomise(model, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("grey") / "my net.onnx"
    onnx.export(pas.fuse(model.eval()), torch.zeros(1, 1, 32, 32), path)
    return path


def configured(path: Path, runs: Path, *overrides: str):
    return compose([*SHORT, "model=onnx", f"model.path='{path}'", f"paths.runs={runs}", *overrides])


def test_search_from_a_file_and_a_bundle_without_it(grey: Path, tmp_path) -> None:
    path = tmp_path / grey.name
    path.write_bytes(grey.read_bytes())
    config = configured(path, tmp_path)
    result = pipeline.run(config, Console(quiet=True))
    assert result["budget"]["achieved"] <= 0.5 * result["dense"]["macs"]
    assert result["exactness"]["fuse_onnx"] < 1e-4
    folder = run_folder(config) / "bundle"
    path.unlink()
    network = pas.load(folder)  # the pipeline has checked that it is the searched network bit for bit
    assert sum(p.numel() for p in network.parameters()) == result["searched"]["params"]
    assert evaluate(folder, "digits", None).top1 == pytest.approx(result["searched"]["top1"], abs=0.01)
    assert (folder / "backbone.onnx").stat().st_size < 0.2 * grey.stat().st_size
    (folder / "backbone.onnx").write_bytes((folder / "backbone.onnx").read_bytes() + b"\0")
    with pytest.raises(PasError, match=r"backbone.onnx was damaged or changed"):
        pas.load(folder)


def test_run_is_named_by_what_the_file_holds(grey: Path, tmp_path) -> None:
    copied, other = tmp_path / grey.name, tmp_path / "other" / grey.name
    copied.write_bytes(grey.read_bytes())
    assert run_key(configured(copied, tmp_path)) == run_key(configured(grey, tmp_path))
    model = files.load(grey)
    other.parent.mkdir()
    files.save(model, other, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = run_key(configured(other, tmp_path))
    content = bytearray((other.parent / "weights.bin").read_bytes())
    content[-1] ^= 1
    (other.parent / "weights.bin").write_bytes(content)
    assert len({before, run_key(configured(other, tmp_path)), run_key(configured(grey, tmp_path))}) == 3


def test_wrong_classes_images_and_settings_get_one_line(grey: Path, tmp_path) -> None:
    with pytest.raises(PasError, match=r"takes images of 1 x 32 x 32, but those of the data are 1 x 28 x 28: set data.image_size=32"):
        pipeline.rehearse(configured(grey, tmp_path, "data.image_size=28"))
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("Gemm", ["f", "w"], ["y"])]  # fmt: skip
    (tmp_path / "seven.onnx").write_bytes(file_of(nodes, ["n", 1, 32, 32], {"w": np.ones((1, 7), np.float32)}, "y"))
    with pytest.raises(PasError, match=r"seven.onnx gives a tensor of shape \(1, 7\) for one image; digits has 10 classes"):
        pipeline.rehearse(configured(tmp_path / "seven.onnx", tmp_path))
    with pytest.raises(PasError, match=r"model=onnx and model.path=FILE.onnx belong together"):
        compose([*SHORT, f"model.path='{grey}'"])


def test_new_weights_for_a_control_from_scratch(grey: Path) -> None:
    torch.manual_seed(0)
    old = models.from_file(grey, in_chans=1, image_size=32)
    new = models.from_file(grey, in_chans=1, image_size=32, fresh=True)
    assert old.training
    assert list(old.state_dict()) == list(new.state_dict())
    same = [name for name, value in new.named_parameters() if torch.equal(value, old.get_parameter(name))]
    assert same == []


def test_skeleton_is_a_valid_file_of_the_same_network(grey: Path) -> None:
    content = skeleton(grey)
    files.checker.check_model(files.load_model_from_string(content))
    old, new = pas.from_onnx(grey), pas.from_onnx(content)
    assert {name: t.shape for name, t in old.state_dict().items()} == {name: t.shape for name, t in new.state_dict().items()}
    assert old.code == new.code


def test_inspect_shows_the_axes_of_a_file(capsys) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["inspect", "--onnx", str(FILES / "jax_cnn.onnx")])
    assert done.value.code == 0
    assert "4 prunable axes" in capsys.readouterr().out
