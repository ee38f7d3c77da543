"""A teacher on this machine: any image-text model of transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medclm.questions.teacher import Prompt, TeacherError


@dataclass
class TransformersTeacher:
    """Greedy decoding. The model is loaded at the first question, on ``device``, in the type its weights have."""

    path: str  # a folder, or a name that transformers finds
    device: str = "cpu"
    max_new_tokens: int = 512
    on_machine: bool = True
    _loaded: tuple[Any, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.name = self.path.rstrip("/").split("/")[-1]

    def ask(self, prompt: Prompt) -> str:
        import torch
        from PIL import Image

        if self._loaded is None:
            self._loaded = self._load()
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
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            model = AutoModelForImageTextToText.from_pretrained(self.path, dtype="auto").eval().to(self.device)
            return model, AutoProcessor.from_pretrained(self.path)
        except (OSError, ValueError) as error:
            raise TeacherError(f"{self.path}: expected an image-text model of transformers ({error})") from error
