"""Nonsense on the command line and in files: a line that says what is wrong, or what was meant; nothing else, and never a wrong network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint import equal

import pas
from pas.compose import compose, groups
from pas.config import Config
from pas.publish import bundle, sealed
from pas.publish.backbone import Backbone
from pas.train.checkpoint import load, save

pytestmark = pytest.mark.no_cover  # counting lines would take a third of the time, and others run them too

FUZZ = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}

KEYS = (
    "model", "model.name", "model.weights", "model.entry", "model.pretrained", "+model.args.drop_rate", "+model.args", "data", "data.root",
    "data.subset", "data.flip", "data.val_fraction", "data.image_size", "method", "method.options.gate_lr", "budget", "budget.macs",
    "budget.params", "train", "train.search", "train.search.lr", "train.search.epochs", "train.dense.schedule", "options.keep",
    "options.round_to", "seed", "logger", "logger.mode", "logger.name", "hardware", "hardware.device", "hardware.threads", "paths.runs",
    "cost.repeats", "cost.runtime", "task", "experiment", "hydra.verbose", "hydra/launcher", "hydra.run.dir",
)  # fmt: skip
WORDS = (
    "", "null", "true", "None", "0", "-1", "1.5", "0.5", "1e308", "1e309", "-1e400", "9" * 400, "nan", "inf", "0x10", "1_000", "300 M",
    "[", "]", "[]", "[1,2]", "[stem,head.*]", "{", "{}", "{a:1}", "{a:{b:[1]}}", "'", '"', "'a b'", '"a=b"', "a=b", "=", "a,b", "0.3,0.5",
    "range(3)", "choice(1,2)", "glob(*)", "interval(0,1)", "${seed}", "${nothing.here}", "${", "${oc.env:NOTHING_OF_THE_KIND}", "$(ls)",
    "../../etc/passwd", "resnet18", "repvgg_a0", "digits", "cifar10", "ümläut", "数据", "\u202e", "\x00", "\n", "\\", "cuda:99", "@",
)  # fmt: skip


def one_line(refusal: pas.PasError) -> None:
    if len(str(refusal).splitlines()) != 1 or len(str(refusal)) > 2000:
        pytest.fail(f"not one line: {refusal}")


text = st.text(max_size=12)
mistyped = st.builds(lambda key, at, extra: key[:at] + extra + key[at + 1 :], st.sampled_from(KEYS), st.integers(0, 12), text)
value = st.one_of(st.sampled_from(WORDS), text, st.integers().map(str), st.floats().map(str), st.lists(st.sampled_from(WORDS)).map(str))
override = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(["", "", "", "+", "++", "~"]), st.one_of(st.sampled_from(KEYS), mistyped), value),
    st.builds("{}={}".format, st.sampled_from(KEYS), value),
    st.sampled_from(KEYS),
    text,
)


@settings(max_examples=120, **FUZZ)
@given(st.lists(override, min_size=1, max_size=3))
def test_overrides_are_understood_or_refused_in_one_line(overrides: list[str]) -> None:
    try:
        found = compose(overrides)
    except pas.PasError as refusal:
        one_line(refusal)
    else:
        assert isinstance(found, Config)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle."""
    torch.manual_seed(0)
    model = timm.create_model("cifar_resnet20", num_classes=3).eval()
    signature = pas.signature(model, torch.zeros(1, 3, 8, 8))
    architecture = signature.dense().keep(signature.prunable[0].name, range(0, signature.prunable[0].size, 2))
    folder = tmp_path_factory.mktemp("good") / "bundle"
    colours = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    plain, backbone = pas.fuse(pas.slice(model, signature, architecture)), Backbone("cifar_resnet20", {}, 3, 3, 8)
    bundle.save(folder, plain, backbone, architecture, about={"budget": {"kind": "macs"}}, card="#", **colours)
    return folder


@pytest.fixture(scope="module")
def same(good: Path) -> Callable[[torch.nn.Module], bool]:
    """Whether a network has the weights of the good bundle."""
    weights = dict(pas.load(good).state_dict())

    def check(network: torch.nn.Module) -> bool:
        return equal(dict(network.state_dict()), weights)

    return check


@st.composite
def edit(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One change of a file's bytes: a flipped bit, a piece cut out or off, a piece put in, or all of it replaced."""
    kind = draw(st.sampled_from(["flip", "flip", "cut", "end", "insert", "replace"]))
    where, bit, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7)), draw(st.integers(1, 40))
    near_the_start = draw(st.booleans())  # where headers are
    piece = draw(st.binary(min_size=1, max_size=20))

    def change(content: bytes) -> bytes:
        at = int(where * (min(len(content), 300) if near_the_start else len(content)))
        if kind == "flip":
            return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]
        if kind == "cut":
            return content[:at] + content[at + length :]
        if kind == "end":
            return content[:at]
        return content[:at] + piece + content[at:] if kind == "insert" else piece

    return change


@settings(max_examples=120, **FUZZ)
@given(name=st.sampled_from(sealed.FILES[:3]), change=edit())
def test_a_changed_bundle_is_refused_or_the_same(
    good: Path, same: Callable, tmp_path_factory: pytest.TempPathFactory, name: str, change: Callable[[bytes], bytes]
) -> None:
    copy = changed(good, tmp_path_factory.mktemp("changed") / "bundle", name, change)
    try:
        network = pas.load(copy)
    except pas.PasError as refusal:
        one_line(refusal)
    else:  # a blank or another spelling in JSON
        assert same(network)
        assert json.loads((copy / name).read_bytes()) == json.loads((good / name).read_bytes())


@pytest.mark.parametrize("name", sealed.FILES[3:])
def test_what_is_not_read_does_not_matter(good: Path, same: Callable, tmp_path: Path, name: str) -> None:
    copy = changed(good, tmp_path / "bundle", name, lambda content: content[: len(content) // 2])
    assert same(pas.load(copy))


def changed(good: Path, copy: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    shutil.copytree(good, copy)
    (copy / name).write_bytes(change((good / name).read_bytes()))
    return copy


def undigested(config: dict) -> dict:
    """As the first schema was, where only the checks of each file stand between a file and a network."""
    return {**config, "pas": {name: value for name, value in config["pas"].items() if name != "sha256"} | {"schema": 1}}


BOMBS = {
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"pas":' * 100_000,
    "a huge number": b'{"schema": 1, "axes": {"a": {"size": 1' + b"0" * 5000 + b"}}}",
    "a huge axis": b'{"schema": 1, "axes": {"conv1": {"size": 1000000000000}}}',
    "a list": b"[1, 2]",
    "nothing": b"",
    "not text": bytes(range(256)),
    "null": b"null",
    "numbers for objects": b'{"pas": 1, "schema": 1, "axes": 7}',
    "lists for numbers": b'{"pas": {"schema": [], "backbone": []}, "schema": [1], "axes": {"a": [1]}}',
    "not a number": b'{"pas": {"schema": NaN, "backbone": {}}, "schema": 1, "axes": {"a": {"size": NaN}}}',
    "a header as long as the world": b"\xff" * 7 + b"\x7f{}",
    "a header of tensors outside": (64).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,40]}}',
}


@pytest.mark.parametrize("name", sealed.FILES[:3])
@pytest.mark.parametrize("bomb", BOMBS)
def test_hostile_files_are_refused(good: Path, tmp_path: Path, name: str, bomb: str) -> None:
    copy = shutil.copytree(good, tmp_path / "bundle")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(undigested(config)))
    (copy / name).write_bytes(BOMBS[bomb])
    with pytest.raises(pas.PasError) as refusal:
        pas.load(copy)
    one_line(refusal.value)


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30, **FUZZ)
@given(field=st.sampled_from(["schema", "backbone", "backbone.name", "backbone.args", "backbone.num_classes", "backbone.in_chans",
                              "backbone.image_size"]), value=plain_json)  # fmt: skip
def test_wrong_types_in_the_configuration_are_refused(good: Path, same: Callable, tmp_path_factory, field: str, value: object) -> None:
    copy = shutil.copytree(good, tmp_path_factory.mktemp("types") / "bundle")
    config = undigested(json.loads((copy / "config.json").read_text()))
    *path, last = ["pas", *field.split(".")]
    node = config
    for step in path:
        node = node[step]
    node[last] = value
    (copy / "config.json").write_text(json.dumps(config))
    try:
        network = pas.load(copy)
    except pas.PasError as refusal:
        one_line(refusal)
    else:  # an older schema, no arguments, or another size of the image: the same weights
        assert same(network)


@settings(max_examples=100, **FUZZ)
@given(name=st.sampled_from(["state.safetensors", "state.json"]), change=edit())
def test_a_changed_checkpoint_is_refused_or_the_same(tmp_path_factory, name: str, change: Callable[[bytes], bytes]) -> None:
    folder = tmp_path_factory.mktemp("state") / "state"
    tensors = [torch.from_numpy(np.arange(6.0)), torch.ones(2, dtype=torch.int64)]
    state = {"step": 3, "last": {"loss": 0.25, "top1": None}, "tensors": tensors}
    save(state, folder)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    try:
        found = load(folder)
    except pas.PasError as refusal:
        one_line(refusal)
    else:
        assert equal(found, state)


@pytest.mark.parametrize("name", groups())
def test_every_group_refuses_nonsense(name: str) -> None:
    with pytest.raises(pas.PasError) as refusal:
        compose([f"{name}=[1,{{"])
    one_line(refusal.value)
