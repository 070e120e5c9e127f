"""What a method looks at before the first step: the task's images, another set's in their shape, or noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pas.compose import compose
from pas.data import Split, load
from pas.data.calibration import foreign, noise
from pas.keys import dense_key, run_key
from pas.pipeline import run

CPU = torch.device("cpu")


def test_noise_is_normal_and_the_same_again() -> None:
    data = load("digits", image_size=16)
    batches = list(noise(data, 256, 0, CPU))
    assert sum(len(y) for _, y in batches) == len(data.train)
    x = torch.cat([x for x, _ in batches])
    assert x.shape[1:] == (1, 16, 16)
    # of 330,000 values the mean is known to 0.0017 and the deviation to 0.0012
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.std()) - 1) < 0.01
    assert torch.equal(next(noise(data, 256, 0, CPU))[0], batches[0][0])
    assert not torch.equal(next(noise(data, 256, 1, CPU))[0], batches[0][0])


def test_another_set_takes_the_shape_and_loses_its_labels() -> None:
    """Digits as colours are grey in every channel; colours of 0, 127.5 and 255 as grey are 0.5, normalised by their own set's numbers."""
    digits = load("digits", image_size=16)
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(12, 3, 16, 16)
    colours = replace(digits, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, train=Split(images, torch.arange(12)))
    x, y = next(foreign(digits, colours, 8, 0, CPU))
    assert x.shape == (8, 3, 16, 16)
    assert torch.equal(x[:, 0], x[:, 2])
    assert y.tolist() == [0] * 8
    x, y = next(foreign(colours, digits, 8, 0, CPU))
    assert x.shape == (8, 1, 16, 16)
    assert x.unique().tolist() == pytest.approx([((0 + 128 + 255) / 3 / 255 - 0.5) / 0.25], abs=1e-6)
    assert y.tolist() == [0] * 8


def test_the_source_is_part_of_the_run_and_not_of_its_parent() -> None:
    plain, other = compose(), compose(["data.calibration=noise"])
    assert run_key(plain) == run_key(compose(["data.calibration=train"])) != run_key(other)
    assert dense_key(plain) == dense_key(other)


@pytest.mark.no_cover
def test_a_method_judges_by_what_it_is_shown(tmp_path: Path) -> None:
    words = ["data.subset=200", "train.dense.epochs=1", "train.search.epochs=0", "train.finetune.epochs=0", "cost.runtime=torch",
             "cost.repeats=3", "cost.warmup=0", "hardware.threads=1", "method=taylor", f"paths.runs={tmp_path}"]  # fmt: skip
    kept = [run(compose([*words, *more]), Console(quiet=True))["run_key"] for more in ([], ["data.calibration=noise"])]
    one, other = (tmp_path / key / "architecture.json" for key in kept)
    assert one.read_text() != other.read_text()
