"""Reading each set from disk, whole: train (nothing cut off yet), an empty val, test."""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_md5

from pas.data.sets import AnySplit, Data, FolderSplit, Split, stratified
from pas.errors import PasError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = 0.875  # timm's share of an image file that is cut from the centre
SIZES = {"digits": 8, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32}  # pixels a side on disk
DIGITS_TEST_SEED = 1797  # the test split of the digits is always the same one
LAYOUTS = {
    "fashion_mnist": "FashionMNIST/raw/train-images-idx3-ubyte and its three companions",
    "cifar10": "cifar-10-batches-py/data_batch_1 .. 5, test_batch and batches.meta",
    "cifar100": "cifar-100-python/train, test and meta",
    "imagefolder": "train/CLASS/IMAGE and val/CLASS/IMAGE",
}


def read(name: str, root: Path | None, image_size: int | None) -> Data:
    """The set with its original split into training and test images; `image_size` None means its own size."""
    return _READERS[name](root, image_size)


def fitted(name: str, image_size: int) -> str:
    """How the images of a set come to `image_size` pixels a side, as a sentence: what whoever has other images has to do with them."""
    if name == "imagefolder":
        shorter = math.floor(image_size / CROP)
        size = f"{image_size} x {image_size}"
        return f"Files are resized bilinearly (antialiased) to a shorter side of {shorter} pixels, and {size} are cut from the centre."
    own = SIZES[name]
    if own == image_size:
        return f"They are taken as they come, {own} x {own}."
    return f"They are resized bilinearly (antialiased) from {own} x {own}, without a crop."


def _digits(root: Path | None, image_size: int | None) -> Data:
    raw = load_digits()
    # 8x8 images of 0..16; enlarged as real numbers, so that nothing is rounded twice
    pixels = torch.from_numpy(raw.images).unsqueeze(1) * (255 / 16)
    images = _resized(pixels, image_size or 32)
    labels = torch.from_numpy(raw.target).long()
    test, train = stratified(labels, round(0.2 * len(labels)), DIGITS_TEST_SEED)
    everything = Split(images, labels)
    return _data("digits", 10, (0.306,), (0.323,), everything.at(train), everything.at(test), images.shape[-1])


def _fashion_mnist(root: Path | None, image_size: int | None) -> Data:
    parts = [_torchvision("fashion_mnist", datasets.FashionMNIST, root, train) for train in (True, False)]
    train, test = (_split(part.data.unsqueeze(1), part.targets, image_size) for part in parts)
    return _data("fashion_mnist", 10, (0.286,), (0.353,), train, test, train.images.shape[-1])


def _cifar(name: str, kind: type[datasets.CIFAR10], num_classes: int) -> Callable[[Path | None, int | None], Data]:
    def reader(root: Path | None, image_size: int | None) -> Data:
        parts = [_torchvision(name, kind, root, train) for train in (True, False)]
        train, test = (_split(torch.from_numpy(p.data).permute(0, 3, 1, 2), p.targets, image_size) for p in parts)
        return _data(name, num_classes, IMAGENET_MEAN, IMAGENET_STD, train, test, train.images.shape[-1])

    return reader


def _imagefolder(root: Path | None, image_size: int | None) -> Data:
    if root is None:
        raise _missing("imagefolder", root)
    try:
        train, test = (datasets.ImageFolder(str(root / part)) for part in ("train", "val"))
    except FileNotFoundError as error:  # no such folder, or one without images
        empty = re.search(r"no valid file for the classes ([^.]*)", str(error))
        raise _missing("imagefolder", root, f"no image in {empty[1]}" if empty else "") from None
    if train.classes != test.classes:
        raise PasError(f"{root}: train/ and val/ hold different classes")
    first, second = (FolderSplit(tuple(path for path, _ in p.samples), torch.tensor(p.targets)) for p in (train, test))
    return _data("imagefolder", len(train.classes), IMAGENET_MEAN, IMAGENET_STD, first, second, image_size or 224)


def _data(
    name: str,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    train: AnySplit,
    test: AnySplit,
    image_size: int,
) -> Data:
    return Data(name, num_classes, len(mean), image_size, mean, std, train, train.at(torch.arange(0)), test)


def _torchvision(name: str, kind: type, root: Path | None, train: bool) -> datasets.VisionDataset:
    """A set that torchvision reads; CIFAR's files are unpickled only after their md5 sums have been found right."""
    if root is None:
        raise _missing(name, root)
    try:
        return kind(str(root), train=train, download=False)
    # torchvision's answers to missing files, wrong md5 sums, and files that end too early
    except (RuntimeError, ValueError, AssertionError, EOFError, IndexError):
        raise _missing(name, root, _damaged(kind, root)) from None


def _damaged(kind: type[datasets.VisionDataset], root: Path) -> str:
    """The first file of a set that is missing or not what it should be, as "FILE is missing"; "" when none of it is there."""
    if issubclass(kind, datasets.CIFAR10):
        folder = root / kind.base_folder
        sums = {**dict(kind.train_list), **dict(kind.test_list), kind.meta["filename"]: kind.meta["md5"]}
        good: dict[Path, Callable[[Path], bool]] = {folder / name: partial(check_md5, md5=md5) for name, md5 in sums.items()}
    else:
        assert issubclass(kind, datasets.FashionMNIST)
        folder = root / kind.__name__ / "raw"
        good = {folder / Path(url).stem: _complete for url, _ in kind.resources}
    if not folder.is_dir():
        return ""
    for path, intact in good.items():
        if not path.is_file():
            return f"{path.relative_to(root)} is missing"
        if not intact(path):
            return f"{path.relative_to(root)} is damaged or cut off"
    return ""


def _complete(path: Path) -> bool:
    """Whether an IDX file of bytes (MNIST's format) is as long as its header says."""
    with path.open("rb") as file:
        head = file.read(4)
        sizes = [int.from_bytes(file.read(4), "big") for _ in range(head[3] if len(head) == 4 else 0)]
    return bool(sizes) and path.stat().st_size == 4 + 4 * len(sizes) + math.prod(sizes)


def _missing(name: str, root: Path | None, which: str = "") -> PasError:
    where = f"not (or not intact) under {root}" if root else "not found, since no folder was given"
    detail = f" ({which})" if which else ""
    return PasError(f"{name} is {where}{detail}: set data.root= or PAS_DATA to the folder that holds {LAYOUTS[name]}")


def _split(images: Tensor, labels: Tensor | list[int] | np.ndarray, image_size: int | None) -> Split:
    images = images.contiguous()
    if image_size is not None and image_size != images.shape[-1]:
        images = torch.cat([_resized(part.float(), image_size) for part in images.split(1000)])
    return Split(images, torch.as_tensor(labels, dtype=torch.int64))


def _resized(pixels: Tensor, size: int) -> Tensor:
    """Real pixels of 0..255 to bytes of another size, (N, C, H, W) -> (N, C, size, size)."""
    enlarged = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return enlarged.round().clamp(0, 255).to(torch.uint8)


_READERS: dict[str, Callable[[Path | None, int | None], Data]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar("cifar10", datasets.CIFAR10, 10),
    "cifar100": _cifar("cifar100", datasets.CIFAR100, 100),
    "imagefolder": _imagefolder,
}
NAMES = tuple(_READERS)
