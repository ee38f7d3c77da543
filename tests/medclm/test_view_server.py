"""The viewer's server: random access, and nobody but this machine's own page gets an answer."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from small_cases import small_cases, small_settings

import medclm
from medclm import png, sets
from medclm.pipeline import convert_cases
from medclm.problems import DataError, Problems
from medclm.view import serve
from medclm.view.rows import Rows
from medclm.view.server import make_app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    convert_cases(iter(small_cases(folder / "images", 16)), folder / "set", small_settings(), Problems(), workers=1)
    return folder / "set"


@pytest.fixture(scope="module")
def port(folder):
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(folder, port), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join(timeout=10)


def ask(port: int, path: str, *, method: str = "GET", body: str | None = None, **headers: str):
    """(status, headers, body); the path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, sent)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


def ask_json(port: int, path: str) -> dict:
    status, _, body = ask(port, path)
    assert status == 200, body
    return json.loads(body)


def test_every_row_is_found_by_its_number(folder):
    rows = Rows(folder)
    expected = list(sets.rows(folder))
    assert len(rows) == len(expected) > 100
    for number in (0, 1, 63, 64, 65, len(expected) // 2, len(expected) - 1):
        assert rows.read(number) == expected[number]
    for number in (-1, len(expected)):
        with pytest.raises(IndexError):
            rows.read(number)


def test_filters_agree_with_a_plain_search(folder):
    rows = Rows(folder)
    expected = list(sets.rows(folder))
    for filters in ({"stage": "hard"}, {"label": "mass", "split": "train"}, {"organ": "background", "kind": "where"}):
        columns = {"label": "labels", "organ": "organs"}
        plain = [
            number
            for number, row in enumerate(expected)
            if all(
                value in row[columns[name]] if name in columns else row[name] == value
                for name, value in filters.items()
            )
        ]
        assert rows.find(filters).tolist() == plain and plain
    assert rows.find({"stage": "no such"}).tolist() == []
    assert rows.find({"verdict": "unreviewed"}).tolist() == list(range(len(expected)))


def test_page_and_data_are_served(port, folder):
    status, headers, body = ask(port, "/")
    assert status == 200 and headers["content-type"].startswith("text/html") and b"<main>" in body
    for name in ("app.js", "style.css"):
        assert ask(port, f"/page/{name}")[0] == 200
    row = ask_json(port, "/api/rows/3")
    expected = list(sets.rows(folder))[3]
    assert row["question"] == expected["question"] and "image" not in row
    _, headers, body = ask(port, "/api/rows/3/image")
    assert headers["content-type"] == "image/png" and body == expected["image"]["bytes"]
    assert png.decode(body).shape[:2] == (row["height"], row["width"])


def test_page_loads_nothing_from_elsewhere(port):
    for path in ("/", "/page/app.js", "/page/style.css"):
        _, headers, body = ask(port, path)
        assert b"https://" not in body and b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example", ""])
def test_other_host_names_are_refused(port, host):
    """DNS rebinding: a page elsewhere whose name is made to mean 127.0.0.1."""
    for path in ("/", "/api/rows/0", "/api/rows/0/image"):
        status, _, body = ask(port, path, Host=host)
        assert status in (400, 421)
        assert b"question" not in body and b"PNG" not in body


@pytest.mark.parametrize(
    "sent",
    [
        "GET /api/rows/0 HTTP/1.0\r\n\r\n",
        "GET /api/rows/0 HTTP/1.1\r\n\r\n",
        "GET /api/rows/0 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n",
        "GET /api/rows/0 HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: 127.0.0.1:{port}\r\n\r\n",
        "GET /api/rows/0 HTTP/1.1\r\nHost: evil.example\r\nForwarded: host=127.0.0.1:{port}\r\n\r\n",
        "GET http://127.0.0.1:{port}/api/rows/0 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET /api/rows/0 HTTP/1.1\r\nHost: user@127.0.0.1:{port}\r\n\r\n",
        "GET /../../../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
        "GET /page/..\\..\\server.py HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
    ],
)
def test_requests_that_no_browser_sends(port, sent):
    """No host, two hosts, one in another place, paths that a client would have shortened: byte for byte."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = sent.format(port=port).removesuffix("\r\n")
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b""
        while got := connection.recv(65536):
            answer += got
    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500, answer
    assert b"question" not in answer and b"root:" not in answer and b"FastAPI(" not in answer


def test_pages_elsewhere_are_not_allowed_to_read(port):
    """No header that lets another origin in, neither on a plain request nor on a browser's question before one."""
    for method, headers in (
        ("GET", {}),
        ("OPTIONS", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}),
        ("OPTIONS", {"Origin": f"http://127.0.0.1:{port}", "Access-Control-Request-Method": "POST"}),
    ):
        _, found, _ = ask(port, "/api/rows/0/verdict" if method == "OPTIONS" else "/api/set", method=method, **headers)
        assert not [name for name in found if name.lower().startswith("access-control-")]
        assert found["cross-origin-resource-policy"] == "same-origin"


def test_the_command_listens_on_this_machine_alone(folder):
    command = [sys.executable, "-m", "medclm.cli", "view", str(folder), "--port", "0"]
    root = str(Path(medclm.__file__).parents[1])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
    )
    try:
        said = process.stdout.readline()
        port = int(re.match(r"http://127\.0\.0\.1:(\d+) ", said)[1])
        assert ask(port, "/api/set")[0] == 200
        assert ask(port, "/api/set", Host="evil.example")[0] == 421
        assert listening(port) == {"0100007F"}  # 127.0.0.1, in the kernel's words
    finally:
        process.terminate()
        process.wait(timeout=30)


def listening(port: int) -> set[str]:
    """Addresses on which some process waits for connections to the port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            _, local, _, state, *_ = line.split()
            address, number = local.split(":")
            if int(number, 16) == port and state == "0A":
                found.add(address)
    return found


def test_own_names_are_served(port):
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert ask(port, "/api/set", Host=host)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/..%2fserver.py",
        "/page/%2e%2e/server.py",
        "/page/....//server.py",
        "/page//etc/passwd",
        "/../../../../etc/passwd",
        "/page/app.js%00.html",
        "/api/rows/..%2f..%2fset.json/image",
        "/set.json",
        "/docs",
        "/openapi.json",
    ],
)
def test_paths_lead_nowhere_else(port, path):
    status, _, body = ask(port, path)
    assert status in (400, 404, 405, 422)
    assert b"root:" not in body and b"FastAPI(" not in body


@pytest.mark.parametrize("number", ["-1", "99999", "1.5", "x"])
def test_rows_that_are_not_there(port, number):
    for path in (f"/api/rows/{number}", f"/api/rows/{number}/image"):
        assert ask(port, path)[0] in (404, 422)


def test_a_page_elsewhere_cannot_judge(port, folder):
    body = json.dumps({"verdict": "reject"})
    status, _, _ = ask(
        port,
        "/api/rows/0/verdict",
        method="POST",
        body=body,
        Content_Type="application/json",
        Origin="https://evil.example",
    )
    assert status == 403
    for origin in ("null", f"https://127.0.0.1:{port}", "http://127.0.0.1:1"):
        assert ask(port, "/api/rows/0/verdict", method="POST", body=body, Origin=origin)[0] == 403
    assert not (folder / "review.jsonl").exists()


def test_unknown_verdict_is_refused(port, folder):
    body = json.dumps({"verdict": "maybe"})
    status, _, _ = ask(port, "/api/rows/0/verdict", method="POST", body=body, Content_Type="application/json")
    assert status == 422
    assert not (folder / "review.jsonl").exists()


def test_steps_walk_through_what_agrees(port, folder):
    expected = [number for number, row in enumerate(sets.rows(folder)) if row["stage"] == "hard"]
    found = ask_json(port, "/api/find?stage=hard")
    walked = [found["number"]]
    while (found := ask_json(port, f"/api/find?stage=hard&at={walked[-1]}&step=next"))["number"] is not None:
        walked.append(found["number"])
    assert walked == expected
    assert found["total"] == len(expected)
    back = ask_json(port, f"/api/find?stage=hard&at={expected[2]}&step=previous")
    assert (back["number"], back["position"]) == (expected[1], 1)
    assert ask_json(port, f"/api/find?stage=hard&at={expected[0]}&step=previous")["number"] is None
    assert ask_json(port, "/api/find?label=no+such") == {"number": None, "position": -1, "total": 0}
    assert ask_json(port, "/api/find?stage=hard&at=999999")["number"] == expected[-1]


def test_taken_port_is_said(port, folder):
    with pytest.raises(DataError, match=f"cannot listen on 127.0.0.1:{port}"):
        serve(folder, port)


def test_no_set_is_said(tmp_path):
    with pytest.raises(DataError, match="expected a converted set"):
        serve(tmp_path, 0)
