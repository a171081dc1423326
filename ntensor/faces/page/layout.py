"""The layout and the event handlers of the page, in Gradio."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import fastapi
import gradio as gr

from ntensor.faces.common.errors import FacesError

from .calls import Calls
from .folder import Folder
from .guard import MOST_UPLOADED
from .parts import LARGEST_WEIGHT, SIDES, SLIDERS, Demo
from .visitors import MOST_VISITORS, Visitors

MOST_WAITING = 32

P = ParamSpec("P")
T = TypeVar("T")

STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.face img, .large img { width: 100%; display: block; border-radius: 12px; }
.large { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px; }
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


def build_page(visitors: Visitors) -> gr.Blocks:
    """Builds the page of a demo."""
    parts: dict[str, Any] = {}
    with gr.Blocks(title="ntensor: two faces", delete_cache=(60, 600)) as page:
        gr.Markdown(f"## Two faces, and what lies between them\n{visitors.demo.sentence}")
        with gr.Row(elem_classes="columns"):
            _build_side(visitors.demo, parts, "first")
            _build_middle(parts)
            _build_side(visitors.demo, parts, "second")
        for name in ("edited", *SIDES):
            parts[f"{name} maps"] = gr.HTML(elem_id=f"{name}-maps")
        _wire(visitors, parts, page)
    page.queue(max_size=MOST_WAITING, api_open=False)
    page.state_session_capacity = MOST_VISITORS
    return page


def make_application(page: gr.Blocks) -> Any:
    """Wraps the page as an ASGI application."""
    return gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page,
        "/",
        footer_links=[],
        run_history=False,
        max_file_size=MOST_UPLOADED,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"]),
        css=STYLE,
    )


def list_calls(page: gr.Blocks, folder: Folder) -> Calls:
    """The calls that the page accepts."""
    kinds = {gr.Slider: "weight", gr.UploadButton: "upload"}
    functions = {
        index: [kinds[type(block)] for block in function.inputs]
        for index, function in page.fns.items()
    }
    selecting = {
        index
        for index, function in page.fns.items()
        for block, event in function.targets
        if event == "select" and isinstance(page.blocks[block], gr.Gallery)
    }
    return Calls(functions, selecting, folder)


def _build_side(demo: Demo, parts: dict[str, Any], side: str) -> None:
    with gr.Column(scale=2, min_width=150):
        gr.Markdown(f"### {side.title()} face")
        parts[f"{side} face"] = gr.HTML(elem_classes="face", elem_id=f"{side}-face")
        parts[f"{side} upload"] = gr.UploadButton(
            "Upload a picture", file_types=["image"], size="sm", elem_id=f"{side}-upload"
        )
        parts[f"{side} offered"] = gr.Gallery(
            demo.show_offered(0),
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


def _build_middle(parts: dict[str, Any]) -> None:
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
            gr.Slider(0.0, LARGEST_WEIGHT, 0.0, step=0.01, label=name.title(), elem_id=name)
            for name in SLIDERS
        ]
        with gr.Row():
            parts["back"] = gr.Button("All to the first", size="sm", min_width=120)
            parts["across"] = gr.Button("All to the second", size="sm", min_width=120)


def _wire(visitors: Visitors, parts: dict[str, Any], page: gr.Blocks) -> None:
    sliders = parts["sliders"]
    edited = [parts["edited face"], parts["edited maps"]]
    sides = {side: [parts[f"{side} face"], parts[f"{side} maps"]] for side in SIDES}

    @_show_errors
    def start(request: gr.Request) -> list[str]:
        return visitors.start(request.session_hash)

    def forget(request: gr.Request) -> None:
        visitors.forget(request.session_hash)

    @_show_errors
    def edit(request: gr.Request, *values: float) -> list[str]:
        return visitors.edit(request.session_hash, values)

    @_show_errors
    def show_shape(request: gr.Request, *values: float) -> Any:
        path = visitors.make_shape(request.session_hash, values)
        return gr.skip() if path is None else str(path)

    live = {"show_progress": "hidden", "trigger_mode": "always_last"}
    editing_of = {"fn": edit, "inputs": sliders, "outputs": edited, **live}
    shape_of = {"fn": show_shape, "inputs": sliders, "outputs": parts["shape"], **live}
    page.load(start, None, [*sides["first"], *sides["second"], *edited])
    page.unload(forget)
    gr.on([slider.input for slider in sliders], **editing_of, queue=False)
    gr.on([slider.release for slider in sliders], **shape_of)
    for name, solid in (("flat", False), ("solid", True)):

        @_show_errors
        def show(request: gr.Request, solid: bool = solid) -> None:
            visitors.show(request.session_hash, solid)

        selected = parts[f"{name} tab"].select(show, None, None)
        if solid:
            selected.then(**shape_of)
    for name, value in (("back", 0.0), ("across", 1.0)):
        all_of = [value] * len(sliders)
        parts[name].click(lambda weights=all_of: weights, None, sliders).then(**editing_of).then(
            **shape_of
        )
    for side in SIDES:
        _wire_side(visitors, parts, side, [*sides[side], *edited], shape_of)


def _wire_side(
    visitors: Visitors,
    parts: dict[str, Any],
    side: str,
    outputs: list[Any],
    shape_of: dict[str, Any],
) -> None:
    sliders, offered = parts["sliders"], parts[f"{side} offered"]

    @_show_errors
    def choose(request: gr.Request, event: gr.SelectData, *values: float) -> list[str]:
        return visitors.choose(request.session_hash, side, event.index, values)

    @_show_errors
    def upload(request: gr.Request, file: Any, *values: float) -> list[str]:
        return visitors.upload(request.session_hash, side, Path(file["path"]), values)

    @_show_errors
    def others(request: gr.Request) -> list[Any]:
        return visitors.offer_others(request.session_hash, side)

    hidden = {"outputs": outputs, "show_progress": "hidden"}
    offered.select(choose, sliders, **hidden).then(**shape_of)
    given = parts[f"{side} upload"]
    # Gradio's preprocessing would leave another copy of the file.
    given.upload(upload, [given, *sliders], **hidden, preprocess=False).then(**shape_of)
    parts[f"{side} others"].click(others, None, offered)


def _show_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Shows errors as messages on the page."""

    @functools.wraps(function)
    def handler(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except (FacesError, OSError) as error:
            sentence = html.escape(str(error), quote=False)
            raise gr.Error(sentence, print_exception=False) from error

    return handler
