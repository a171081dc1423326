"""The cases of `train_step.py`: one model, its multilinear parts by the library or by torch."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import ntensor
from harness.machine import ForeignLoad, PeakMemory
from harness.problem import TOLERANCE, khatri_rao
from harness.timing import HostClock, Step, Timed, interleave, rank
from ntensor.faces.configuration import Configuration
from ntensor.faces.configuration.presets import paper, tiny
from ntensor.faces.networks.light_cnn import LightCNN
from ntensor.faces.networks.model import build
from ntensor.faces.training.objective import ImageAdversary, TrainingStep
from rivals import forms
from rivals.functions import HoistedMatmul, ProductMatmul


class PlainProjection(nn.Module):
    """A core's projection by torch operations; takes the place of `MultilinearProjection`.

    `way` is the form of the calculation, `mode` what happens to the core's gradient: "adds" or
    "overwrites" by a hand-written backward, "autograd" by torch's own, which adds.
    """

    def __init__(self, core: nn.Parameter, way: str, mode: str) -> None:
        super().__init__()
        self.core, self.way, self.mode = core, way, mode

    def forward(self, *factors: Tensor, mean: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if mean:
            return self._with_mean(*factors)
        return self._apply_product(factors)

    def _apply_product(self, factors: tuple[Tensor, ...]) -> Tensor:
        order = self.way.split()[-1]
        given = tuple(z.t() for z in factors) if order == "columns" else factors
        if self.mode == "autograd":
            (found,) = forms.broadcast(self.core, *given, order=order)
        else:
            found = ProductMatmul.apply(order, self.mode, self.core.grad, self.core, *given)
        return found if order == "linear" else found.t()

    def _with_mean(self, leading: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        if self.way == "hoisted":
            columns = tuple(z.t() for z in (leading, *rest))
            if self.mode == "autograd":
                found = forms.hoisted(self.core, *columns, order="columns", mean=True)
            else:
                found = HoistedMatmul.apply(True, self.mode, self.core.grad, self.core, *columns)
            return found[0].t(), found[1].t()
        constant = torch.full_like(leading, 1 / leading.shape[1])
        doubled = (torch.cat([leading, constant]), *(torch.cat([z, z]) for z in rest))
        first, second = self._apply_product(doubled).chunk(2)
        return first, second


WAYS_SHAPE = ("linear", "rows", "columns")
WAYS_FRONTAL = ("hoisted", "doubled linear", "doubled rows", "doubled columns")


class StepClock(HostClock):
    """The host's clock, which waits for the device before and after: a step is many kernels."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Case:
    """The network of a configuration, a batch, and the methods' ways through them."""

    def __init__(self, configuration: Configuration, n: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.n, self.device, self.configuration = n, device, configuration
        self.clock = StepClock(device)
        with device:
            self.model = build(configuration.model)
            self.adversary = ImageAdversary(configuration)
            size = 2 * configuration.model.image_size
            self.verification = LightCNN(input_size=size).requires_grad_(False).eval()
            self.batch = batch_of(configuration, n)
            sizes = self.configuration.model
            self.codes = [torch.randn(n, k) for k in (sizes.k_l, sizes.k_exp, sizes.k_id)]
            pixels = 3 * sizes.image_size**2
            self.incoming = [torch.randn(n, k) for k in (sizes.k_3d, pixels, pixels)]
        # A convolution takes its layout from its weights and its input.
        for part in [*self.model.modules(), *self.adversary.modules()]:
            if isinstance(part, nn.Conv2d):
                part.to(memory_format=torch.channels_last)
        image = self.batch["image"]
        self.batch["image"] = image.contiguous(memory_format=torch.channels_last)
        self.step = TrainingStep(
            self.model, configuration.losses, self.adversary, self.verification
        )
        for parameter in [*self.model.parameters(), *self.adversary.parameters()]:
            parameter.grad = torch.zeros_like(parameter)
        self.streams = (self.model.shape_stream, self.model.frontal_stream)
        self.own = tuple(stream.projection for stream in self.streams)

    @contextlib.contextmanager
    def using(self, method: Method) -> Iterator[None]:
        """Puts the method's projections in."""
        projections = method.projections(self)
        for stream, projection in zip(self.streams, projections, strict=True):
            stream.projection = projection
        feature = self.model.feature.forward
        if method.plain:
            self.model.feature.forward = plain_feature(self.model.feature.layout)
        try:
            with ntensor.use_backend(method.backend):
                yield
        finally:
            self.model.feature.forward = feature
            for stream, projection in zip(self.streams, self.own, strict=True):
                stream.projection = projection

    def multilinear(self) -> list[Tensor]:
        """Streams 1 and 3, forward and backward; the gradients of the codes."""
        z_l, z_exp, z_id = (z.detach().requires_grad_() for z in self.codes)
        shape = self.streams[0].projection(z_exp, z_id)
        image, normal = self.streams[1].projection(z_l, z_exp, z_id, mean=True)
        torch.autograd.backward([shape, image, normal], self.incoming)
        return [z_l.grad, z_exp.grad, z_id.grad]

    def whole(self) -> list[Tensor]:
        """A training step without its optimizer."""
        self.adversary.requires_grad_(False)
        loss, terms, output = self.step(self.batch)
        loss.backward()
        self.adversary.requires_grad_(True)
        objective, _ = self.adversary.objective(self.adversary.network, output, self.batch, None)
        objective.backward()
        # 1 - cos is a difference of nearly equal numbers here: the cosine is what can be compared.
        terms["verification"] = 1 - terms["verification"]
        return [loss.detach(), objective.detach(), *terms.values()]


@dataclasses.dataclass(frozen=True)
class Method:
    """A row: the library, or torch in one form and with one treatment of the core's gradient."""

    name: str
    mode: str
    plain: bool = False
    ways: tuple[str, str] = ("", "")
    backend: str | None = None

    def projections(self, case: Case) -> tuple[nn.Module, nn.Module]:
        if not self.plain:
            for projection in case.own:
                projection.accumulate_core_grad = self.mode == "adds"
            return case.own
        cores = [projection.core for projection in case.own]
        first, second = (
            PlainProjection(core, way, self.mode)
            for core, way in zip(cores, self.ways, strict=True)
        )
        return first, second


def plain_feature(layout: str) -> Callable[..., Tensor]:
    """`rotated_synthesis` by torch operations."""

    def feature(z_exp: Tensor, z_id: Tensor, z_p: Tensor) -> Tensor:
        R = z_p.unflatten(1, (3, 3))
        if layout == "row" and z_exp.shape[1] % 3 == 0:
            return forms.rotate_z_exp(z_exp, z_id, R)
        return forms.rotate(khatri_rao((z_exp, z_id)), R, layout)

    return feature


def batch_of(configuration: Configuration, n: int) -> dict[str, Tensor]:
    """Random targets of every term."""
    c = configuration.model
    maps = (n, 3, c.image_size, c.image_size)
    names = ("image", "normal", "albedo", "frontal_image", "frontal_normal")
    batch = {name: torch.rand(maps) for name in names}
    batch |= {"mask": torch.ones(n, 1, *maps[2:]), "light": torch.rand(n, 3, 9)}
    batch |= {"pose": torch.eye(3).repeat(n, 1, 1), "shape": torch.randn(n, c.k_3d)}
    batch |= {"id_3dmm": torch.randn(n, c.id_3dmm), "exp_3dmm": torch.randn(n, c.exp_3dmm)}
    return batch | {"near_frontal": torch.arange(n) % 2 == 0}


def methods(case: Case, backend: str | None) -> list[Method]:
    """The library in both modes, torch in three with the form that is fastest here."""
    named = None if backend in (None, "auto") else backend
    found = [Method("ntensor, adds", "adds", backend=named)]
    found.append(Method("ntensor, fresh", "fresh", backend=named))
    for mode in ("adds", "overwrites", "autograd"):
        ways = fastest_ways(case, mode)
        name = {"autograd": "torch, autograd adds"}.get(mode, f"torch Function, {mode}")
        found.append(Method(name, mode, plain=True, ways=ways))
    return found


def fastest_ways(case: Case, mode: str) -> tuple[str, str]:
    """The form of each stream that is fastest by itself."""
    z_l, z_exp, z_id = case.codes
    chosen = []
    for number, ways in enumerate((WAYS_SHAPE, WAYS_FRONTAL)):
        factors = (z_exp, z_id) if number == 0 else (z_l, z_exp, z_id)
        incoming = case.incoming[:1] if number == 0 else case.incoming[1:]
        steps = {}
        for way in ways:
            projection = PlainProjection(case.own[number].core, way, mode)

            def call(
                _: object,
                projection: nn.Module = projection,
                factors: tuple[Tensor, ...] = factors,
                incoming: list[Tensor] = incoming,
            ) -> None:
                given = [z.detach().requires_grad_() for z in factors]
                found = projection(*given, mean=len(factors) == 3)
                torch.autograd.backward(found, incoming)

            steps[way] = Step(call, results=lambda output: {})
        chosen.append(rank(steps, case.clock)[0])
    return chosen[0], chosen[1]


def run(options: argparse.Namespace, device: torch.device) -> list[dict[str, object]]:
    """All cases; prints a table a case."""
    base = paper()
    if options.quick:
        small = tiny().model
        sizes = {"k_3d": 300, "exp_3dmm": 10, "id_3dmm": 20, "channels": (8, 8, 8)}
        sizes |= {"image_size": 16, "k_i": 16, "k_b": 8, "k_m": 8}
        base = dataclasses.replace(base, model=dataclasses.replace(small, **sizes))
    # The library's row decides on the mode; a core is one parameter for all rows.
    rows = []
    for n in options.n:
        case = Case(base, n, device)
        listed = methods(case, options.backend)
        for part in options.part:
            rows += measure(case, part, listed, options)
    return rows


def measure(
    case: Case, part: str, listed: list[Method], options: argparse.Namespace
) -> list[dict[str, object]]:
    work = case.multilinear if part == "streams" else case.whole
    entries, rows, expected = [], [], None
    for method in listed:
        step = step_of(case, method, work)
        clear(case)
        expected_now, seconds, extra = checked(case, step)
        expected = expected_now if expected is None else expected
        row = {"part": part, "n": case.n, "method": method.name, "form": " + ".join(method.ways)}
        row["status"] = compare(expected_now, expected)
        row["extra_mb"] = None if extra is None else round(extra / 1e6)
        entries.append(Timed(step, seconds))
        rows.append(row)
    with ForeignLoad() as load:
        interleave(entries, options.seconds, options.repeats, case.clock, lambda _: None)
    reused = [e for e, row in zip(entries, rows, strict=True) if "torch" in row["method"]]
    fastest = min(statistics.median(entry.samples) for entry in reused)
    adding = min(
        statistics.median(entry.samples)
        for entry, row in zip(entries, rows, strict=True)
        if "torch" in row["method"] and "adds" in row["method"]
    )
    for entry, row in zip(entries, rows, strict=True):
        median = statistics.median(entry.samples)
        row["seconds"] = round(median, 5)
        row["images_per_second"] = round(case.n / median, 2)
        row["versus_torch_adds"] = round(adding / median, 3)
        row["versus_torch_best"] = round(fastest / median, 3)
        row["samples"] = len(entry.samples)
        row["foreign_load"] = round(load.share, 3)
    rows += apart(case, part)
    show(part, case.n, rows, load.share)
    return rows


def step_of(case: Case, method: Method, work: Callable[[], list[Tensor]]) -> Step:
    def call(_: object) -> list[Tensor]:
        with case.using(method):
            return work()

    def free() -> None:
        if method.mode == "fresh":
            for projection in case.own:
                projection.core.grad = None

    def restore() -> None:
        for projection in case.own:
            if projection.core.grad is None and method.mode != "fresh":
                projection.core.grad = torch.zeros_like(projection.core)

    return Step(call, results=lambda output: {}, prepare=restore, finish=free)


def clear(case: Case) -> None:
    for projection in case.own:
        projection.core.grad = None
    for parameter in [*case.model.parameters(), *case.adversary.parameters()]:
        if parameter.grad is not None:
            parameter.grad.zero_()


def checked(case: Case, step: Step) -> tuple[list[Tensor], float, int | None]:
    """Results and core gradients of a call from cleared gradients; seconds and memory of one."""
    prepared = step.prepare() if step.prepare else None
    found = [t.clone() for t in step.call(prepared)]
    found += [sketch(projection.core.grad) for projection in case.own]
    if step.finish:
        step.finish()
    case.clock.seconds(step)
    prepared = step.prepare() if step.prepare else None
    with PeakMemory(case.device) as memory:
        start = time.perf_counter()
        step.call(prepared)
        case.clock.synchronize()
        seconds = time.perf_counter() - start
    if step.finish:
        step.finish()
    return found, seconds, memory.extra


def sketch(core_grad: Tensor) -> Tensor:
    """Some rows of a core's gradient."""
    return core_grad.flatten(1)[:: max(1, len(core_grad) // 64)].clone()


def compare(found: list[Tensor], expected: list[Tensor]) -> str:
    errors = [
        float((a - b).double().norm() / b.double().norm().clamp_min(1e-30))
        for a, b in zip(found, expected, strict=True)
    ]
    worst = max(errors)
    return "" if worst <= TOLERANCE["float32"] else f"differs from the first row by {worst:.1e}"


def apart(case: Case, part: str) -> list[dict[str, object]]:
    """What every method does alike: clearing the gradients, the optimizer."""
    cores = [projection.core for projection in case.own]
    parameters = cores if part == "streams" else list(case.model.parameters())
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.Adam(parameters, lr=0.0)
    optimizer.step()
    rows = []
    works = {
        "zero_grad(set_to_none=False)": lambda: optimizer.zero_grad(set_to_none=False),
        "Adam": optimizer.step,
    }
    for name, work in works.items():
        step = Step(lambda _, work=work: work(), results=lambda output: {})
        median = statistics.median(case.clock.seconds(step) for _ in range(5))
        row = {"part": part, "n": case.n, "method": name, "form": "apart", "status": ""}
        rows.append(row | {"extra_mb": None, "seconds": round(median, 5)})
    return rows


def show(part: str, n: int, rows: list[dict[str, object]], foreign: float) -> None:
    print(
        f"\n{part}, n = {n}" + (f" (other processes took {foreign:.0%})" if foreign > 0.03 else "")
    )
    heads = ("method", "seconds", "images/s", "vs adds", "vs best", "extra MB")
    print("{:32}{:>10}{:>10}{:>9}{:>9}{:>10}  form".format(*heads))
    for row in rows:
        values = [row.get(k) for k in ("versus_torch_adds", "versus_torch_best", "extra_mb")]
        shown = ["" if value is None else f"{value}" for value in values]
        speed = row.get("images_per_second") or ""
        print(
            f"{row['method']:32}{row['seconds']:>10}{speed:>10}"
            f"{shown[0]:>9}{shown[1]:>9}{shown[2]:>10}  {row['form']} {row['status']}"
        )
