"""Data sets by name, with a validation split cut from the training images.

`load` reads a set, `make_loader` walks over one of its splits in batches.
"""

import os
from pathlib import Path

from pas.data.load import NAMES, fitted, read
from pas.data.loader import Augment, FolderLoader, Loader, MemoryLoader, make_loader, plain_loader
from pas.data.sets import Data, FolderSplit, Split, stratified
from pas.errors import PasError

__all__ = [
    "NAMES", "Augment", "Data", "FolderLoader", "FolderSplit", "Loader", "MemoryLoader", "Split", "fitted", "load",
    "make_loader", "plain_loader",
]  # fmt: skip


def load(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    val_fraction: float = 0.1,
    subset: int | None = None,
    seed: int = 0,
) -> Data:
    """Read the set `name`: digits, fashion_mnist, cifar10, cifar100 or imagefolder.

    Args:
        root: the folder that holds the set; None means the environment's PAS_DATA. Digits need none.
        image_size: pixels a side; None means the set's own (digits: 32, imagefolder: 224).
        val_fraction: share of the training images that becomes the validation split, in [0, 1).
        subset: train on so many images only; None means all. The validation split is cut from the whole before.
        seed: of the subset and of the validation split. The test split never depends on it.

    Raises:
        PasError: the name is unknown, the files are missing or damaged, or a number is out of its range.
    """
    if name not in NAMES:
        raise PasError(f"no data set is called {name!r}: choose from {', '.join(NAMES)}")
    if not 0 <= val_fraction < 1:
        raise PasError(f"data.val_fraction={val_fraction} must be at least 0 and less than 1")
    data_root = root or os.environ.get("PAS_DATA")
    data = read(name, Path(data_root).expanduser() if data_root else None, image_size)
    chosen, rest = stratified(data.train.labels, round(val_fraction * len(data.train)), seed)
    train, val = data.train.at(rest), data.train.at(chosen)
    if subset is not None:
        if not data.num_classes <= subset <= len(train):
            raise PasError(f"data.subset={subset} must lie between {data.num_classes} (classes) and {len(train)}")
        train = train.at(stratified(train.labels, subset, seed)[0])
    shared = {field: getattr(data, field) for field in ("num_classes", "channels", "image_size", "mean", "std", "test")}
    return Data(name=name, train=train, val=val, **shared)
