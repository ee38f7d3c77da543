"""The networks of the experiments: He-style CIFAR ResNets, VGG-16-BN and a small net for quick runs.

``build(name, classes, channels, backward)`` makes one. ``backward`` is an optional factory
``place -> nn.Module``; its modules are put after the stem and after every block, so that the gradient is
treated each time it passes from one block to the one below (``fastgrad.nn.TreatGradient`` is an identity in
the forward direction).
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fastgrad.cifar.errors import UsageError

Backward = Callable[[int], nn.Module]


class _Identities:
    """Hands out the modules that go between blocks, numbered from 0; nothing where no factory was given."""

    def __init__(self, backward: Backward | None) -> None:
        self.backward, self.count = backward, 0

    def __call__(self) -> list[nn.Module]:
        if self.backward is None:
            return []
        self.count += 1
        return [self.backward(self.count - 1)]


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    # Without bias: the batch normalization that follows would subtract it.
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an option-A shortcut: subsample and pad with zero channels, no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _convolution(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def shortcut(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C + missing, H / stride, W / stride]
        if self.stride == 1 and self.missing == 0:
            return x
        before = self.missing // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """He et al. 2015, section 4.2: depth = 6 n + 2, widths 16, 32, 64, Kaiming-normal weights."""

    def __init__(self, depth: int, classes: int, channels: int, backward: Backward | None) -> None:
        super().__init__()
        between = _Identities(backward)
        self.conv1, self.bn1 = _convolution(channels, 16), nn.BatchNorm2d(16)
        blocks: list[nn.Module] = between()
        width = 16
        for outputs, first_stride in ((16, 1), (32, 2), (64, 2)):
            for place in range((depth - 2) // 6):
                blocks += [BasicBlock(width, outputs, first_stride if place == 0 else 1), *between()]
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:  # [N, channels, H, W] -> [N, classes]
        y = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.linear(y.mean((2, 3)))


class VGG(nn.Module):
    """Configuration D with batch normalization, an average pool to 1x1 and one linear layer."""

    STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self, classes: int, channels: int, backward: Backward | None) -> None:
        super().__init__()
        between = _Identities(backward)
        layers: list[nn.Module] = []
        for stage in self.STAGES:
            for width in stage:
                # torchvision's net keeps the bias of the convolution before a batch norm, so this one does.
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    *between(),
                ]
                channels = width
            # ceil_mode changes nothing at 32x32 and lets an 8x8 image live through five halvings.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.linear.weight, 0, 0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:  # [N, channels, H, W] -> [N, classes]
        return self.linear(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class Small(nn.Module):
    """Three convolutions, 16, 32 and 64 wide: for trying things out in seconds."""

    def __init__(self, classes: int, channels: int, backward: Backward | None) -> None:
        super().__init__()
        between = _Identities(backward)
        layers: list[nn.Module] = []
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            layers += [_convolution(channels, width, stride), nn.BatchNorm2d(width), nn.ReLU(), *between()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:  # [N, channels, H, W] -> [N, classes]
        return self.linear(self.features(x).mean((2, 3)))


MODELS: dict[str, Callable[[int, int, Backward | None], nn.Module]] = {
    "resnet20": lambda classes, channels, backward: ResNet(20, classes, channels, backward),
    "resnet56": lambda classes, channels, backward: ResNet(56, classes, channels, backward),
    "vgg16_bn": VGG,
    "small": Small,
}


def build(name: str, classes: int, channels: int, backward: Backward | None = None) -> nn.Module:
    """The network ``name`` for images of ``channels`` channels; weights from torch's global generator."""
    if name not in MODELS:
        raise UsageError(f"model: expected one of {', '.join(MODELS)}; got {name!r}")
    return MODELS[name](classes, channels, backward)
