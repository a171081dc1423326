"""A page to try a trained face model: `python -m ntensor.faces.demo RUN`.

Two faces, chosen or uploaded, and sliders between them for identity, expression, pose and light.
The page is served to this machine alone, and asks nothing of any other.

    python -m ntensor.faces.demo build/tiny
    python -m ntensor.faces.demo build/tiny --port 8080 --checkpoint last
    python -m ntensor.faces.demo build/tiny --share network
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ntensor.faces.editing.session import Session

from . import extras
from .command import command
from .demo_parts import OFFERED, SIDES, SLIDERS, Demo
from .errors import ConfigurationError, FacesError

LARGEST_FILE = "20mb"

STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.face img, .large img { width: 100%; display: block; border-radius: 12px; }
.large { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
.maps { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 8px; }
.large figure, .maps figure { margin: 0; }
.maps img { width: 100%; display: block; border-radius: 8px; }
.large figcaption { text-align: center; margin-top: 4px; }
.maps figcaption { font-size: 12px; text-align: center; opacity: .75; line-height: 1.5; }
.maps-title { font-weight: 600; margin: 4px 0; }
.offered .grid-wrap { min-height: 0 !important; max-height: none !important;
  overflow: hidden !important; padding: 6px; }
.offered .grid-container { gap: 6px !important; grid-auto-rows: auto !important;
  grid-template: none / repeat(3, minmax(0, 1fr)) !important; }
.offered .thumbnail-item { width: 100% !important; height: auto !important; aspect-ratio: 1; }
@media (max-width: 760px) {
  .columns { display: grid !important; grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .columns > * { min-width: 0 !important; }
  .columns > .middle { grid-column: 1 / 3; grid-row: 2; }
  .maps { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .maps figcaption { font-size: 10px; }
}
"""


def build_page(demo: Demo, folder: Path) -> Any:
    """The page (gradio.Blocks) of a demo.

    Args:
        demo (Demo)
        folder (Path): for the files of the 3D view.
    """
    gr = extras.load("gradio", "demo")
    parts: dict[str, Any] = {}
    with gr.Blocks(title="ntensor: two faces", delete_cache=(600, 600)) as page:
        gr.Markdown(f"## Two faces, and what lies between them\n{demo.sentence}")
        with gr.Row(elem_classes="columns"):
            _side(gr, demo, parts, "first")
            _middle(gr, parts)
            _side(gr, demo, parts, "second")
        for name in ("edited", *SIDES):
            parts[f"{name} maps"] = gr.HTML(elem_id=f"{name}-maps")
        parts["session"] = gr.State()
        _wire(gr, demo, parts, page, folder)
    return page


def _side(gr: Any, demo: Demo, parts: dict[str, Any], side: str) -> None:
    with gr.Column(scale=2, min_width=150):
        gr.Markdown(f"### {side.title()} face")
        parts[f"{side} face"] = gr.HTML(elem_classes="face", elem_id=f"{side}-face")
        parts[f"{side} upload"] = gr.UploadButton(
            "Upload a picture", file_types=["image"], size="sm", elem_id=f"{side}-upload"
        )
        parts[f"{side} offered"] = gr.Gallery(
            demo.offered(0),
            format="png",
            columns=3,
            height="auto",
            allow_preview=False,
            show_label=False,
            interactive=False,
            buttons=[],
            elem_id=f"{side}-offered",
            elem_classes="offered",
        )
        parts[f"{side} others"] = gr.Button("Other faces", size="sm")
        parts[f"{side} number"] = gr.State(0)


def _middle(gr: Any, parts: dict[str, Any]) -> None:
    with gr.Column(scale=5, min_width=320, elem_classes="middle"):
        with gr.Tabs():
            with gr.Tab("Picture") as parts["flat tab"]:
                parts["edited face"] = gr.HTML(elem_id="edited-face")
            with gr.Tab("3D shape") as parts["solid tab"]:
                parts["shape"] = gr.Model3D(
                    height=480, show_label=False, interactive=False, elem_id="shape"
                )
        gr.Markdown("Move from the first face (0) to the second (1), and beyond.")
        parts["sliders"] = [
            gr.Slider(0.0, 1.5, 0.0, step=0.01, label=name.title(), elem_id=name)
            for name in SLIDERS
        ]
        with gr.Row():
            parts["back"] = gr.Button("All to the first", size="sm", min_width=120)
            parts["across"] = gr.Button("All to the second", size="sm", min_width=120)


def _wire(gr: Any, demo: Demo, parts: dict[str, Any], page: Any, folder: Path) -> None:
    session, sliders = parts["session"], parts["sliders"]
    in_3d = gr.State(False)

    def weights_of(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(SLIDERS, values, strict=True))

    def in_page(error: FacesError) -> Exception:
        found: Exception = gr.Error(str(error), print_exception=False)
        return found

    def start() -> list[Any]:
        session, sides = demo.start()
        return [session, *sides["first"], *sides["second"], *demo.edited(session, {})]

    def edit(session: Session, *values: float) -> list[str]:
        return demo.edited(session, weights_of(values))

    def show_shape(session: Session, shown: bool, *values: float) -> Any:
        if not shown:
            return gr.skip()
        path = folder / f"shape-{id(session)}.glb"
        try:
            path.write_bytes(demo.mesh(session, weights_of(values)))
        except FacesError as error:
            raise in_page(error) from error
        return str(path)

    live = {"show_progress": "hidden", "trigger_mode": "always_last"}
    edited = [parts["edited face"], parts["edited maps"]]
    editing_of = {"fn": edit, "inputs": [session, *sliders], "outputs": edited, **live}
    shape_of = {
        "fn": show_shape, "inputs": [session, in_3d, *sliders], "outputs": parts["shape"], **live
    }  # fmt: skip
    sides = {side: [parts[f"{side} face"], parts[f"{side} maps"]] for side in SIDES}
    page.load(start, None, [session, *sides["first"], *sides["second"], *edited])
    gr.on([slider.input for slider in sliders], **editing_of, queue=False)
    gr.on([slider.release for slider in sliders], **shape_of)
    parts["flat tab"].select(lambda: False, None, in_3d)
    parts["solid tab"].select(lambda: True, None, in_3d).then(**shape_of)
    for name, value in (("back", 0.0), ("across", 1.0)):
        all_of = [value] * len(sliders)
        parts[name].click(lambda found=all_of: found, None, sliders).then(**editing_of).then(
            **shape_of
        )
    for side in SIDES:

        def replace(session: Session, image: Tensor, values: Any, side: str = side) -> list[Any]:
            session = session.replaced(side, demo.fixed(image))
            shown = demo.side(side, session, image)
            return [session, *shown, *demo.edited(session, weights_of(values))]

        def choose(event, session, page, *values, replace=replace):  # type: ignore[no-untyped-def]
            return replace(session, demo.face(page * OFFERED + event.index).image, values)

        # Gradio recognises the event's data by its type, which is known only here.
        choose.__annotations__["event"] = gr.SelectData

        def upload(session: Session, path: str, *values: float, replace: Any = replace) -> Any:
            try:
                image = demo.uploaded(Path(path))
            except FacesError as error:
                raise in_page(error) from error
            return replace(session, image, values)

        def others(page: int) -> tuple[int, list[Any]]:
            return page + 1, demo.offered(page + 1)

        number, offered = parts[f"{side} number"], parts[f"{side} offered"]
        outputs = [session, *sides[side], *edited]
        offered.select(
            choose, [session, number, *sliders], outputs, show_progress="hidden"
        ).then(**shape_of)  # fmt: skip
        parts[f"{side} upload"].upload(
            upload, [session, parts[f"{side} upload"], *sliders], outputs, show_progress="hidden"
        ).then(**shape_of)
        parts[f"{side} others"].click(others, number, [number, offered])


def serve(
    run: Path,
    *,
    port: int = 7860,
    share: Literal["never", "network"] = "never",
    checkpoint: Literal["best", "last"] = "best",
) -> None:
    """Serves the page until Ctrl-C.

    Args:
        run: folder that training wrote.
        port: of the page.
        share: never: this machine alone can open the page; network: every machine that reaches
            this one.
        checkpoint: of the run.
    """
    address = "127.0.0.1" if share == "never" else "0.0.0.0"
    check_port(address, port)
    demo = Demo(run, checkpoint)
    # Read when gradio is imported. A history would keep every face in the browser, and writing it
    # would make each move slower than the one before.
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    gr = extras.load("gradio", "demo")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(demo, Path(folder))
        page.launch(
            server_name=address,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=LARGEST_FILE,
            state_session_capacity=50,
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"]),
            css=STYLE,
            ssr_mode=False,
        )
        print(f"http://127.0.0.1:{port} shows {run}; Ctrl-C ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("ended")
        finally:
            page.close(verbose=False)


def check_port(address: str, port: int) -> None:
    """Refuses a port that cannot be listened to, before anything is loaded.

    Raises:
        ConfigurationError: it is no port, not allowed, or another program has it.
    """
    if not 0 < port < 65536:
        raise ConfigurationError(f"port must be 1 to 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} cannot be used ({error.strerror}); --port chooses another"
            ) from error


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    tyro = extras.load("tyro")
    tyro.cli(
        tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(serve),
        prog="python -m ntensor.faces.demo",
        description=__doc__,
        args=arguments,
    )


if __name__ == "__main__":
    main()
