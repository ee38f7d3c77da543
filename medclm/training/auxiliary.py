"""Losses that pull the model to the place of the lesion: box tokens, attention, image features. Off by default.

    L_box    mean cross-entropy of the tokens that write boxes, once more
    L_attn   KL(m_B || A): A the vision tower's last attention over patches, averaged over heads (from its class token,
             or the mean over all patches where it has none); m_B the box on the patch grid, blurred (9 cells, sigma 3)
             and normalized
    L_grnd   1 - cos(r_B, t): r_B the mean image feature over the cells that the box overlaps, as the language model
             gets it; t the mean input embedding of "<lesion> in the <organ>"

After attn_loss.py of MedCLM's authors, with these differences: their L_box is an L1 distance of parsed numbers, which
has no gradient; their second softmax of A, a distribution already, is left out, as it makes A nearly flat; t gets no
gradient. Only samples whose reasoning names boxes take part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medclm.codecs import PLACEHOLDER
from medclm.models.loading import Loaded, image_token_id
from medclm.problems import DataError
from medclm.training.examples import Batch

KERNEL, SIGMA = 9, 3.0
Boxes = list[tuple[float, float, float, float]]  # as fractions of the image's sides


def box_token_loss(losses: Tensor, boxes: Tensor) -> Tensor:
    """[], of [B, T] losses (place t about token t + 1) and the mark of each token; 0 where none writes a box."""
    about = torch.nn.functional.pad(boxes, (0, 1))[:, 1:].bool()
    return torch.where(about, losses, 0).sum() / about.sum().clamp(min=1)


def boxes_about(row: Mapping, stage: str) -> Boxes:
    """Those that the reasoning names; none in the hard stage."""
    if stage == "hard":
        return []
    named = sorted({int(match[1]) for match in PLACEHOLDER.finditer(row["cot"])})
    width, height = row["width"], row["height"]
    return [(x1 / width, y1 / height, x2 / width, y2 / height) for x1, y1, x2, y2 in (row["boxes"][i] for i in named)]


def box_mask(boxes: Boxes, grid: int) -> Tensor:
    """[grid, grid]: 1 in cells that a box overlaps."""
    mask = torch.zeros(grid, grid)
    for x1, y1, x2, y2 in boxes:
        left, top = (min(int(low * grid), grid - 1) for low in (x1, y1))
        right, bottom = (max(math.ceil(high * grid), low + 1) for high, low in ((x2, left), (y2, top)))
        mask[top:bottom, left:right] = 1
    return mask


def blurred(mask: Tensor) -> Tensor:
    """A distribution: Gaussian blur, then sum 1."""
    at = torch.arange(KERNEL) - KERNEL // 2
    line = torch.exp(-(at**2) / (2 * SIGMA**2))
    kernel = line[:, None] * line[None, :]
    soft = nn.functional.conv2d(mask[None, None], kernel[None, None], padding=KERNEL // 2)[0, 0]
    return soft / soft.sum()


def attention_loss(attention: Tensor, boxes: Sequence[Boxes]) -> Tensor:
    """KL(m_B || A), the mean over samples with boxes (0 without any). attention: [B, heads, N, N], rows sum to 1."""
    heads = attention.float().mean(1)
    count = heads.shape[-1]
    grid = math.isqrt(count)
    if grid * grid == count:
        patches = heads.mean(1)
    elif math.isqrt(count - 1) ** 2 == count - 1:
        grid, patches = math.isqrt(count - 1), heads[:, 0, 1:]
    else:
        raise DataError(f"attention_weight: expected a square grid of patches, the vision tower attends over {count}")
    found = []
    for of_image, these in zip(patches, boxes, strict=True):
        if these:
            wanted = blurred(box_mask(these, grid)).flatten().to(of_image.device)
            given = of_image / of_image.sum()
            found.append((wanted * (wanted.clamp(min=1e-12).log() - given.clamp(min=1e-12).log())).sum())
    return torch.stack(found).mean() if found else attention.new_zeros((), dtype=torch.float32)


def grounding_loss(features: Sequence[Tensor], texts: Sequence[Tensor], boxes: Sequence[Boxes]) -> Tensor:
    """Mean of 1 - cos. features: one [n, H] an image, n a square; texts: one [H] an image."""
    found = []
    for cells, text, these in zip(features, texts, boxes, strict=True):
        if not these:
            continue
        grid = math.isqrt(cells.shape[0])
        if grid * grid != cells.shape[0]:
            raise DataError(f"grounding_weight: expected a square grid of image tokens, got {cells.shape[0]} of them")
        inside = box_mask(these, grid).flatten().bool().to(cells.device)
        region = cells[inside].float().mean(0)
        found.append(1 - nn.functional.cosine_similarity(region, text.float(), dim=0))
    return torch.stack(found).mean() if found else features[0].new_zeros((), dtype=torch.float32)


class Localizers:
    """Catches what the two losses look at while the model runs, and makes them.

    Errors: DataError, before training, where the model has no such things or the picture is cut.
    """

    def __init__(self, loaded: Loaded, *, attention: float, grounding: float) -> None:
        self.loaded, self.attention, self.grounding = loaded, attention, grounding
        self._attention: Tensor | None = None
        self._embeddings: Tensor | None = None
        self._image_token = image_token_id(loaded.model)
        self._handles = []
        if getattr(loaded.processor.image_processor, "do_center_crop", False):
            raise DataError(
                "attention_weight, grounding_weight: expected an image processor that shows the whole picture; this "
                "one cuts its middle out (do_center_crop), so that boxes lie elsewhere"
            )
        if attention:
            self._handles.append(_last_attention(loaded.model).register_forward_hook(self._catch_attention))
        if grounding:
            decoder = loaded.model.get_decoder()
            self._handles.append(decoder.register_forward_pre_hook(self._catch_embeddings, with_kwargs=True))

    def loss(self, batch: Batch) -> Tensor:
        """[], weighted; after the forward of the batch."""
        boxes = [boxes_about(row, stage) for row, stage in zip(batch.rows, batch.stages, strict=True)]
        total = torch.zeros((), device=self.loaded.model.device)
        if self.attention:
            maps = self._attention
            if maps is None or maps.shape[0] != len(boxes):
                got = None if maps is None else maps.shape[0]
                raise DataError(f"attention_weight: expected one attention map an image, got {got} for {len(boxes)}")
            total = total + self.attention * attention_loss(maps, boxes)
        if self.grounding:
            ids = batch.inputs["input_ids"].to(self.loaded.model.device)
            given = self._embeddings
            if given is None:
                raise DataError("grounding_weight: the language model was not given embeddings")
            features = [given[i][ids[i] == self._image_token] for i in range(len(boxes))]
            total = total + self.grounding * grounding_loss(features, self._texts(batch), boxes)
        self._attention = self._embeddings = None
        return total

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _texts(self, batch: Batch) -> list[Tensor]:
        embed, tokenizer = self.loaded.model.get_input_embeddings(), self.loaded.processor.tokenizer
        made = []
        for row in batch.rows:
            named = sorted({int(match[1]) for match in PLACEHOLDER.finditer(row["cot"])})
            words = ", ".join(f"{row['labels'][i]} in the {row['organs'][i]}" for i in named) or "nothing"
            ids = tokenizer(words, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
            made.append(embed(ids.to(self.loaded.model.device)).mean(0))
        return made

    def _catch_attention(self, module: nn.Module, arguments: object, output: object) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.dim() != 4:
            raise DataError(f"attention_weight: {type(module).__name__} gives no attention map")
        self._attention = weights

    def _catch_embeddings(self, module: nn.Module, arguments: tuple, named: dict) -> None:
        self._embeddings = named.get("inputs_embeds")
        if self._embeddings is None:
            raise DataError(f"grounding_weight: {type(module).__name__} is not given embeddings")


def _last_attention(model: nn.Module) -> nn.Module:
    """Of the vision tower, in the last layer whose output is used; told to give its map."""
    towers = [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ("vision_tower", "vision_model", "visual")
    ]
    layers = [module for module in towers[0].modules() if type(module).__name__.endswith("Attention")] if towers else []
    if not layers:
        raise DataError(
            f"attention_weight: {type(model).__name__} has no vision tower with attention (EfficientNet has none)"
        )
    used = getattr(model.config, "vision_feature_layer", -1)
    last = layers[used] if isinstance(used, int) and used < 0 else layers[-1]
    if not hasattr(last, "config"):
        raise DataError(f"attention_weight: {type(last).__name__} cannot be told to give its attention map")
    last.config._attn_implementation = "eager"
    return last
