"""A teacher behind HTTP, against a real server on this machine."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from medclm.problems import DataError
from medclm.questions import Prompt, TeacherError
from medclm.questions.endpoint import KEY_VARIABLE, EndpointTeacher

PROMPT = Prompt("What is it?", np.arange(12, dtype=np.uint8).reshape(3, 4))
RIGHT = json.dumps({"choices": [{"message": {"content": "A nodule."}}]})


class Server(ThreadingHTTPServer):
    """Answers with a script of (status, headers, body); keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, dict[str, str], str]] = []
        self.seen: list[tuple[str, dict, dict]] = []
        self.held = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        status, headers, text = self.server.script.pop(0)
        if status == 0:  # no answer in time
            self.server.held.wait(5)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.held.set()
        made.shutdown()
        thread.join()


def asked(server: Server, waits: list[float] | None = None, **options) -> EndpointTeacher:
    waits = [] if waits is None else waits
    return EndpointTeacher(f"http://127.0.0.1:{server.server_port}/v1", "model", sleep=waits.append, **options)


def test_text_and_pixels_are_sent_and_the_key_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # would be asked instead of the named host
    server.script = [(200, {}, RIGHT)]
    endpoint = asked(server)
    assert endpoint.ask(PROMPT) == "A nodule."
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("model", 0)
    text, image = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    _, _, encoded = image["image_url"]["url"].partition("base64,")
    sent = np.array(Image.open(io.BytesIO(base64.b64decode(encoded))))
    np.testing.assert_array_equal(sent, PROMPT.pixels)
    assert "secret" not in repr(endpoint) + endpoint.name
    assert endpoint.on_machine


def test_passing_errors_are_tried_again_with_growing_waits(server: Server) -> None:
    waits: list[float] = []
    server.script = [(429, {"Retry-After": "7"}, ""), (500, {}, ""), (503, {}, ""), (200, {}, RIGHT)]
    assert asked(server, waits).ask(PROMPT) == "A nodule."
    assert waits == [7.0, 2.0, 4.0]


def test_longest_wait_is_bounded_whatever_the_server_asks(server: Server) -> None:
    waits: list[float] = []
    server.script = [(429, {"Retry-After": "86400"}, ""), (200, {}, RIGHT)]
    asked(server, waits).ask(PROMPT)
    assert waits == [60.0]


def test_attempts_end(server: Server) -> None:
    server.script = [(500, {}, "")] * 4
    with pytest.raises(TeacherError, match="4 attempts, the last: status 500"):
        asked(server).ask(PROMPT)
    assert len(server.seen) == 4


def test_question_that_the_server_will_not_have_is_not_asked_again(server: Server) -> None:
    server.script = [(400, {}, "too long")]
    with pytest.raises(TeacherError, match="status 400: too long"):
        asked(server).ask(PROMPT)


@pytest.mark.parametrize("status", [401, 403, 404, 302, 307])
def test_redirects_and_what_would_come_every_time_end_the_run(server: Server, status: int) -> None:
    server.script = [(status, {"Location": "http://127.0.0.1:9/"}, "no such model")]
    with pytest.raises(DataError, match=f"status {status}: no such model"):
        asked(server).ask(PROMPT)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "body", ["<html>", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}', "1"]
)
def test_replies_of_another_form_are_tried_again(server: Server, body: str) -> None:
    server.script = [(200, {}, body), (200, {}, RIGHT)]
    assert asked(server).ask(PROMPT) == "A nodule."


def test_silence_ends_in_a_time_out(server: Server) -> None:
    server.script = [(0, {}, ""), (200, {}, RIGHT)]
    assert asked(server, timeout=0.3).ask(PROMPT) == "A nodule."


def test_nobody_there_is_a_teacher_error(server: Server) -> None:
    port = server.server_port
    server.server_close()
    endpoint = EndpointTeacher(f"http://127.0.0.1:{port}/v1", "model", attempts=2, sleep=lambda wait: None)
    with pytest.raises(TeacherError, match="2 attempts"):
        endpoint.ask(PROMPT)


@pytest.mark.parametrize(
    "address", ["http://example.org/v1", "ftp://x/", "https://", "https://me:secret@example.org/v1"]
)
def test_addresses_that_would_leak_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address: expected") as caught:
        EndpointTeacher(address, "model")
    assert "secret" not in str(caught.value)


def test_other_machines_are_known_as_such() -> None:
    assert not EndpointTeacher("https://example.org/v1", "model").on_machine
    assert not EndpointTeacher("https://127.0.0.1.example.org/v1", "model").on_machine
    assert EndpointTeacher("http://[::1]:8000/v1", "model").on_machine
