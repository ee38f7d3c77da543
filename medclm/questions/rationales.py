"""Reasoning from a teacher, held against the annotation and kept on disk; the template's where it does not stand."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medclm.problems import DataError, Problems, Reason
from medclm.questions.exchange import Exchange
from medclm.questions.prompts import VERSION, prompt_text
from medclm.questions.reply import TOLERANCE, RationaleError, accepted
from medclm.questions.teacher import Prompt, Teacher, TeacherError
from medclm.questions.terms import refuse_to_send

if TYPE_CHECKING:
    from medclm.linking import LinkedCase


@dataclass
class Rationales:
    """A teacher with a memory.

    cache      a folder of replies by the content of what was asked, or None. Processes may share it; a run that was
               killed goes on where it was. Replies that were turned down are kept too: they are not asked for again
    tolerance  by which a repeated box may be off, of the image's width or height
    patience   questions in a row without an answer, after which the teacher is taken to be gone: a DataError
    """

    teacher: Teacher
    cache: Path | None = None
    tolerance: float = TOLERANCE
    patience: int = 20
    _failed: int = 0  # in a row

    def of(
        self,
        exchange: Exchange,
        linked: LinkedCase,
        pixels: np.ndarray,  # uint8 [H, W] or [H, W, 3]: what the row will show, boxes drawn in the easy stage
        problems: Problems,
        *,
        spacing: tuple[float, float] | None = None,
    ) -> Exchange:
        """The exchange in the teacher's words, its cot_source the teacher's name; or the exchange as it came, and the
        reason counted. The hard stage has no reasoning and stays as it is. Raises DataError where the terms of the
        case forbid to send it, and where the teacher is gone or was never there."""
        if exchange.stage == "hard":
            return exchange
        case = linked.case
        if case.width is None or case.height is None:
            raise ValueError(f"linked: expected a case of known width and height, got {case.id!r} without")
        if not self.teacher.on_machine:
            refuse_to_send(case, self.teacher.name)
        try:
            reply = self._reply(Prompt(prompt_text(exchange, linked, spacing), pixels))
            return accepted(reply, exchange, linked, name=self.teacher.name, spacing=spacing, tolerance=self.tolerance)
        except TeacherError as error:
            self._failed += 1
            if self._failed >= self.patience:
                raise DataError(f"teacher: {self._failed} questions in a row without an answer; {error}") from None
            problems.add(Reason.TEACHER_FAILED, f"{case.source} {case.id}: {error}")
        except RationaleError as error:
            problems.add(error.reason, f"{case.source} {case.id} {exchange.stage} {exchange.kind}: {error}")
        return exchange

    def _reply(self, prompt: Prompt) -> str:
        if self.cache is None:
            return self._ask(prompt)
        key = cache_key(self.teacher.name, prompt)
        path = self.cache / key[:2] / f"{key}.json"
        if (kept := _kept(path)) is not None:
            return kept
        reply = self._ask(prompt)
        _keep(path, json.dumps({"teacher": self.teacher.name, "reply": reply}))
        return reply

    def _ask(self, prompt: Prompt) -> str:
        reply = self.teacher.ask(prompt)
        self._failed = 0
        return reply


def cache_key(teacher: str, prompt: Prompt) -> str:
    """SHA-256 of all that a reply depends on."""
    digest = hashlib.sha256(json.dumps([VERSION, teacher, prompt.text, list(prompt.pixels.shape)]).encode())
    digest.update(np.ascontiguousarray(prompt.pixels).tobytes())
    return digest.hexdigest()


def _kept(path: Path) -> str | None:
    try:
        return json.loads(path.read_text())["reply"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not asked yet, or damaged: asked again


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=".reply-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(made, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(made)
        raise
