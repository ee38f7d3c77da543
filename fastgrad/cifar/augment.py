"""Batches out of a data set in memory, augmented as tensors, the same for the same (seed, epoch, batch).

Nothing here has a state: the order of an epoch and the random numbers of a batch are drawn from generators
keyed by (seed, epoch, batch), so a run that is resumed anywhere sees the batches it would have seen.

Crop, flip and the geometric operations are one map from output to source pixels, so an image is gathered once
(nearest neighbour). Pixels from outside the image are 0 before normalization, that is black, as when
torchvision's RandomCrop stands before Normalize.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgrad.cifar.data import Dataset

Augment = Literal["none", "plain", "strong"]
STRONG_LABEL_SMOOTHING = 0.1
STRONG_OPERATIONS = 2  # per image
MIX_PROBABILITY = 0.8  # of a batch under "strong"; half of them MixUp, half CutMix

_ORDER, _BATCH = 0, 1  # what a generator is for; part of its key


@dataclass(frozen=True)
class Batch:
    """Normalised images and their labels; mixed images have a second label with the rest of the weight."""

    images: Tensor  # float32 [B, C, H, W]
    labels: Tensor  # int64 [B]
    other_labels: Tensor  # int64 [B]
    share: float  # weight of labels; other_labels have 1 - share

    def loss(self, logits: Tensor, label_smoothing: float) -> Tensor:  # [B, classes] -> []
        loss = F.cross_entropy(logits, self.labels, label_smoothing=label_smoothing)
        if self.share == 1.0:
            return loss
        other = F.cross_entropy(logits, self.other_labels, label_smoothing=label_smoothing)
        return self.share * loss + (1 - self.share) * other


class Batches:
    """The training set in batches. ``epoch(e, start)`` gives those of epoch e from batch ``start`` on."""

    def __init__(
        self,
        data: Dataset,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        channels_last: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        # Pixel rows of all channels lie together, so that gathering a pixel is one copy.
        self.images = data.train_x.permute(0, 2, 3, 1).contiguous().to(device)  # uint8 [N, H, W, C]
        self.labels = data.train_y.to(device)
        self.mean, self.std = (torch.tensor(v, device=device) * 255 for v in (data.mean, data.std))  # [C]
        self.batch_size, self.augment, self.seed, self.flip = batch_size, augment, seed, data.flip
        self.channels_last = channels_last
        self.pad = max(1, data.train_x.shape[-1] // 8)  # 4 pixels at 32x32

    def __len__(self) -> int:
        return batches_per_epoch(len(self.labels), self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.labels), generator=_generator(self.seed, _ORDER, epoch))
        for batch in range(start, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size].to(self.labels.device)
            yield self._batch(chosen, _generator(self.seed, _BATCH, epoch, batch))

    def _batch(self, chosen: Tensor, generator: torch.Generator) -> Batch:
        images, labels = self.images.index_select(0, chosen), self.labels.index_select(0, chosen)
        if self.augment == "none":
            return Batch(self._normalised(images), labels, labels, 1.0)
        source = _crop_and_flip(len(images), self.pad, self.flip, generator)
        if self.augment == "plain":
            return Batch(self._normalised(_gather(images, source.to(images.device))), labels, labels, 1.0)
        choices = torch.randint(len(OPERATIONS), (len(images), STRONG_OPERATIONS), generator=generator)
        strength = torch.rand(choices.shape, generator=generator)
        sign = torch.randint(2, choices.shape, generator=generator) * 2.0 - 1
        images = _gather(
            images, _with_geometry(source, choices, strength * sign, images.shape[1]).to(images.device)
        )
        images = images.permute(0, 3, 1, 2).float().contiguous()
        images = _photometry(images, choices, strength, sign)
        return _mixed(self._normalised(images.permute(0, 2, 3, 1)), labels, generator)

    def _normalised(self, images: Tensor) -> Tensor:  # [B, H, W, C] -> float32 [B, C, H, W]
        images = images.float().sub_(self.mean).div_(self.std).permute(0, 3, 1, 2)
        return images.contiguous(
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format
        )


def batches_per_epoch(images: int, batch_size: int) -> int:
    # A remainder of one image is left out: batch normalization has no variance of one value.
    full, rest = divmod(images, batch_size)
    return full + (rest > 1)


def normalised(images: Tensor, data: Dataset) -> Tensor:  # uint8 [B, C, H, W] -> float32 [B, C, H, W]
    """Test images the way training images are normalised."""
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(v, device=images.device).view(shape) * 255 for v in (data.mean, data.std))
    return (images.float() - mean) / std


def _generator(*key: int) -> torch.Generator:
    # SeedSequence mixes the key well: neighbouring batches get unrelated streams.
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed)


def _crop_and_flip(count: int, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """[B, 2, 3]: source (x, y), from the centre, of an output pixel (x, y, 1). Whole pixels, so exact."""
    source = torch.zeros(count, 2, 3)
    source[:, :, 2] = torch.randint(-pad, pad + 1, (count, 2), generator=generator).float()
    mirrored = torch.randint(2, (count,), generator=generator) if flip else torch.zeros(count)
    source[:, 0, 0] = 1.0 - 2.0 * mirrored
    source[:, 1, 1] = 1.0
    return source


def _gather(images: Tensor, source: Tensor) -> Tensor:  # uint8 [B, H, W, C], [B, 2, 3] -> uint8 [B, H, W, C]
    count, size = images.shape[0], images.shape[1]
    line = torch.arange(size, device=images.device) - (size - 1) / 2
    x, y = (
        (
            axis[:, 0, None, None] * line
            + (axis[:, 1, None] * line + axis[:, 2, None] + (size - 1) / 2)[:, :, None]
        )
        .round_()
        .clamp_(-1, size)
        for axis in source.unbind(1)
    )  # of the source pixel, [B, H, W]; -1 and size are outside
    bordered = F.pad(images, (0, 0, 1, 1, 1, 1))  # a black border takes the place of every pixel outside
    first = torch.arange(count, device=images.device) * (size + 2) ** 2 + (size + 3)
    row = (y * (size + 2) + x).long() + first[:, None, None]
    return bordered.view(-1, images.shape[3]).index_select(0, row.view(-1)).view(images.shape)


def _with_geometry(source: Tensor, choices: Tensor, amount: Tensor, size: int) -> Tensor:
    """Append the chosen geometric operations to the map of crop and flip; amount is in [-1, 1]."""
    amounts = {name: torch.where(choices == OPERATIONS.index(name), amount, 0.0) for name in GEOMETRY}
    angle = amounts["rotate"] * (torch.pi / 6)
    step = torch.zeros(*choices.shape, 3, 3)
    step[..., 0, 0] = step[..., 1, 1] = angle.cos()
    step[..., 0, 1] = 0.3 * amounts["shear_x"] - angle.sin()
    step[..., 1, 0] = 0.3 * amounts["shear_y"] + angle.sin()
    step[..., 0, 2] = 0.3 * size * amounts["shift_x"]
    step[..., 1, 2] = 0.3 * size * amounts["shift_y"]
    step[..., 2, 2] = 1.0
    for slot in range(choices.shape[1]):
        source = source @ step[:, slot]
    return source


def _photometry(images: Tensor, choices: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Apply the chosen operations on values (in [0, 255]), each to the group of images that drew it."""
    for slot in range(choices.shape[1]):
        for name, operation in PHOTOMETRY.items():
            rows = (choices[:, slot] == OPERATIONS.index(name)).nonzero().squeeze(1)
            if len(rows):
                s, d = (v[rows, slot].view(-1, 1, 1, 1).to(images.device) for v in (strength, sign))
                rows = rows.to(images.device)
                images.index_copy_(0, rows, operation(images.index_select(0, rows), s, d).clamp_(0, 255))
    return images


def _grey(x: Tensor) -> Tensor:  # [b, C, H, W] -> [b, 1, H, W]
    return x if x.shape[1] == 1 else 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def _blend(base: Tensor, x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    """Away from ``base`` (d = 1) or toward it (d = -1), by up to nine tenths."""
    return base + (x - base) * (1 + 0.9 * s * d)


def _brightness(x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    return x * (1 + 0.9 * s * d)


def _contrast(x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    return _blend(_grey(x).mean((2, 3), keepdim=True), x, s, d)


def _colour(x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    return _blend(_grey(x), x, s, d)


def _sharpness(x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = x.clone()  # the border stays, as in Pillow's ImageEnhance.Sharpness, whose kernel this is
    smooth[:, :, 1:-1, 1:-1] = (box + 4 * x[:, :, 1:-1, 1:-1]) / 13
    return _blend(smooth, x, s, d)


def _posterize(x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    gap = torch.exp2((4 * s).round())  # one to four bits fewer
    return (x / gap).floor() * gap


def _solarize(x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    return torch.where(x >= 255 * (1 - s), 255 - x, x)


def _autocontrast(x: Tensor, s: Tensor, d: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp(min=1)), x)


GEOMETRY = ("rotate", "shear_x", "shear_y", "shift_x", "shift_y")
PHOTOMETRY: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "colour": _colour,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
}
OPERATIONS = ("identity", *GEOMETRY, *PHOTOMETRY)


def _mixed(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    """MixUp(alpha=1), CutMix(beta=1) or neither; an image's partner is its neighbour (order is random)."""
    kind, share, x, y = torch.rand(4, generator=generator).tolist()  # Beta(1, 1) is uniform
    if kind >= MIX_PROBABILITY:
        return Batch(images, labels, labels, 1.0)
    partner, other = images.roll(1, 0), labels.roll(1, 0)
    if kind < MIX_PROBABILITY / 2:
        return Batch(torch.lerp(partner, images, share), labels, other, share)
    height, width = images.shape[2:]
    side = (1 - share) ** 0.5
    top, bottom = (round(min(max(y + half, 0.0), 1.0) * height) for half in (-side / 2, side / 2))
    left, right = (round(min(max(x + half, 0.0), 1.0) * width) for half in (-side / 2, side / 2))
    images[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
    # The box was clipped and rounded to pixels: the labels weigh what is really seen.
    return Batch(images, labels, other, 1 - (bottom - top) * (right - left) / (height * width))
