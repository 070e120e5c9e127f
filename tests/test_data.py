"""Data sets and their loaders: splits, statistics, augmentation as defined, and batches that depend on nothing else."""

import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image

from pas.data import Augment, MemoryLoader, Split, fitted, load, make_loader, stratified
from pas.data.augment import augmented
from pas.errors import PasError

OFF = Augment(crop_padding=0, flip=False, cutout=0)


def plain_loader(split: Split, augment: Augment = OFF, *, seed: int = 0, shuffle: bool = True, drop_last: bool = True):
    return MemoryLoader(
        split, batch_size=8, mean=(0.0,), std=(1 / 255,), augment=augment, seed=seed, device="cpu",
        drop_last=drop_last, shuffle=shuffle,
    )  # fmt: skip


def numbered(count: int, size: int = 6) -> Split:
    """Images whose every pixel is the image's number, which is its label too."""
    labels = torch.arange(count)
    return Split(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous(), labels)


def test_digits_split_is_stratified_and_whole() -> None:
    data = load("digits", val_fraction=0.1)
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 144, 359)
    assert data.train.images.shape[1:] == (1, 32, 32)
    assert data.train.images.dtype == torch.uint8
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, 32)
    classes = sum(split.labels.bincount() for split in (data.train, data.val, data.test))
    for split in (data.train, data.val, data.test):
        assert (split.labels.bincount() - classes * (len(split) / 1797)).abs().max() < 2
    everything = torch.cat([data.train.images, data.val.images, data.test.images]).float().div(255)
    assert everything.mean().item() == pytest.approx(data.mean[0], abs=2e-3)
    assert everything.std().item() == pytest.approx(data.std[0], abs=2e-3)


def test_digits_enlarge_the_scans() -> None:
    from sklearn.datasets import load_digits

    scans = torch.from_numpy(load_digits().images).unsqueeze(1) * (255 / 16)
    data = load("digits", image_size=8, val_fraction=0)
    found = torch.cat([data.train.images, data.test.images]).double().sum((1, 2, 3)).sort().values
    assert torch.allclose(found, scans.round().sum((1, 2, 3)).sort().values)
    assert load("digits", image_size=16).train.images.shape[-1] == 16


def test_seed_moves_the_validation_split_and_never_the_test_split() -> None:
    first, same, other = (load("digits", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.val.images, same.val.images)
    assert not torch.equal(first.val.images, other.val.images)
    assert torch.equal(first.test.images, other.test.images)


def test_no_image_is_in_two_splits() -> None:
    data = load("digits")
    train, val, test = ({image.numpy().tobytes() for image in s.images} for s in (data.train, data.val, data.test))
    assert not train & val
    assert not (train | val) & test


def test_validation_may_be_empty_and_a_subset_is_small_and_stratified() -> None:
    assert len(load("digits", val_fraction=0).val) == 0
    data = load("digits", subset=200, val_fraction=0.25)
    # 1,438 images are not of the test split: a quarter of them, 360 (359.5 rounds to even), is cut off before 200 are chosen
    assert (len(data.train), len(data.val), len(data.test)) == (200, 360, 359)
    assert data.train.labels.bincount().min() >= 18


@pytest.mark.parametrize(("count", "total"), [(0, 10), (1, 10), (7, 100), (100, 100), (333, 1000)])
def test_stratified_takes_a_share_of_every_class(count: int, total: int) -> None:
    labels = torch.randint(0, 4, (total,), generator=torch.Generator().manual_seed(0))
    chosen, rest = stratified(labels, count, seed=0)
    assert len(chosen) == count
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(total))
    share = labels.bincount(minlength=4) * (count / total)
    assert (labels[chosen].bincount(minlength=4) - share).abs().max() <= 1


def test_mistakes_are_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("PAS_DATA", raising=False)
    with pytest.raises(PasError, match="choose from digits"):
        load("mnist")
    with pytest.raises(PasError, match=r"data.val_fraction=1.0"):
        load("digits", val_fraction=1.0)
    with pytest.raises(PasError, match=r"data.subset=5 must lie between 10 \(classes\) and 1294"):
        load("digits", subset=5)
    for name, layout in {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "fashion_mnist": "raw",
                         "imagefolder": "train/CLASS"}.items():  # fmt: skip
        for root in (None, tmp_path):
            with pytest.raises(PasError, match=f"{name} is not .*data.root= or PAS_DATA .*{layout}"):
                load(name, root=root)


def test_an_epoch_is_every_image_once_and_normalised() -> None:
    loader = plain_loader(numbered(20), drop_last=False)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 3
    for x, y in batches:
        assert torch.allclose(x, y.float().view(-1, 1, 1, 1).expand_as(x), atol=1e-4)  # mean 0, std 1/255
    assert torch.cat([y for _, y in batches]).sort().values.tolist() == list(range(20))
    normal = MemoryLoader(numbered(8), batch_size=8, mean=(0.01,), std=(0.5,), augment=OFF, seed=0, device="cpu",
                          drop_last=False, shuffle=False)  # fmt: skip
    (x, y) = next(normal.epoch(0))
    assert torch.allclose(x[:, 0, 0, 0], (y / 255 - 0.01) / 0.5, atol=1e-6)


def test_batches_depend_on_seed_epoch_and_number_only() -> None:
    augment = Augment(crop_padding=2, flip=True, cutout=2)
    split = load("digits", subset=100).train
    one = list(plain_loader(split, augment).epoch(3))
    torch.manual_seed(99)
    again = list(plain_loader(split, augment).epoch(3, start=4))
    for (x, y), (p, q) in zip(one[4:], again, strict=True):
        assert torch.equal(x, p)
        assert torch.equal(y, q)
    for other in (plain_loader(split, augment, seed=1).epoch(3), plain_loader(split, augment).epoch(2)):
        assert not torch.equal(one[0][0], next(other)[0])


def test_crop_and_flip_are_windows_of_the_padded_image() -> None:
    images = torch.randint(1, 256, (64, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out, keep = augmented(images, Augment(crop_padding=1, flip=True, cutout=0), torch.Generator().manual_seed(0))
    assert keep is None
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    seen = set()
    for image, source in zip(out, padded, strict=True):
        windows = {
            (top, left, flip): source[:, top : top + 5, left : left + 5].flip(-1) if flip
            else source[:, top : top + 5, left : left + 5]
            for top, left, flip in itertools.product(range(3), range(3), (False, True))
        }  # fmt: skip
        matches = [key for key, window in windows.items() if torch.equal(window, image)]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 12  # of 18 possible ones


def test_flip_alone_leaves_half_and_mirrors_half() -> None:
    images = torch.arange(3, dtype=torch.uint8).view(1, 1, 1, 3).expand(400, 1, 1, 3)
    out, _ = augmented(images, Augment(0, True, 0), torch.Generator().manual_seed(0))
    assert {tuple(row) for row in out[:, 0, 0].tolist()} == {(0, 1, 2), (2, 1, 0)}
    assert 160 < (out[:, 0, 0, 0] == 0).sum() < 240


def test_cutout_blanks_one_square_to_the_mean() -> None:
    loader = plain_loader(Split(torch.full((8, 1, 12, 12), 200, dtype=torch.uint8), torch.zeros(8).long()),
                          Augment(0, False, 4))  # fmt: skip
    x, _ = next(loader.epoch(0))
    blank = (x == 0).sum((1, 2, 3))
    assert blank.max() == 16
    assert blank.min() >= 4
    assert len({tuple(image.flatten().tolist()) for image in x}) > 4


def test_training_loader_shuffles_and_drops_the_rest_and_the_other_does_neither() -> None:
    data = load("digits", subset=100, val_fraction=0.3)
    options = {"batch_size": 32, "augment": Augment(2, True, 2), "seed": 0, "device": "cpu", "workers": 0}
    train = make_loader(data, data.train, train=True, **options)
    val = make_loader(data, data.val, train=False, **options)
    assert (len(train), len(val)) == (3, 14)  # 100 images without the rest; 431 with it
    x, y = next(val.epoch(0))
    assert torch.equal(y, data.val.labels[:32])
    assert torch.allclose(x, (data.val.images[:32] / 255 - data.mean[0]) / data.std[0], atol=1e-5)
    assert [y.tolist() for _, y in train.epoch(0)] != [y.tolist() for _, y in train.epoch(1)]
    large = make_loader(data, data.train, train=True, **{**options, "batch_size": 4096})
    assert [len(y) for _, y in large.epoch(0)] == [100]


@pytest.fixture
def folder(tmp_path):
    """Ten images in two classes: reddish and bluish ones, of different sizes."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1)):
        for index, kind in enumerate(("blue", "red")):
            (tmp_path / part / kind).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 120, (40 + number, 50, 3), dtype=np.uint8)
                pixels[..., 0 if index else 2] += 120
                Image.fromarray(pixels).save(tmp_path / part / kind / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_folder_batches_depend_on_seed_epoch_and_number_only(folder, workers: int) -> None:
    data = load("imagefolder", root=folder, image_size=32, val_fraction=0.25)
    assert (len(data.train), len(data.val), len(data.test), data.num_classes) == (6, 2, 2, 2)
    options = {"batch_size": 2, "train": True, "augment": Augment(0, True, 0), "seed": 0, "device": "cpu"}
    loader = make_loader(data, data.train, workers=workers, **options)
    alone = make_loader(data, data.train, workers=0, **options)
    before = torch.get_rng_state(), random.getstate()
    whole, rest = list(loader.epoch(1)), list(alone.epoch(1, start=1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert len(whole) == len(loader) == 3
    assert whole[0][0].shape == (2, 3, 32, 32)
    for (x, y), (p, q) in zip(whole[1:], rest, strict=True):
        assert torch.equal(x, p)
        assert torch.equal(y, q)
    assert not torch.equal(whole[0][0], next(loader.epoch(2))[0])
    for x, y in whole:
        assert ((x[:, 0].mean((1, 2)) > x[:, 2].mean((1, 2))) == (y == 1)).all()  # decoded with their own label


def test_files_come_to_their_size_as_is_said(folder) -> None:
    """By PIL alone: a shorter side of floor(32 / 0.875) = 36 pixels, and the middle of it."""
    assert "to a shorter side of 36 pixels, and 32 x 32 are cut from the centre" in fitted("imagefolder", 32)
    data = load("imagefolder", root=folder, image_size=32)
    images, _ = next(make_loader(data, data.test, batch_size=2, train=False, augment=OFF, seed=0, device="cpu", workers=0).epoch(0))
    with Image.open(data.test.paths[0]) as file:  # 50 x 40
        whole = file.resize((45, 36), Image.Resampling.BILINEAR).crop((6, 2, 38, 34))
    wanted = torch.from_numpy(np.asarray(whole).copy()).permute(2, 0, 1) / 255
    wanted = (wanted - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)
    torch.testing.assert_close(images[0], wanted, atol=1e-5, rtol=0)


def test_folders_with_different_classes_are_refused(folder) -> None:
    (folder / "val" / "red").rename(folder / "val" / "green")
    with pytest.raises(PasError, match="different classes"):
        load("imagefolder", root=folder)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "channels", "size", "train", "val"),
    [("cifar10", 3, 32, 45000, 5000), ("fashion_mnist", 1, 28, 54000, 6000)],
)
def test_real_sets(name: str, channels: int, size: int, train: int, val: int, data_root) -> None:
    data = load(name, root=data_root, val_fraction=0.1)
    assert (len(data.train), len(data.val), len(data.test)) == (train, val, 10000)
    assert data.train.images.shape[1:] == (channels, size, size)
    assert data.image_size == size
    assert (data.val.labels.bincount() == val // 10).all()
    assert (data.test.labels.bincount() == 1000).all()
    if channels == 1:
        pixels = data.train.images.float() / 255
        assert pixels.mean().item() == pytest.approx(data.mean[0], abs=2e-3)
        assert pixels.std().item() == pytest.approx(data.std[0], abs=2e-3)


@pytest.mark.data
def test_damaged_cifar_is_never_unpickled(data_root, tmp_path) -> None:
    source, copy = data_root / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py"
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).symlink_to(path.resolve())
    (copy / "test_batch").unlink()
    (copy / "test_batch").write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # a pickle that would run a command
    with pytest.raises(PasError, match=r"cifar10 is not .*intact"):
        load("cifar10", root=tmp_path)
