"""Bundles the way Hugging Face's libraries hold networks: `pas.Published.from_pretrained(folder)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load as from_bytes
from torch import Tensor, nn

from pas.disk import write_bytes
from pas.errors import PasError
from pas.publish import bundle


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
    def _from_pretrained(cls, *, model_id: str, model: nn.Module | None = None, **options: Any) -> Published:
        """`model`: the dense network, where it was a person's own. Raises PasError as `pas.load` does."""
        folder = Path(model_id) if Path(model_id).is_dir() else snapshot(model_id, **options)
        return cls(bundle.load(folder, model=model), folder).eval()

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Copy the bundle, and push it with `push_to_hub=True`. Raises PasError for the folder that it came from, and changed weights."""
        if Path(save_directory).resolve() == self.folder.resolve():
            raise PasError(f"{save_directory} is where this network came from: it is there already")
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        published = from_bytes(bundle.read_file(self.folder, "model.safetensors"))
        current = self.network.state_dict()
        if not all(torch.equal(tensor, current[name].cpu()) for name, tensor in published.items()):
            raise PasError("these are other weights than the bundle's, to which its card belongs: save network.state_dict() instead")
        own = ("README.md", "config.json")
        for name in sorted({*bundle.FILES, *bundle.read_config(self.folder)["pas"].get("sha256", ())} - {*own}):
            write_bytes(save_directory / name, bundle.read_file(self.folder, name))
        for name in own:
            write_bytes(save_directory / name, (self.folder / name).read_bytes())


def snapshot(repository: str, revision: str | None = None, **options: Any) -> Path:
    """The folder of a bundle on the Hub, USER/NAME or USER/NAME@REVISION, downloaded unless it is in the cache."""
    name, _, at = repository.partition("@")
    return Path(snapshot_download(name, revision=revision or at or None, **{k: v for k, v in options.items() if v is not None}))
