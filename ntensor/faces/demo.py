"""A page to try a trained face model: `python -m ntensor.faces.demo RUN`.

Two faces, chosen or uploaded, and sliders between them for identity, expression, pose and light.
The page is served to this machine alone, and asks nothing of any other.

    python -m ntensor.faces.demo build/tiny
    python -m ntensor.faces.demo build/tiny --port 8080 --checkpoint last
    python -m ntensor.faces.demo build/tiny --share network
"""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from . import extras
from .configuration import Configuration
from .editing.session import FACTORS, EncodedFace, Session, encode, require_factors
from .errors import ConfigurationError, FacesError
from .evaluation.run import load_run
from .face_model import FaceModel
from .renderer import Camera
from .sheet import as_colours
from .training.samples import face_model_of, generated

# Faces to choose from at a time.
OFFERED = 12
SIDES = ("first", "second")
LARGEST_PIXELS = 40_000_000
SMALLEST_SIDE = 16

SHOWN = {
    "image": "reconstruction",
    "normal": "normals",
    "albedo": "albedo",
    "shading": "shading",
    "mask": "mask",
    "background": "background",
    "frontal_image": "frontal image",
    "frontal_normal": "frontal normals",
}
SLIDERS = {
    "identity": "Identity",
    "expression": "Expression",
    "pose": "Pose",
    "light": "Light",
}

STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.face img, .result img { width: 100%; display: block; border-radius: 12px; background: #8882; }
.result img { max-width: 520px; margin: 0 auto; }
.maps { display: grid; grid-template-columns: repeat(8, 1fr); gap: 8px; }
.maps figure { margin: 0; }
.maps img { width: 100%; display: block; border-radius: 8px; }
.maps figcaption { font-size: 12px; text-align: center; opacity: .75; line-height: 1.4; }
.row-title { font-weight: 600; margin: 6px 0 4px; }
.offered .grid-wrap { max-height: none !important; }
@media (max-width: 760px) {
  .columns { display: grid !important; grid-template-columns: 1fr 1fr; }
  .columns > * { min-width: 0 !important; }
  .columns > .middle { grid-column: 1 / 3; grid-row: 2; }
  .maps { grid-template-columns: repeat(4, 1fr); }
}
"""


class Demo:
    """What the page shows and does, without the page.

    Args:
        run (Path): folder that training wrote.
        which (str): checkpoint, `"best"` or `"last"`.

    Raises:
        FacesError: there is no such run, its network lacks a factor, or its face model is not at
            hand.
    """

    def __init__(self, run: Path, which: str = "best") -> None:
        model, self.configuration, self.step = load_run(run, which)
        self.model = require_factors(model)
        self.size = self.configuration.model.image_size
        self.face_model = shape_model(self.configuration)
        self.triangles = self.face_model.shape_triangles()
        self.faces = generated(self.configuration.data, "test", self.size)

    @property
    def sentence(self) -> str:
        """What was trained on what."""
        return (
            f"Trained with {self.step} updates on generated faces ({self.face_model.source}) and "
            "on nothing else; the faces to choose from are other persons than those of the "
            "training, and a photograph is something that it has never seen."
        )

    def offered(self, page: int) -> list[Any]:
        """Pictures (S, S, 3), uint8, of the faces to choose from."""
        batch = self.faces.batch(range(page * OFFERED, (page + 1) * OFFERED))
        return [as_bytes(image) for image in batch["image"]]

    def choose(self, number: int) -> EncodedFace:
        """The generated face of that number."""
        return encode(self.model, self.faces.batch([number])["image"][0])

    def upload(self, path: str) -> EncodedFace:
        """The face of a picture's file.

        Raises:
            FacesError: the file is no picture, or too small or too large a one.
        """
        return encode(self.model, read_picture(Path(path), self.size))

    def start(self) -> Session:
        """The session that a new page begins with."""
        return Session(self.model, self.choose(0), self.choose(1))

    def mesh(self, session: Session, weights: Mapping[str, float]) -> bytes:
        """The edited shape as a GLB file, coloured by the frontal image."""
        trimesh = extras.load("trimesh")
        vertices = session.shape(weights)
        colours = vertex_colours(vertices, session.decode(weights)["frontal_image"])
        mesh = trimesh.Trimesh(
            (vertices * 1e-3).numpy(),
            self.triangles.numpy(),
            vertex_colors=(colours * 255).round().to(torch.uint8).numpy(),
            process=False,
        )
        found: bytes = mesh.export(file_type="glb")
        return found


def shape_model(configuration: Configuration) -> FaceModel:
    """The face model whose vertices the network's shape has.

    Raises:
        ConfigurationError: the one at hand has others.
    """
    face = face_model_of(configuration.data)
    if face.shape_size != configuration.model.k_3d:
        raise ConfigurationError(
            f"the run's shape has {configuration.model.k_3d} coordinates, that of {face.source} "
            f"{face.shape_size}; NTENSOR_FACE_MODEL names the face model that the run was "
            "trained with"
        )
    return face


def vertex_colours(vertices: Tensor, frontal_image: Tensor) -> Tensor:
    """The colour of the frontal image where each vertex lies in it.

    Args:
        vertices (Tensor[V, 3]): millimetres, frontal.
        frontal_image (Tensor[1, 3, S, S])

    Returns:
        Tensor[V, 3]: 0 to 1.
    """
    camera = Camera()
    middle = vertices.new_tensor(camera.center)
    # A little inwards, so that no vertex of the outline takes the colour of the empty background.
    place = 0.94 * (vertices[:, :2] - middle) / camera.half_width * vertices.new_tensor([1, -1])
    found = torch.nn.functional.grid_sample(
        frontal_image, place.view(1, 1, -1, 2), padding_mode="border", align_corners=False
    )
    return found[0, :, 0].t().clamp(0, 1)


def read_picture(path: Path, size: int) -> Tensor:
    """The middle square of a picture's file as Tensor[3, size, size], 0 to 1.

    Raises:
        FacesError: the file is no picture, or too small or too large a one.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            if min(width, height) < SMALLEST_SIDE or width * height > LARGEST_PIXELS:
                raise FacesError(
                    f"a picture must have {SMALLEST_SIDE} pixels a side or more and "
                    f"{LARGEST_PIXELS / 1e6:.0f} million in all or fewer, got {width} x {height}"
                )
            upright = ImageOps.exif_transpose(image).convert("RGB")
            square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise FacesError(f"{path.name}: not a picture that can be read ({error})") from error
    values = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return values.view(size, size, 3).permute(2, 0, 1) / 255


def as_bytes(image: Tensor) -> Any:
    """An image (3, S, S), 0 to 1, as array (S, S, 3), uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def picture(image: Tensor, description: str) -> str:
    """An image (3, S, S), 0 to 1, as HTML that needs no other file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(as_bytes(image)).save(file, "PNG", compress_level=1)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def row_of_maps(title: str, maps: Mapping[str, Tensor]) -> str:
    """The decodings of one face as HTML, each with its name."""
    figures = "".join(
        f"<figure>{picture(as_colours(name, maps[name])[0], f'{title}: {shown}')}"
        f"<figcaption>{shown}</figcaption></figure>"
        for name, shown in SHOWN.items()
    )
    return f'<div class="row-title">{title}</div><div class="maps">{figures}</div>'


def build_page(demo: Demo, folder: Path) -> Any:
    """The page (gradio.Blocks) of a demo.

    Args:
        demo (Demo)
        folder (Path): for the files of the 3D view.
    """
    gr = extras.load("gradio", "demo")

    def weights_of(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(FACTORS, values, strict=True))

    def edited(session: Session, *values: float) -> tuple[str, str]:
        maps = session.decode(weights_of(values))
        return picture(maps["image"][0], "edited face"), row_of_maps("Edited face", maps)

    def solid(session: Session, shown: bool, *values: float) -> Any:
        if not shown:
            return gr.skip()
        path = folder / f"{id(session)}.glb"
        path.write_bytes(demo.mesh(session, weights_of(values)))
        return str(path)

    def faces(session: Session) -> list[str]:
        pair = {"first": session.first, "second": session.second}
        inputs = [picture(face.image[0], f"{side} face") for side, face in pair.items()]
        rows = [row_of_maps(f"{side.title()} face", face.maps) for side, face in pair.items()]
        return [*inputs, *rows]

    def begin() -> list[Any]:
        session = demo.start()
        return [session, *faces(session), *edited(session, *(0.0 for _ in FACTORS))]

    def replaced(session: Session, side: str, face: EncodedFace, values: Any) -> list[Any]:
        pair = {"first": session.first, "second": session.second, side: face}
        session = Session(demo.model, pair["first"], pair["second"])
        return [session, *faces(session), *edited(session, *values)]

    with gr.Blocks(title="ntensor: faces", delete_cache=(600, 600)) as page:
        session = gr.State(time_to_live=3600)
        in_3d = gr.State(False)
        gr.Markdown(f"## Two faces, and what lies between them\n{demo.sentence}")
        columns: dict[str, Any] = {}
        with gr.Row(elem_classes="columns"):
            for side in ("first", "middle", "second"):
                if side == "middle":
                    with gr.Column(scale=5, min_width=320, elem_classes="middle"):
                        with gr.Tabs():
                            with gr.Tab("Picture") as flat_tab:
                                result = gr.HTML(elem_classes="result", elem_id="result")
                            with gr.Tab("3D shape") as solid_tab:
                                shape = gr.Model3D(
                                    show_label=False, height=420, elem_id="shape", interactive=False
                                )
                        gr.Markdown("Sliders: **0** is the first face, **1** the second.")
                        sliders = [
                            gr.Slider(0, 1.5, 0.0, step=0.01, label=label, elem_id=name)
                            for name, label in SLIDERS.items()
                        ]
                        with gr.Row():
                            back = gr.Button("All to the first face", size="sm")
                            across = gr.Button("All to the second face", size="sm")
                    continue
                with gr.Column(scale=2, min_width=150):
                    columns[side] = {
                        "title": gr.Markdown(f"### {side.title()} face"),
                        "face": gr.HTML(elem_classes="face", elem_id=f"{side}-face"),
                        "upload": gr.UploadButton(
                            "Upload a picture", file_types=["image"], size="sm",
                            elem_id=f"{side}-upload",
                        ),  # fmt: skip
                        "offered": gr.Gallery(
                            demo.offered(0), columns=4, allow_preview=False, show_label=False,
                            format="png", elem_id=f"{side}-offered", elem_classes="offered",
                            interactive=False, buttons=[], height="auto",
                        ),  # fmt: skip
                        "others": gr.Button("Other faces", size="sm"),
                        "page": gr.State(0),
                    }
        rows = {
            name: gr.HTML(elem_id=f"{name}-maps") for name in ("edited", "first", "second")
        }
        shown = [
            session, *(columns[side]["face"] for side in SIDES), rows["first"], rows["second"],
            result, rows["edited"],
        ]  # fmt: skip
        page.load(begin, outputs=shown, show_progress="hidden")
        live: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        picked = {"inputs": [session, *sliders], "outputs": [result, rows["edited"]]}
        solidly = {"inputs": [session, in_3d, *sliders], "outputs": shape}
        gr.on([s.input for s in sliders], edited, **picked, **live, queue=False)
        gr.on([s.release for s in sliders], solid, **solidly, **live)
        flat_tab.select(lambda: False, outputs=in_3d)
        solid_tab.select(lambda: True, outputs=in_3d).then(solid, **solidly, **live)
        for button, value in ((back, 0.0), (across, 1.0)):
            button.click(lambda value=value: [value] * len(sliders), outputs=sliders).then(
                edited, **picked, **live
            ).then(solid, **solidly, **live)
        for side, column in columns.items():

            def choose(session: Session, at: int, *values: float, event: Any, side: str = side):
                face = demo.choose(at * OFFERED + event.index)
                return replaced(session, side, face, values)

            choose.__annotations__["event"] = gr.SelectData

            def upload(session: Session, path: str, *values: float, side: str = side):
                try:
                    face = demo.upload(path)
                except FacesError as error:
                    raise gr.Error(str(error), print_exception=False) from error
                return replaced(session, side, face, values)

            def others(at: int):
                return at + 1, demo.offered(at + 1)

            column["offered"].select(
                choose, [session, column["page"], *sliders], shown, show_progress="hidden"
            ).then(solid, **solidly, **live)
            column["upload"].upload(
                upload, [session, column["upload"], *sliders], shown, show_progress="hidden"
            ).then(solid, **solidly, **live)
            column["others"].click(others, column["page"], [column["page"], column["offered"]])
    return page


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
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        gr = extras.load("gradio", "demo")
        page = build_page(Demo(run, checkpoint), Path(folder))
        address = "127.0.0.1" if share == "never" else "0.0.0.0"
        try:
            page.launch(
                server_name=address,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size="20mb",
                footer_links=[],
                theme=gr.themes.Default(font=["system-ui", "sans-serif"]),
                css=STYLE,
                ssr_mode=False,
                run_history=False,
            )
        except OSError as error:
            raise FacesError(f"port {port} cannot be used ({error}); --port chooses one") from error
        print(f"http://127.0.0.1:{port} shows {run}; Ctrl-C ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nended")
        finally:
            page.close(verbose=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    try:
        tyro = extras.load("tyro")
        tyro.cli(
            tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(serve),
            prog="python -m ntensor.faces.demo",
            description=__doc__,
            args=arguments,
        )
    except (FacesError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
