"""The command of a run composes to the very configuration that the run wrote."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from pas.command import SILENT, command
from pas.compose import compose
from pas.errors import PasError


def put(folder: Path, *overrides: str) -> Path:
    """A run's config.yaml, as `open_run` writes it."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(asdict(compose(overrides)), sort_keys=False, allow_unicode=True))
    return file


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), []),
        (("budget.macs=0.3", "seed=1"), ["budget.macs=0.3", "seed=1"]),
        (("model=repvgg_a0", "data=cifar10", "budget=params", 'budget.params="50 k"'), None),
        (("method=random", "method@method.source=spa", "method.source.options.criterion=group_l1"), None),
        (("method=given", "+method@method.source=pas"), None),
        (("model=python", "model.entry=package.module:function", "+model.args.depth=3", "+model.args.kind=true story"), None),
        (("model=onnx", "model.path=\"a b/net's\\\\.onnx\"", "options.keep=['head.*']", "options.shrink=[0.5,0.75]"), None),
        (("hardware=cuda", "cost=torch", "cost.batch=128", "budget.latency=8 ms"),
         ["cost=torch", "budget=latency", "hardware=cuda", 'budget.latency="8 ms"', "cost.batch=128"]),
        (("experiment=pas_paper", "train.dense.epochs=2", "data.subset=300"), None),
    ],
)  # fmt: skip
def test_the_command_gives_the_configuration(overrides: tuple[str, ...], words: list[str] | None, tmp_path: Path):
    found = shlex.split(command(put(tmp_path, *overrides)))
    assert found[:2] == ["pas", "search"]
    wanted, got = asdict(compose(overrides)), asdict(compose(found[2:]))
    assert {name: got[name] for name in got if name not in SILENT} == {name: wanted[name] for name in wanted if name not in SILENT}
    if words is not None:
        assert found[2:] == words


def test_for_another_machine(tmp_path: Path):
    file = put(tmp_path, "model.weights=/here/net.th", "data.root=/here", "cost.table=/here/table.jsonl", "options.start=/here/runs/first")
    assert command(file, elsewhere=True) == "pas search model.weights=net.th options.start=first"
    assert "data.root=/here" in command(file)
    for start, told in (("/here/runs/first/bundle", "first/bundle"), ("runs/first/bundle/architecture.json",) * 2, ("bundle", "bundle"),
                        ("/here/runs/first/architecture.json", "first/architecture.json"), ("pas_vgg_b1.authors",) * 2):  # fmt: skip
        wanted = f"pas search options.start={told.removeprefix('runs/')}"
        assert command(put(tmp_path, f"options.start={start}"), elsewhere=True) == wanted


def test_no_command_is_made_up(tmp_path: Path):
    file = put(tmp_path)
    with pytest.raises(PasError, match=r"there is no nothing.yaml"):
        command(tmp_path / "nothing.yaml")
    whole = file.read_text()
    for text, words in (
        (whole.replace("min_width: 1", "min_width: 0"), "another version"),
        (whole.replace("seed: 0", "seed: 0\nfuture: 1"), "another version: .*future"),
        (whole.replace("name: pas\n", "name: nas\n"), "another version"),
        ("- a list", "another version"),
        ("a: [", "can't be read"),
    ):
        file.write_text(text)
        with pytest.raises(PasError, match=words):
            command(file)
