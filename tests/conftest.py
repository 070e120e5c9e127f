"""Shared by all tests: few threads, and where real data is."""

import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from forks import Forks, keep_operators

from pas.data import Augment, Loader, load, make_loader

matplotlib.use("Agg")
# Tests are many small computations: on a busy machine threads only wait for each other.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "data": None if os.environ.get("PAS_DATA") else "PAS_DATA names no folder with data sets",
        "gpu": None if torch.cuda.is_available() else "there is no CUDA device",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Latency tables of tests lie in a folder of their own."""
    before = os.environ.get("PAS_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["PAS_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["PAS_CACHE"]
    else:
        os.environ["PAS_CACHE"] = before


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements in few rounds and without a second try: other tests run beside, whose noise their conditions have to allow."""
    monkeypatch.setattr("pas.cost.kernels.TRIES", 1)
    monkeypatch.setattr("pas.timing.NEAR", float("inf"))
    monkeypatch.setattr("pas.timing.rounds", lambda dense: 3)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the data sets, for tests marked `data`."""
    return Path(os.environ["PAS_DATA"])


@pytest.fixture(scope="session")
def exporter() -> None:
    """For tests that write many ONNX files."""
    keep_operators()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Processes of `pas` without the time of its imports."""
    one = Forks()
    yield one
    one.close()


@pytest.fixture(scope="session")
def digits() -> Loader:
    """Training batches of 32 digits of 32 pixels."""
    data = load("digits", image_size=32)
    return make_loader(data, data.train, batch_size=32, train=True, augment=Augment(2, False, 0), seed=0, device="cpu", workers=0)
