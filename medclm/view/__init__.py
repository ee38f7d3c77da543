"""A page on this machine to look through a set and to accept or reject its rows."""

from __future__ import annotations

from pathlib import Path

HOST = "127.0.0.1"  # never another: the pages show patients' images and ask nobody for a password


def serve(folder: Path, port: int) -> None:
    """Until interrupted. Raises DataError where ``folder`` is no set or the port is taken."""
    import socket

    import uvicorn

    from medclm.problems import DataError
    from medclm.view.server import make_app

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # before the address is printed: who follows it at once waits, and is not refused
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise DataError(f"port: cannot listen on {HOST}:{port} ({why}); try --port 0") from None
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(folder, port), log_level="warning", server_header=False))
    print(f"http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
    server.run(sockets=[listening])
