"""ASGI middleware in front of the page: checks origin, path and size of every request."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ntensor.faces.common.errors import PageError

from .calls import Calls
from .folder import Folder

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_UPLOADED = 20_000_000
MOST_CALLED = 65_536
# Limit on simultaneous uploads.
MOST_UPLOADS = 2
BODY_SECONDS = 60.0

UPLOAD = "/gradio_api/upload"
CALLS = ("/gradio_api/queue/join", "/gradio_api/run/predict")
FILE = "/gradio_api/file="
READ = re.compile(
    r"/|/(assets|static|svelte)/[\w./-]+|/(config|favicon\.ico|manifest\.json|theme\.css)"
    r"|/gradio_api/(queue/data|startup-events|upload_progress|heartbeat/[0-9a-z]{1,64})"
)

_CONTENT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _CONTENT,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _Refusal(PageError):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Guard:
    """Forwards only requests of the page itself; answers all others with an error.

    - `Host` must be one of `hosts`, which prevents DNS rebinding. `Origin` and `Sec-Fetch-Site`,
      if a browser sends them, must be the page's own, so that no other site can write to it.
    - Paths must be among those that the page uses, and files in its folder.
    - A body is received completely and within its limit, whatever its headers say, before the
      application sees any of it. A call is rebuilt by `Calls.check`; for an upload the folder
      makes room.

    Args:
        application (callable): ASGI.
        hosts (Hosts)
        calls (Calls)
        folder (Folder)
        seconds (float): time limit for receiving a body.
    """

    def __init__(
        self,
        application: Application,
        hosts: Hosts,
        calls: Calls,
        folder: Folder,
        seconds: float = BODY_SECONDS,
    ) -> None:
        self.application, self.hosts, self.calls, self.folder = application, hosts, calls, folder
        self.seconds = seconds
        self._receiving = 0
        self._storing = asyncio.Lock()
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Ends responses that would last until their client disconnects."""
        self._closing.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, _add_headers(scope, send))
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            self._check_source(scope)
            body = await self._read_body(scope, receive)
        except _Refusal as refusal:
            await _refuse(send, refusal)
        except PageError as error:
            await _refuse(send, _Refusal(422, str(error)))
        else:
            if body is None:
                return  # the client has disconnected
            uploading = scope["path"] == UPLOAD
            async with self._storing if uploading else contextlib.nullcontext():
                if uploading:
                    self.folder.make_room(len(body))
                await self.application(scope, self._replay(body, receive), send)

    def _check_source(self, scope: Message) -> None:
        host = _find_header(scope, b"host") or ""
        if host not in self.hosts:
            raise _Refusal(421, f"this page is not served under the name {host!r}")
        if (origin := _find_header(scope, b"origin")) not in (None, f"http://{host}"):
            raise _Refusal(403, f"this page accepts no requests from {origin!r}")
        if (site := _find_header(scope, b"sec-fetch-site")) not in (None, "same-origin", "none"):
            raise _Refusal(403, f"this page accepts no {site!r} requests; type its address instead")

    def _find_limit(self, scope: Message) -> int:
        """The largest allowed body of this request, bytes."""
        method, path = scope["method"], scope["path"]
        if method == "POST" and path == UPLOAD:
            return MOST_UPLOADED + MOST_CALLED
        if method == "POST" and path in CALLS:
            return MOST_CALLED
        if method in ("GET", "HEAD"):
            if path.startswith(FILE):
                if self.folder.holds(path.removeprefix(FILE)):
                    return 0
            elif READ.fullmatch(path) and ".." not in path:
                return 0
        raise _Refusal(404, "the page has nothing there")

    async def _read_body(self, scope: Message, receive: Receive) -> bytes | None:
        """The body, or None if the client has disconnected."""
        limit = self._find_limit(scope)
        length = _find_header(scope, b"content-length") or "0"
        if not length.isdecimal():
            raise _Refusal(400, f"Content-Length must be a number, got {length!r}")
        if int(length) > limit:
            raise _too_large(limit)
        if scope["path"] == UPLOAD:
            if self._receiving == MOST_UPLOADS:
                raise _Refusal(503, "other pictures are being uploaded; try again later")
            self._receiving += 1
            try:
                return await self._receive(receive, limit)
            finally:
                self._receiving -= 1
        body = await self._receive(receive, limit)
        if scope["path"] in CALLS and body is not None:
            body = self.calls.check(body)
            lengths = [(b"content-length", str(len(body)).encode())]
            scope["headers"] = lengths + [h for h in scope["headers"] if h[0] != b"content-length"]
        return body

    async def _receive(self, receive: Receive, limit: int) -> bytes | None:
        try:
            return await asyncio.wait_for(_read(receive, limit), self.seconds)
        except asyncio.TimeoutError as error:
            raise _Refusal(408, f"the request did not arrive in {self.seconds} seconds") from error

    def _replay(self, body: bytes, receive: Receive) -> Receive:
        """Replays the body, then a disconnect once the client disconnects or the server closes."""
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            if messages:
                return messages.pop()
            ends = [asyncio.ensure_future(receive()), asyncio.ensure_future(self._closing.wait())]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
            return {"type": "http.disconnect"}

        return again


class Hosts:
    """The values of `Host` that a page accepts.

    Args:
        port (int)
        network (bool): also accept any IP address, and this machine's name. Addresses are safe
            from DNS rebinding, which needs a name.
    """

    def __init__(self, port: int, network: bool = False) -> None:
        self.port, self.network = port, network
        self.names = {"127.0.0.1", "localhost", "[::1]"}
        if network:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def __contains__(self, host: object) -> bool:
        name, _, port = str(host).rpartition(":")
        if not name or port.endswith("]"):
            name, port = str(host), "80"
        if port != str(self.port):
            return False
        return name in self.names or (self.network and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _find_header(scope: Message, name: bytes) -> str | None:
    """The value of a header, or None; more than one is refused."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise _Refusal(400, f"expected one header {name.decode()}, got {len(values)}")
    return values[0].decode("latin-1").strip().lower() if values else None


async def _read(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)
    return None


def _add_headers(scope: Message, send: Send) -> Send:
    # The browser must not store pictures of people on disk.
    fleeting = not scope["path"].startswith(("/assets/", "/static/"))
    more = HEADERS | ({"cache-control": "no-store"} if fleeting else {})
    added = [(name.encode(), value.encode()) for name, value in more.items()]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [h for h in message.get("headers", []) if h[0].lower().decode() not in more]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return sending


def _too_large(limit: int) -> _Refusal:
    return _Refusal(413, f"the request is larger than {limit} bytes")


async def _refuse(send: Send, refusal: _Refusal) -> None:
    # The form of Gradio's own errors, so the page shows the message.
    text = json.dumps({"detail": str(refusal)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
