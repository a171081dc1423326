"""Every operation of the library on a GPU at small sizes, each result against float64 on the CPU.

What `gpu_check.py` runs under compute-sanitizer. Exit code 1 and a line for each wrong result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import ntensor
from ntensor import backends

BACKENDS = ("native", "triton")
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
# n, k_x, factor sizes: one that no tile divides, one that fills several tiles.
PROJECTIONS = ((5, 33, (3, 5, 7)), (70, 130, (2, 15, 16)), (17, 40, (15, 16)))
MTTKRP = ((9, 20, 13), 6)


def calls() -> Iterator[tuple[str, str, Callable[..., object], list[Tensor]]]:
    """(name, registered operation, call with a backend, operands in float32)."""
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    for n, k_x, sizes in PROJECTIONS:
        core, z = random(k_x, *sizes) / 8, [random(n, k) for k in sizes]
        yield f"synthesis {sizes}", "synthesis", ntensor.synthesis, z
        for name in ("synthesis_projection", "synthesis_projection_with_mean"):
            yield f"{name} {n, k_x, sizes}", name, getattr(ntensor, name), [core, *z]
    for layout in ("column", "row"):

        def rotated(*operands: Tensor, backend: str, layout: str = layout) -> object:
            return ntensor.rotated_synthesis(*operands, layout=layout, backend=backend)

        def rotation(*operands: Tensor, backend: str, layout: str = layout) -> object:
            return ntensor.rotation(*operands, layout=layout, backend=backend)

        matrices = random(37, 3, 3)
        operands = [random(37, 15), random(37, 8), matrices]
        yield f"rotated_synthesis {layout}", "rotated_synthesis", rotated, operands
        yield f"rotation {layout}", "rotation", rotation, [random(37, 120), matrices]
    sizes, rank = MTTKRP
    tensor, factors = random(*sizes) / 8, [random(size, rank) for size in sizes]
    for mode in range(len(sizes)):

        def mttkrp(tensor: Tensor, *others: Tensor, backend: str, mode: int = mode) -> object:
            given: list[Tensor | None] = list(others)
            given.insert(mode, None)
            return ntensor.mttkrp(tensor, given, mode, backend=backend)

        others = [factor for m, factor in enumerate(factors) if m != mode]
        yield f"mttkrp mode {mode}", "synthesis_projection", mttkrp, [tensor, *others]


def results(function: Callable[..., object], operands: list[Tensor], backend: str) -> list[Tensor]:
    """Outputs, then the gradients of all operands for cotangents that depend on the place alone."""
    leaves = [operand.detach().requires_grad_() for operand in operands]
    outputs = function(*leaves, backend=backend)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    cotangents = [
        torch.linspace(-1, 1, output.numel()).to(output.dtype).view_as(output).to(output.device)
        for output in outputs
    ]
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    return [*(output.detach() for output in outputs), *gradients]


def check(device: torch.device, names: tuple[str, ...], wanted: tuple[torch.dtype, ...]) -> int:
    """The number of wrong calls. Prints a line for each, and the number of right ones."""
    right = wrong = 0
    for backend in names:
        for dtype in wanted:
            for name, operation, function, operands in calls():
                if reason := backends.why_not(backend, operation, device, dtype):
                    print(f"not run: {backend} {dtype} {name}: {reason}", flush=True)
                    continue
                rounded = [operand.to(dtype) for operand in operands]
                expected = results(function, [r.double() for r in rounded], "reference")
                try:
                    got = results(function, [r.to(device) for r in rounded], backend)
                except RuntimeError as error:
                    refused = "cannot serve" in str(error)
                    wrong += not refused
                    state = "not run" if refused else "wrong"
                    print(f"{state}: {backend} {dtype} {name}: {error}", flush=True)
                    continue
                errors = [
                    (torch.linalg.norm(g.cpu().double() - e) / torch.linalg.norm(e)).item()
                    for g, e in zip(got, expected, strict=True)
                ]
                if all(error <= TOLERANCE[dtype] for error in errors):
                    right += 1
                    continue
                wrong += 1
                shown = ", ".join(f"{error:.1e}" for error in errors)
                print(f"wrong: {backend} {dtype} {name}: errors {shown}", flush=True)
    print(f"{right} calls right, {wrong} wrong", flush=True)
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", nargs="+", default=BACKENDS)
    options = parser.parse_args(argv)
    return int(check(torch.device(options.device), tuple(options.backend), DTYPES) > 0)


if __name__ == "__main__":
    sys.exit(main())
