"""What the batches hold: the right pixels, always the same for a place, every image once an epoch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastgrad.cifar import augment, data
from fastgrad.cifar.augment import Batches


def dataset(count=40, size=32, channels=3, flip=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    y = torch.arange(count)  # the label tells which image it was
    # mean 0 and std 1/255: batches then hold plain pixel values.
    return data.Dataset(x, y, x, y, tuple(map(str, range(count))), "test", (0.0,) * channels,
                        (1 / 255,) * channels, flip)  # fmt: skip


def equal(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.share == b.share


@pytest.mark.parametrize("kind", ["none", "plain", "strong"])
def test_batches_depend_on_seed_epoch_and_batch_only(kind):
    def run(seed, epoch, start=0):
        return list(Batches(dataset(), batch_size=16, augment=kind, seed=seed).epoch(epoch, start))

    whole = run(1, 2)
    assert [len(batch.labels) for batch in whole] == [16, 16, 8]
    assert all(map(equal, whole, run(1, 2)))
    assert equal(run(1, 2, start=2)[0], whole[2])
    assert not equal(run(1, 3)[0], whole[0]) and not equal(run(2, 2)[0], whole[0])


def test_an_epoch_holds_every_image_once():
    labels = torch.cat(
        [batch.labels for batch in Batches(dataset(), batch_size=16, augment="plain", seed=0).epoch(0)]
    )
    assert sorted(labels.tolist()) == list(range(40))


def test_a_last_batch_of_one_image_is_left_out():
    batches = Batches(dataset(33), batch_size=16, augment="none", seed=0)
    assert len(batches) == 2 and len(list(batches.epoch(0))) == 2


def test_none_gives_the_normalised_images():
    source = dataset()
    batches = Batches(source, batch_size=8, augment="none", seed=0)
    batches.mean, batches.std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 3.0, 4.0])
    batch = next(batches.epoch(0))
    shape = (3, 1, 1)
    expected = (source.train_x[batch.labels].float() - batches.mean.view(shape)) / batches.std.view(shape)
    assert torch.equal(batch.images, expected)


def test_training_and_test_images_are_normalised_alike():
    source = data.load("digits", limit_train=20)
    batch = next(Batches(source, batch_size=20, augment="none", seed=0).epoch(0))
    order = torch.cat(
        [batch.labels]
    )  # with the limit there are two of every class; compare as sets of images
    expected = augment.normalised(source.train_x, source)
    distances = torch.cdist(batch.images.flatten(1), expected.flatten(1)).min(1).values
    assert len(order) == 20 and distances.max() < 1e-4


@pytest.mark.parametrize(("size", "flip"), [(32, True), (8, False)])
def test_plain_is_a_shifted_image_mirrored_or_not(size, flip):
    source = dataset(size=size, flip=flip)
    pad = size // 8
    seen = set()
    for epoch in range(4):
        for batch in Batches(source, batch_size=16, augment="plain", seed=0).epoch(epoch):
            for image, label in zip(batch.images, batch.labels, strict=True):
                original = F.pad(source.train_x[label].float(), (pad,) * 4)
                found = [
                    (dy, dx, mirrored)
                    for mirrored in (False, True)
                    for dy in range(2 * pad + 1)
                    for dx in range(2 * pad + 1)
                    if torch.equal(image, _cut(original, dy, dx, size, mirrored))
                ]
                assert len(found) == 1
                seen.add(found[0])
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})
    assert {dy for dy, _, _ in seen} == {dx for _, dx, _ in seen} == set(range(2 * pad + 1))


def _cut(padded, dy, dx, size, mirrored):
    image = padded[:, dy : dy + size, dx : dx + size]
    return image.flip(2) if mirrored else image


def test_channels_last_changes_the_layout_only():
    for kind in ("plain", "strong"):
        rows, last = (
            next(Batches(dataset(), batch_size=16, augment=kind, seed=0, channels_last=flag).epoch(0))
            for flag in (False, True)
        )
        assert equal(rows, last)
        assert rows.images.is_contiguous() and last.images.is_contiguous(memory_format=torch.channels_last)


def _geometry(name, amount, images):
    source = torch.eye(2, 3).repeat(len(images), 1, 1)
    choices = torch.full((len(images), 1), augment.OPERATIONS.index(name))
    amounts = torch.full((len(images), 1), amount)
    mapped = augment._with_geometry(source, choices, amounts, images.shape[1])
    return augment._gather(images, mapped)


def test_geometric_operations_move_pixels_where_they_should():
    images = dataset(4).train_x.permute(0, 2, 3, 1).contiguous()  # [4, 32, 32, 3]
    assert torch.equal(_geometry("identity", 1.0, images), images)
    shifted = _geometry("shift_x", 5 / (0.3 * 32), images)
    assert torch.equal(shifted[:, :, :27], images[:, :, 5:]) and not shifted[:, :, 27:].any()
    quarter = _geometry("rotate", 3.0, images)  # 3 * 30 degrees
    assert torch.equal(quarter, images.rot90(1, (1, 2))) or torch.equal(quarter, images.rot90(-1, (1, 2)))
    sheared = _geometry("shear_y", 0.0, images)
    assert torch.equal(sheared, images)


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", "Brightness"), ("contrast", "Contrast"), ("colour", "Color"), ("sharpness", "Sharpness")],
)
def test_operations_on_values_agree_with_pillow(name, enhancer):
    from PIL import Image, ImageEnhance

    images = dataset(3).train_x
    strength, sign = torch.full((3, 1, 1, 1), 0.5), torch.full((3, 1, 1, 1), -1.0)
    ours = augment.PHOTOMETRY[name](images.float(), strength, sign).clamp(0, 255)
    for image, mine in zip(images, ours, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        theirs = np.asarray(getattr(ImageEnhance, enhancer)(picture).enhance(1 - 0.9 * 0.5))
        # Pillow rounds grey values and results to whole numbers.
        assert np.abs(mine.permute(1, 2, 0).numpy() - theirs.astype(np.float32)).max() < 2


def test_other_operations_on_values():
    x = torch.tensor([0.0, 37.0, 100.0, 200.0]).view(1, 1, 2, 2)
    one = torch.ones(1, 1, 1, 1)
    assert augment.PHOTOMETRY["posterize"](x, 0.5 * one, one).flatten().tolist() == [0, 36, 100, 200]
    assert augment.PHOTOMETRY["solarize"](x, 0.5 * one, one).flatten().tolist() == [0, 37, 100, 55]
    stretched = augment.PHOTOMETRY["autocontrast"](x, one, one).flatten()
    assert stretched[0] == 0 and stretched[3] == 255
    flat = torch.full((1, 3, 4, 4), 9.0)
    assert torch.equal(augment.PHOTOMETRY["autocontrast"](flat, one, one), flat)


@pytest.mark.parametrize("channels", [1, 3])
def test_strong_stays_in_range_and_uses_every_operation(channels):
    source = dataset(64, channels=channels)
    for batch in Batches(source, batch_size=64, augment="strong", seed=0).epoch(0):
        assert batch.images.min() >= 0 and batch.images.max() <= 255.001
        assert 0 <= batch.share <= 1
    assert len(augment.OPERATIONS) == 13


def test_mixed_labels_weigh_what_is_seen():
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 16, 16).contiguous()
    labels = torch.arange(8)
    kinds = set()
    for seed in range(40):
        batch = augment._mixed(images.clone(), labels, torch.Generator().manual_seed(seed))
        partner = images.roll(1, 0)
        assert torch.equal(batch.labels, labels)
        if torch.equal(batch.other_labels, labels):
            assert batch.share == 1 and torch.equal(batch.images, images)
            kinds.add("neither")
            continue
        assert torch.equal(batch.other_labels, labels.roll(1))
        # The mean of an image of constants is the mix of the two constants.
        mixed = batch.share * images + (1 - batch.share) * partner
        assert torch.allclose(batch.images.mean((1, 2, 3)), mixed.mean((1, 2, 3)), atol=1e-5)
        kinds.add("mixup" if torch.allclose(batch.images, mixed, atol=1e-5) else "cutmix")
    assert kinds == {"neither", "mixup", "cutmix"}


def test_loss_of_a_mixed_batch_is_the_weighted_one():
    logits = torch.randn(4, 3)
    a, b = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
    loss = augment.Batch(torch.empty(0), a, b, 0.3).loss(logits, 0.1)
    targets = 0.3 * F.one_hot(a, 3) + 0.7 * F.one_hot(b, 3)
    assert torch.allclose(loss, F.cross_entropy(logits, targets, label_smoothing=0.1))
