"""The page's server: uvicorn, then the guard, then Gradio."""

from __future__ import annotations

import socket

import uvicorn

from .folder import Folder
from .guard import Guard, Hosts
from .layout import build_page, list_calls, make_application
from .parts import Demo
from .visitors import Visitors

MOST_CONNECTIONS = 64


class Server(uvicorn.Server):
    """Serves a guarded page, on the sockets given to `run`."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        settings = uvicorn.Config(
            guard,
            log_level="error",
            ws="none",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
        super().__init__(settings)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the connections that browsers hold open, then everything else."""
        self.guard.close()
        await super().shutdown(sockets)


def make_server(demo: Demo, folder: Folder, hosts: Hosts) -> Server:
    """Makes the server of a demo's page."""
    page = build_page(Visitors(demo, folder))
    folder.keep()
    return Server(Guard(make_application(page), hosts, list_calls(page, folder), folder))
