"""A teacher on this machine: any image-text model of transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medclm.problems import DataError
from medclm.questions.teacher import Prompt


@dataclass
class TransformersTeacher:
    """Greedy decoding. The model is loaded at the first question, on ``device``, in the type its weights have;
    a DataError where it cannot be."""

    path: str  # a folder, or a name that transformers finds
    device: str = "cpu"
    max_new_tokens: int = 512
    on_machine: bool = True
    _loaded: tuple[Any, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.name = self.path.rstrip("/").split("/")[-1]

    def ask(self, prompt: Prompt) -> str:
        if self._loaded is None:
            self._loaded = self._load()
        import torch
        from PIL import Image

        model, processor = self._loaded
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.text}]}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        image = Image.fromarray(prompt.pixels).convert("RGB")
        inputs = processor(text=[text], images=[[image]], return_tensors="pt").to(self.device)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        answer = made[:, inputs["input_ids"].shape[1] :]
        return processor.batch_decode(answer, skip_special_tokens=True)[0]

    def _load(self) -> tuple[Any, Any]:
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor

            model = AutoModelForImageTextToText.from_pretrained(self.path, dtype="auto").eval().to(self.device)
            return model, AutoProcessor.from_pretrained(self.path)
        except (ImportError, OSError, ValueError) as error:
            raise DataError(
                f"teacher: expected an image-text model of transformers at {self.path} ({error})"
            ) from error
