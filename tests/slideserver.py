"""A web server on loopback that sends parts of files, as slowly and as badly as a test wants."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote


class SlideServer:
    """Serves a folder; `stop` and `start` keep the port.

    latency : seconds before each answer
    drop : how many of the next answers end in the middle
    parts : whether it knows of ranges
    lists : whether it tells what is in a folder
    weak : whether its marks of files are weak, and so match nothing
    dated : whether it tells when files were written in the place of marks
    absent : status of what is not there
    refusal : status of all its answers, 0 for none
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.latency, self.drop, self.parts, self.lists = folder, 0.0, 0, True, True
        self.requests: list[str] = []
        self.refusal, self.absent, self.weak, self.dated = 0, 404, False, False
        self._lock, self._server, self._port = threading.Lock(), None, 0
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", self._port), type("Handler", (_Handler,), {"of": self}))
        server.daemon_threads = True
        self._server, self._port = server, server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def drops(self) -> bool:
        with self._lock:
            self.drop -= 1
            return self.drop >= 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection per answer: nothing outlives a stopped server
    of: SlideServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        time.sleep(self.of.latency)
        self.of.requests.append(f"{self.path} {self.headers.get('Range', '')}")
        if self.of.refusal:
            self.send_error(self.of.refusal)
            return
        file = self.of.folder / unquote(self.path.lstrip("/").split("?")[0])
        if file.is_dir() and self.of.lists:
            self._list(file)
            return
        if not file.is_file():
            self.send_error(self.of.absent)
            return
        there = file.stat()
        mark = f'"{there.st_ino:x}-{there.st_mtime_ns:x}-{there.st_size:x}"'
        mark = f"W/{mark}" * self.of.weak or mark
        if "If-Match" in self.headers and (self.of.weak or self.headers["If-Match"] != mark):
            self.send_error(412)
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.of.parts else None
        if found and int(found[1]) >= there.st_size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{there.st_size}")
            self._mark(mark, there.st_mtime)
            self.end_headers()
            return
        start, stop = (int(found[1]), int(found[2] or there.st_size - 1) + 1) if found else (0, there.st_size)
        with file.open("rb") as stream:
            stream.seek(start)
            part = stream.read(stop - start)
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{there.st_size}")
        self.send_header("Content-Length", str(len(part)))
        self._mark(mark, there.st_mtime)
        self.end_headers()
        if body and len(part) > 1 and self.of.drops():
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        elif body:
            with suppress(ConnectionError):  # who asked has heard enough
                self.wfile.write(part)

    def _mark(self, mark: str, written_s: float) -> None:
        if self.of.dated:
            self.send_header("Last-Modified", formatdate(written_s, usegmt=True))
        else:
            self.send_header("ETag", mark)

    def _list(self, folder: Path) -> None:
        names = sorted(quote(one.name) + "/" * one.is_dir() for one in folder.iterdir())
        page = "".join(f'<a href="{name}">{name}</a>\n' for name in ("../", *names)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


class Wire:
    """Passes bytes on between clients and a server of this machine, as slowly and as badly as a test wants.

    latency : seconds before each answer
    drop : how many of the next answers end in the middle
    """

    def __init__(self, port: int) -> None:
        self.latency, self.drop, self._port, self._own_port = 0.0, 0, port, 0
        self._lock, self._open = threading.Lock(), []
        self.mend()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._own_port}"

    def mend(self) -> None:
        """Begin, at the port it had before."""
        listening = socket.create_server(("127.0.0.1", self._own_port))
        self._own_port, self._open = listening.getsockname()[1], [listening]
        threading.Thread(target=self._listen, args=(listening,), daemon=True).start()

    def _listen(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                asked = threading.Event()
                for pump, ends in ((self._ask, (client, server)), (self._answer, (server, client))):
                    threading.Thread(target=self._pump, args=(pump, *ends, asked), daemon=True).start()

    def _pump(self, pump, source: socket.socket, sink: socket.socket, asked: threading.Event) -> None:
        with suppress(OSError):
            while (data := source.recv(2**16)) and pump(data, sink, asked):
                pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _ask(self, data: bytes, server: socket.socket, asked: threading.Event) -> bool:
        asked.set()
        server.sendall(data)
        return True

    def _answer(self, data: bytes, client: socket.socket, asked: threading.Event) -> bool:
        """Whether the connection holds."""
        if asked.is_set():
            asked.clear()
            time.sleep(self.latency)
        head = data.find(b"\r\n\r\n") + 4 if data.startswith(b"HTTP/") else 0
        drops = len(data) > head + 1 and self._drops()
        client.sendall(data[: (head + len(data)) // 2] if drops else data)
        return not drops

    def _drops(self) -> bool:
        with self._lock:
            self.drop -= 1
            return self.drop >= 0

    def cut(self) -> None:
        """End it, and every connection."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def serving(folder: Path):
    server = SlideServer(folder)
    try:
        yield server
    finally:
        server.stop()
