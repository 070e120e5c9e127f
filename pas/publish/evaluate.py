"""Measure a bundle on a data set."""

from __future__ import annotations

from pathlib import Path

from pas.data import load, plain_loader
from pas.errors import PasError
from pas.publish import bundle, sealed
from pas.publish.backbone import Backbone
from pas.publish.names import located
from pas.tasks import classification


def evaluate(name_or_folder: str | Path, name: str, root: str | None, entry: str | None = None) -> classification.Metrics:
    """A bundle on the test split of the data set `name`, on the CPU in fp32. `entry`: what makes the dense network, where it was a
    person's own; it comes from that person, never from the bundle.

    Raises PasError when the folder is not a bundle, the data can't be found, or classes or channels don't match.
    """
    folder = located(name_or_folder)
    backbone = Backbone(**sealed.read_config(folder)["pas"]["backbone"])
    data = load(name, root=root, image_size=backbone.image_size, val_fraction=0.0)
    if data.num_classes != backbone.num_classes or data.channels != backbone.in_chans:
        raise PasError(
            f"{folder} tells {backbone.num_classes} classes apart in images of {backbone.in_chans} channels, "
            f"but {name} has {data.num_classes} classes and {data.channels} channels"
        )
    loader = plain_loader(data, data.test, batch_size=500)
    return classification.evaluate(bundle.load(folder, model=backbone.own(entry)), loader, device="cpu", precision="fp32")
