"""Parameter counts by hand, shapes, shortcuts, and the modules between blocks."""

import itertools

import pytest
import torch
from torch import nn

from fastgrad.cifar import models
from fastgrad.cifar.errors import UsageError


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def resnet_by_hand(depth: int, classes: int, channels: int) -> int:
    n = (depth - 2) // 6

    def convolution(inputs, outputs):
        return 9 * inputs * outputs + 2 * outputs  # the weights, and scale and shift of the batch norm

    total = convolution(channels, 16) + 2 * n * convolution(16, 16)
    for before, width in ((16, 32), (32, 64)):
        total += convolution(before, width) + (2 * n - 1) * convolution(width, width)
    return total + 64 * classes + classes


@pytest.mark.parametrize(("name", "depth", "known"), [("resnet20", 20, 269_722), ("resnet56", 56, 853_018)])
def test_resnet_has_the_parameters_of_an_option_a_net(name, depth, known):
    model = models.build(name, 10, 3)
    # Projections (option B) would add 16*32 + 2*32 + 32*64 + 2*64 = 2,752.
    assert count(model) == resnet_by_hand(depth, 10, 3) == known
    assert len(list(model.parameters())) == 3 * (depth - 1) + 2


def test_vgg_has_the_parameters_of_configuration_d():
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    by_hand = sum(9 * a * b + b + 2 * b for a, b in itertools.pairwise(widths)) + 512 * 10 + 10
    assert count(models.build("vgg16_bn", 10, 3)) == by_hand == 14_728_266


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize(("channels", "size", "classes"), [(3, 32, 100), (1, 8, 10)])
def test_model_maps_images_to_classes(name, channels, size, classes):
    model = models.build(name, classes, channels)
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, classes)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_option_a_shortcut_subsamples_and_pads_with_zero_channels():
    block = models.BasicBlock(16, 32, 2)
    x = torch.randn(2, 16, 8, 8)
    y = block.shortcut(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()
    assert count(block) == 9 * 16 * 32 + 9 * 32 * 32 + 4 * 32


@pytest.mark.parametrize(("name", "places"), [("resnet20", 10), ("vgg16_bn", 13), ("small", 3)])
def test_backward_modules_stand_after_stem_and_blocks(name, places):
    seen = []

    class Spy(nn.Module):
        def __init__(self, place):
            super().__init__()
            self.place = place

        def forward(self, x):
            seen.append(self.place)
            return x

    model = models.build(name, 10, 3, Spy)
    model(torch.randn(2, 3, 32, 32))
    assert seen == list(range(places))
    assert count(model) == count(models.build(name, 10, 3))


def test_same_torch_seed_gives_same_weights():
    def weights():
        torch.manual_seed(3)
        return models.build("resnet20", 10, 3).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unknown_model_names_the_known_ones():
    with pytest.raises(UsageError, match="resnet20, resnet56, vgg16_bn, small; got 'resnet21'"):
        models.build("resnet21", 10, 3)
