"""Models that put the reasoning into words of their own: what they are asked with, and how one is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class TeacherError(RuntimeError):
    """No answer could be had: the template's words stand in."""


@dataclass(frozen=True)
class Prompt:
    """text, and what it is about: pixels uint8 [H, W] or [H, W, 3]."""

    text: str
    pixels: np.ndarray


class Teacher(Protocol):
    """name       as it is recorded in cot_source; equal names give equal answers as far as the cache is concerned
    on_machine    pixels and annotation stay on this machine"""

    name: str
    on_machine: bool

    def ask(self, prompt: Prompt) -> str:
        """The reply. Raises TeacherError where none could be had."""
        ...


def teacher(spec: str) -> Teacher | None:
    """ "template": None, no teacher. "transformers:NAME_OR_PATH": an image-text model on this machine.
    "http(s)://host/v1#MODEL": an endpoint with the chat completions of OpenAI's interface, which is sent pixels and
    annotation of every case. Raises ValueError for anything else."""
    if spec == "template":
        return None
    if spec.startswith("transformers:"):
        from medclm.questions.local_model import TransformersTeacher

        return TransformersTeacher(spec.removeprefix("transformers:"))
    if spec.startswith(("http://", "https://")) and spec.partition("#")[2]:
        from medclm.questions.endpoint import EndpointTeacher

        address, _, model = spec.partition("#")
        return EndpointTeacher(address, model)
    raise ValueError(f"teacher: expected template, transformers:NAME_OR_PATH or https://host/v1#MODEL, got {spec!r}")
