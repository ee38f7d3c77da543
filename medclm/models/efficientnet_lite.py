"""EfficientNet-Lite0 (Tan & Le, arXiv 1905.11946, without squeeze-and-excitation) as a vision tower of transformers.

Every convolution holds its batch normalization: statistics of ImageNet, folded into weight and bias. So small batches
and bfloat16 weights do no harm, a step changes no buffers, and all of it can be trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

STRIDE = 32  # pixels of the image a cell of the feature map, each way
_BATCH_NORM_EPS = 1e-3
# (repeats, kernel, stride, expansion, channels in, channels out)
LITE0 = (
    (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80), (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
)  # fmt: skip
HEAD = 1280


class EfficientNetLiteConfig(PreTrainedConfig):
    model_type = "medclm_efficientnet_lite"

    def __init__(self, image_size: int = 224, hidden_size: int = HEAD, **more: object) -> None:
        super().__init__(**more)
        self.image_size, self.hidden_size, self.patch_size = image_size, hidden_size, STRIDE


class SameConv(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) cells, the odd pixel of padding right and below, as
    TensorFlow pads: the weights were trained so."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if height or width:
            x = nn.functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class Block(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes agree."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = SameConv(inputs, wide) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else nn.functional.relu6(self.expand(x))
        y = self.project(nn.functional.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class EfficientNetLiteModel(PreTrainedModel):
    """pixel_values [B, 3, H, W] -> hidden_states[-1] [B, ceil(H/32) * ceil(W/32), 1280], row by row."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "tower"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = SameConv(3, LITE0[0][4], 3, 2)
        self.blocks = nn.ModuleList()
        for repeats, kernel, stride, expansion, inputs, outputs in LITE0:
            for i in range(repeats):
                self.blocks.append(
                    Block(kernel, stride if i == 0 else 1, expansion, inputs if i == 0 else outputs, outputs)
                )
        self.head = SameConv(LITE0[-1][5], config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, **unused: object) -> BaseModelOutputWithPooling:
        x = nn.functional.relu6(self.stem(pixel_values.to(self.stem.weight.dtype)))
        for block in self.blocks:
            x = block(x)
        features = nn.functional.relu6(self.head(x)).flatten(2).transpose(1, 2)
        return BaseModelOutputWithPooling(
            last_hidden_state=features, pooler_output=features.mean(1), hidden_states=(features,)
        )


def folded(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of :class:`EfficientNetLiteModel` out of that of a network with batch normalization, in the names of
    ``efficientnet-lite-pytorch`` (``_blocks.3._depthwise_conv.weight``, ``_blocks.3._bn1.running_mean``, ..)."""
    state: dict[str, Tensor] = {}

    def fold(name: str, convolution: str, norm: str) -> None:
        scale, shift, mean, variance = (
            published[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / (variance + _BATCH_NORM_EPS).sqrt()
        state[f"{name}.weight"] = (published[f"{convolution}.weight"].double() * scale[:, None, None, None]).float()
        state[f"{name}.bias"] = (shift - mean * scale).float()

    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    for i in range(sum(row[0] for row in LITE0)):
        own, theirs = f"blocks.{i}", f"_blocks.{i}"
        if f"{theirs}._expand_conv.weight" in published:
            fold(f"{own}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{own}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{own}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    return state


def register() -> None:
    AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
    AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
