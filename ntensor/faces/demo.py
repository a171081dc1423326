"""A page to try a trained face model: `python -m ntensor.faces.demo [RUN]`.

Two faces, chosen or uploaded, and sliders between them for identity, expression, pose and light.
The page is served only to this machine, and makes no requests to others. Without a run it uses the
weights included in the package.

    python -m ntensor.faces.demo
    python -m ntensor.faces.demo build/tiny
    python -m ntensor.faces.demo build/tiny --port 8080 --checkpoint last
    python -m ntensor.faces.demo build/tiny --share network
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.demo", "demo")

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ntensor.faces.training.runs import find_shipped

from .common import extras
from .common.command import command
from .common.errors import ConfigurationError
from .page.folder import Folder
from .page.guard import Hosts
from .page.parts import Demo


def serve(
    run: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    port: int = 7860,
    share: Literal["never", "network"] = "never",
    checkpoint: Literal["best", "last"] = "best",
) -> None:
    """Serves the page until Ctrl-C.

    Args:
        run: folder of a run, or a file of weights; default: the weights included in the package.
        port: of the page.
        share: never: only this machine can open the page; network: any machine that can reach this
            one.
        checkpoint: of the run.
    """
    network = share == "network"
    with listen("0.0.0.0" if network else "127.0.0.1", port) as listener:
        run = find_shipped() if run is None else run
        demo = Demo(run, checkpoint)
        extras.check("demo")
        # Uploaded pictures must be removed when the program ends.
        for ending in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.default_int_handler)
        try:
            with Folder() as folder:
                configure_gradio(folder)
                extras.load("gradio", "demo")
                from .page.server import make_server

                server = make_server(demo, folder, Hosts(port, network))
                # The server checks a flag between turns of its loop, as for the other signals. An
                # exception could be caught by code in the loop, and the page would go on.
                signal.signal(signal.SIGHUP, server.handle_exit)
                print(f"http://127.0.0.1:{port} shows {run}; Ctrl-C ends it", flush=True)
                server.run([listener])
        except KeyboardInterrupt:
            print("ended")


def configure_gradio(folder: Folder) -> None:
    """Removes Gradio's environment variables and sets those that it must read on import."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        # A history would store every face in the browser and slow down every further move.
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_TEMP_DIR": str(folder.files),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }


def listen(address: str, port: int) -> socket.socket:
    """Opens a socket that listens on the port, before anything is loaded.

    Raises:
        ConfigurationError: the port is invalid, not allowed, or in use.
    """
    if not 0 < port < 65536:
        raise ConfigurationError(f"port must be 1 to 65535, got {port}")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"port {port} cannot be used ({error.strerror}); --port chooses another"
        ) from error
    return listener


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    tyro.cli(serve, prog="python -m ntensor.faces.demo", description=__doc__, args=arguments)
