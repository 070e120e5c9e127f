"""Bundles the way Hugging Face's libraries hold networks: `pas.Published.from_pretrained(folder)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load as from_bytes
from torch import Tensor, nn

from pas.disk import write_bytes
from pas.errors import PasError, first_line
from pas.publish import bundle, sealed
from pas.publish.names import located

LAST = ("README.md", "config.json")
"""What isn't digested by itself; a bundle is one when its config.json is there."""


class Published(nn.Module, ModelHubMixin, library_name="pas", tags=["pas"]):
    """A network of a bundle, with `from_pretrained`, `save_pretrained` and `push_to_hub`; (N, C, H, W) -> (N, classes).

    `network` is the plain one, as `pas.load` gives it.
    """

    def __init__(self, network: nn.Module, folder: Path) -> None:
        super().__init__()
        self.network, self.folder = network, folder

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, model: nn.Module | None = None, **options: Any
    ) -> Published:
        """The network of a folder, of a published name, or of a repository of the Hub, USER/NAME or USER/NAME@REVISION.

        `model`: the dense network, where it was a person's own. `options`: of `huggingface_hub.snapshot_download`. Raises PasError as
        `pas.load` does, and where nothing is found under that name.
        """
        folder = located(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = snapshot(str(pretrained_model_name_or_path), **options)
        sealed.read_config(folder)  # Hugging Face's code reads it without looking at digests
        found: Published = super().from_pretrained(folder, model=model)
        return found

    @classmethod
    def _from_pretrained(cls, *, model_id: str, model: nn.Module | None = None, **options: Any) -> Published:
        return cls(bundle.load(Path(model_id), model=model), Path(model_id)).eval()

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Copy the bundle, and push it with `push_to_hub=True`. Raises PasError for the folder that it came from, and changed weights."""
        if Path(save_directory).resolve() == self.folder.resolve():
            raise PasError(f"{save_directory} is where this network came from: it is there already")
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        published = from_bytes(sealed.read_file(self.folder, "model.safetensors"))
        current = self.network.state_dict()
        if not all(torch.equal(tensor, current[name].cpu()) for name, tensor in published.items()):
            raise PasError("these are other weights than the bundle's, to which its card belongs: save network.state_dict() instead")
        listed = sealed.read_config(self.folder)["pas"].get("sha256", ())
        content = {name: sealed.read_file(self.folder, name) for name in sorted({*sealed.FILES, *listed} - {*LAST})}
        content |= {name: (self.folder / name).read_bytes() for name in LAST if (self.folder / name).is_file()}
        for name, data in content.items():  # only now, when all of it was found intact
            write_bytes(save_directory / name, data)


def snapshot(repository: str, revision: str | None = None, **options: Any) -> Path:
    """The folder of a bundle on the Hub, USER/NAME or USER/NAME@REVISION, downloaded unless it is in the cache. Raises PasError when it
    can't be had.
    """
    name, _, at = repository.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or at or None, **{k: v for k, v in options.items() if v is not None}))
    except (OSError, ValueError) as error:  # Hugging Face's errors are of these kinds, that of a malformed name of the second
        raise PasError(
            f"no bundle {repository!r}: it is no folder, no published name (PAS_MODELS=FOLDER tells where these are), "
            f"and can't be had from the Hugging Face Hub ({first_line(error)})"
        ) from error
