"""Random crop, flip and cutout of a whole batch of small images at once."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """Pixels of black border to crop from, mirroring left and right, and the side of the square that is blanked."""

    crop_padding: int
    flip: bool
    cutout: int


def augmented(
    images: Tensor, augment: Augment, generator: torch.Generator, share: slice = slice(None), batch: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Shift, mirror and choose the square of every image of a batch (N, C, H, W) on its own.

    `images` may be only a `share` of a batch of `batch` images: each looks as it would among all of them.

    Returns the images, and what cutout leaves as 0/1 (N, 1, H, W), to be multiplied after normalising, so that the
    blank is the mean colour; None without cutout.
    """
    n, channels, height, width = images.shape
    whole = n if batch is None else batch
    device = images.device
    if augment.crop_padding or augment.flip:
        padding = augment.crop_padding
        top, left = torch.randint(0, 2 * padding + 1, (2, whole, 1), generator=generator)[:, share].to(device)
        rows = top + torch.arange(height, device=device)
        columns = torch.arange(width, device=device).expand(n, width)
        if augment.flip:
            mirrored = torch.rand(whole, 1, generator=generator)[share].to(device) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        # one gather over the flattened padded image does the crop and the flip
        where = rows.unsqueeze(2) * (width + 2 * padding) + (columns + left).unsqueeze(1)
        padded = F.pad(images, (padding,) * 4).flatten(2)
        flat = where.view(n, 1, -1).expand(n, channels, -1)
        images = padded.gather(2, flat).view(n, channels, height, width)
    if not augment.cutout:
        return images, None
    centre = torch.rand(2, whole, 1, generator=generator)[:, share].to(device)
    near_row = _near(centre[0], height, augment.cutout)
    near_column = _near(centre[1], width, augment.cutout)
    return images, ~(near_row.unsqueeze(2) & near_column.unsqueeze(1)).unsqueeze(1)


def _near(centre: Tensor, size: int, side: int) -> Tensor:
    """Which of `size` pixels lie in a window of `side` around `centre` (N, 1) in 0..1, cut at the border: (N, size)."""
    first = (centre * size).long() - side // 2
    place = torch.arange(size, device=centre.device)
    return (place >= first) & (place < first + side)
