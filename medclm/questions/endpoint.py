"""A teacher behind the chat completions of OpenAI's interface: its own, or vLLM's, llama.cpp's, Ollama's on this
machine."""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

from medclm.problems import DataError
from medclm.questions.teacher import Prompt, TeacherError

KEY_VARIABLE = "MEDCLM_TEACHER_KEY"
LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for
LONGEST_REPLY = 1 << 20  # bytes


class _Again(Exception):
    """Worth another attempt, after ``wait`` seconds where the server named them."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass
class EndpointTeacher:
    """Sends pixels and annotation to ``address`` ("https://host/v1"), and to no other: no proxy, no redirect.

    Only a loopback address may go without TLS. The key is read from ``$MEDCLM_TEACHER_KEY``. Time-outs, lost
    connections, 408, 429, 5xx and replies of another form are tried again, with waits that double; the end of the
    attempts and other statuses are a TeacherError. A redirect, 401, 403 and 404 would come for every question: they
    are a DataError.
    """

    address: str
    model: str
    timeout: float = 120.0  # seconds
    attempts: int = 4
    first_wait: float = 1.0  # seconds
    max_tokens: int = 512
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"address: expected http(s)://host/path, got {self.address!r}")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"address: expected no user or password in it (the key is read from ${KEY_VARIABLE})")
        self.on_machine = _is_loopback(parts.hostname)
        if parts.scheme == "http" and not self.on_machine:
            raise ValueError(f"address: expected https for another machine, got {self.address!r}")
        self.name = f"{self.model}@{parts.netloc}"

    def ask(self, prompt: Prompt) -> str:
        body = json.dumps(
            {
                "model": self.model,
                "temperature": 0,
                "max_tokens": self.max_tokens,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": prompt.text},
                            {"type": "image_url", "image_url": {"url": _data_uri(prompt.pixels)}},
                        ],
                    }
                ],
            }
        ).encode()
        for attempt in range(self.attempts):
            try:
                return self._attempt(body)
            except _Again as again:
                reason = str(again)
                if attempt + 1 < self.attempts:
                    wait = self.first_wait * 2**attempt if again.wait is None else again.wait
                    self.sleep(min(wait, LONGEST_WAIT))
        raise TeacherError(f"{self.name}: {self.attempts} attempts, the last: {reason}")

    def _attempt(self, body: bytes) -> str:
        parts = urlsplit(self.address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname, parts.port, timeout=self.timeout)
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        try:
            connection.request("POST", parts.path.rstrip("/") + "/chat/completions", body, headers)
            response = connection.getresponse()
            raw = response.read(LONGEST_REPLY + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _Again(f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if response.status in (408, 429) or response.status >= 500:
            raise _Again(f"status {response.status}", _seconds(response.headers.get("Retry-After")))
        if response.status != 200:
            what = f"{self.name}: status {response.status}: {raw[:200].decode(errors='replace')}"
            if 300 <= response.status < 400 or response.status in (401, 403, 404):
                raise DataError(f"teacher: {what}")
            raise TeacherError(what)
        if len(raw) > LONGEST_REPLY:
            raise TeacherError(f"{self.name}: a reply of more than {LONGEST_REPLY} bytes")
        try:
            content = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise _Again("a reply without choices[0].message.content") from None
        if not isinstance(content, str):
            raise _Again(f"a reply whose content is {type(content).__name__}, not text")
        return content


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(header: str | None) -> float | None:
    """Of Retry-After; its form with a date is left to the usual waits."""
    return float(header) if header is not None and header.strip().isdigit() else None


def _data_uri(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
