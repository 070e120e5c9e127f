"""Every command and every piece of Python in the README, run. Searches are shortened by further overrides, nothing else is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forks import Forks
from torch import nn

from pas import onnx
from pas.compose import compose_all, launcher
from pas.submission import CLUSTERS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", TEXT.replace("\\\n", ""), re.DOTALL)
         for line in block.splitlines()]  # fmt: skip
COMMANDS = [line for line in LINES if line]
SHORT = ["data.subset=300", "train.dense.epochs=1", "train.search.epochs=1", "train.finetune.epochs=1", "cost.repeats=3", "cost.warmup=0",
         "hardware.threads=1", "method.options.samples=8", "cost.spread=1e9"]  # fmt: skip
NEEDS_DATA = ("data=cifar10", "experiment=", "data=fashion_mnist")


@pytest.fixture(scope="module")
def workplace(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished default run (shortened), where the README's other commands find what they speak of."""
    folder = tmp_path_factory.mktemp("readme")
    assert forks.run("search", *SHORT, folder=folder).returncode == 0
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text(
        "from torch import nn\n\n\ndef function(num_classes, in_chans):\n"
        "    return nn.Sequential(nn.Conv2d(in_chans, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(16, num_classes))\n"
    )
    network = nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    onnx.export(network, torch.zeros(1, 1, 32, 32), folder / "net.onnx")
    shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=shutil.ignore_patterns("coverage", "latency", "h100"))
    return folder


@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_python(block: int, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", PYTHON[block]], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make(command: str) -> None:
    """What the target would do: the real thing takes minutes and makes an environment of its own."""
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert ("pas search" if "search" in command else "pytest") in done.stdout


def check(command: str, forks: Forks, workplace: Path) -> None:
    words = command.split()
    assert words[0] == "pas"
    if words[1] in ("search", "compare"):
        given = {word.partition("=")[0] for word in words}
        words += SHORT if "experiment" not in "".join(given) else [word for word in SHORT if not word.startswith("train.dense")]
        if words[1] == "compare":  # of methods with different options
            words = [*(word for word in words if not word.startswith("method.options")), "seed=0"]
        if given - {"pas", "search"} and "budget.latency" not in given:  # the default run measures under ONNX Runtime
            words.append("cost.runtime=torch")
        if any(word.startswith(NEEDS_DATA) for word in words):  # 500 images instead of 10,000
            words += ["data.split=val", "data.val_fraction=0.01"]
    if words[1] in ("profile", "benchmark"):  # other tests run beside
        words += ["--spread", "1e9"]
    run = next(workplace.glob("runs/repvgg_nano-digits-pas-macs0.5-*/bundle")).parent.relative_to(workplace)
    names = {"runs/RUN/bundle": f"{run}/bundle", "runs/OTHER": str(run), "runs/RUN": str(run)}
    words = [names.get(word, word) for word in words]
    done = forks.run(*words[1:], folder=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def heavy(command: str) -> list[pytest.MarkDecorator]:
    """Trainings of a large network, latency tables and many processes are made in `-m slow` only (other tests make small ones)."""
    large = ("model=repvgg_a0", "budget.latency", "pas profile", "submitit_local", "pas compare")
    return [pytest.mark.slow] if any(words in command for words in large) else []


CLUSTER = [c for c in COMMANDS if "submitit_slurm" in c]
REAL = [c for c in COMMANDS if c.startswith("pas") and any(word in c for word in NEEDS_DATA) and c not in CLUSTER]
OWN = [c for c in COMMANDS if c.startswith("pas") and c not in (*REAL, *CLUSTER)]


@pytest.mark.parametrize("command", [pytest.param(c, marks=heavy(c)) for c in OWN])
def test_command(command: str, forks: Forks, workplace: Path) -> None:
    check(command, forks, workplace)


@pytest.mark.data
@pytest.mark.parametrize("command", [pytest.param(c, marks=heavy(c)) for c in REAL])
def test_command_on_real_data(command: str, forks: Forks, workplace: Path) -> None:
    check(command, forks, workplace)


@pytest.mark.parametrize("command", CLUSTER)
def test_command_for_a_cluster(command: str) -> None:
    """As far as it goes without one."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher isn't installed")
    words = command.split()
    assert words[:3] == ["pas", "search", "-m"]
    assert launcher(words[3:]).target in CLUSTERS
    assert len(compose_all(words[3:])) == 12


def test_the_readme_shows_all_verbs() -> None:
    for verb in ("search", "compare", "inspect", "profile", "benchmark", "evaluate", "diff", "report", "publish", "table"):
        assert any(command.startswith(f"pas {verb}") for command in COMMANDS)
