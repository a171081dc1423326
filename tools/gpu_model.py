"""What the GPU kernels would take on cards: a model that reads their machine code.

    python tools/gpu_model.py                   # the table of one H200
    python tools/gpu_model.py --write           # and its rows of benchmarks/results/gpu_model.csv
    python tools/gpu_model.py --check           # fails where a floor is worse than in that file

Nothing here is measured. `gpu_cards.py` has the figures that are assumed, with their sources. For
each kernel over tiles the main loop is found in the machine code; its step is the way through it
with all products. Three bounds of a step follow: one instruction a cycle and the tensor cores,
which together are the floor and hold for certain as far as the card's figures do; and the cycles
of an in-order model of one scheduler, which is taken to be right within 30 %. With the blocks that
a multiprocessor holds, the waves of the grid, the bytes of memory and the other kernels of the
call, that is an estimate in time. Where a results file has the same case of the same card,
measured, it stands beside it.
"""

import argparse
import csv
import math
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import gpu_issue
from gpu_cards import (
    BLOCK_CYCLES,
    CARDS,
    LATENCY,
    LAUNCH_SECONDS,
    SCHEDULERS,
)  # fmt: skip
from gpu_kernels import (
    MAIN,
    ROOT,
    SHAPES,
    Case,
    Code,
    Roof,
    compiler_of,
    missing,
    native_code,
    of_native,
    of_triton,
    triton_code,
)  # fmt: skip
from gpu_sass import Graph, counted

FILE = ROOT / "benchmarks/results/gpu_model.csv"
SIZES, PASSES, DTYPES = (
    (16, 64, 1024),
    ("forward", "factor-grads", "core-grad"),
    ("bfloat16", "float32"),
)
ESTIMATED = "sm_90a"
ALLOWED = 1.05  # of a floor, before it counts as worse


class Row(NamedTuple):
    """A kernel over tiles for a case on a card; without an estimate where none is made."""

    case: str
    backend: str
    card: str
    kernel: str
    registers: int
    shared: int
    resident: int
    blocks: int
    waves: float
    steps: int
    instructions: int
    tensor: int
    float: int
    memory: int
    integer: int
    control: int
    floor_cycles: int  # of a step of all resident blocks
    memory_cycles: int
    cycles: int | None
    kilobytes_in_flight: float
    bound: str
    launches: int
    kernel_microseconds: float | None
    microseconds: float | None  # of the whole call
    roof_microseconds: float
    of_roof: float | None
    measured_milliseconds: str
    compiler: str


class Step(NamedTuple):
    """A step of a main loop, and what is executed before and after."""

    code: list
    before: list
    after: list
    warps: int  # of a block and scheduler
    copied: int  # bytes that a block copies
    groups: int  # of copies that are under way while it waits


def step_of(code, warps, copies):
    graph = Graph(code.function)
    head = graph.main_loop()
    step = graph.step(head, copies)
    before, after = graph.rest(head)
    moved = [each for each in step if each.name in ("LDGSTS", "LDG")]
    waits = [
        int(each.text.split(",")[1], 16)
        for each in step
        if each.name == "DEPBAR" and "," in each.text
    ]
    copied = sum(each.bits // 8 * 32 for each in moved) * warps
    return Step(
        step, before, after, math.ceil(warps / SCHEDULERS), copied, max(waits, default=0) + 1
    )


def resident(card, registers, shared, threads):
    """Blocks that a multiprocessor holds at once."""
    a_warp = -(-registers * 32 // 256) * 256
    by_registers = card.registers // a_warp // (threads // 32)
    by_shared = card.shared // (shared + (1024 if shared <= 227 << 10 else 0))
    return max(min(by_registers, by_shared, card.threads // threads, card.blocks), 1)


def tile_steps(case, kernel, launch):
    """The steps that a block takes, on average, and the 16-byte copies of a thread in each."""
    arguments, n = launch.arguments, case.n
    k_x, (L, *inner) = case.shape.out_features, case.shape.factor_sizes
    J = math.prod(inner)
    if kernel == "hoisted":
        return min(arguments["steps_a_split"], L * -(-J // arguments["BK"])), None
    if kernel == "factor_grads":
        return arguments["l_a_split"] * arguments["m_steps_a_split"], None
    if kernel == "core_grad":
        return arguments["l_a_split"] * (
            1 if arguments["RESIDENT"] else -(-n // arguments["BN"])
        ), None
    depth, columns = 64 // (2 if case.dtype == "bfloat16" else 4), 16 if n <= 16 else 64
    copies = 3 if columns == 64 else 2
    if kernel == "project_tiles":
        tiles = -(-k_x // 128) * -(-n // columns)
        return tiles * L * -(-J // depth) / launch.blocks, copies
    if kernel == "factor_grad_tiles":
        tiles = -(-J // 128) * -(-n // columns)
        return tiles * L * -(-k_x // depth) / launch.blocks, copies
    return -(-n // depth), 1


def roof_of(card):
    """Of `_roof.py`, in the figures of a card."""
    peak = (
        2 * max(card.synchronous, card.asynchronous) * card.multiprocessors * card.gigahertz * 1e9
    )
    rates = {"read": card.bandwidth, "write": card.bandwidth, "copy": card.bandwidth,
             "gemm_bfloat16": peak, "gemm_tf32": peak / 2, "gemm_float32": 0}  # fmt: skip
    return Roof(rates)


def memory_bytes(case):
    """That the kernel over tiles moves to and from memory: the core, and what goes with it."""
    size = 2 if case.dtype == "bfloat16" else 4
    return size * case.shape.out_features * (case.shape.features + case.n)


def row_of(case, backend, card, launches, main, code, threads):
    steps, copies = tile_steps(case, main.kernel, main)
    warps = threads // 32
    step = step_of(code, warps, copies)
    held = resident(card, code.registers, code.shared, threads)
    places = card.multiprocessors * held
    kinds = counted(step.code)
    a_cycle = card.bandwidth / (card.multiprocessors * card.gigahertz * 1e9)
    bytes_a_step = memory_bytes(case) / (main.blocks * steps)
    floor = gpu_issue.floor(card, step.warps * held, step.code)
    memory = bytes_a_step * held / a_cycle
    roof = roof_of(card).seconds(case, "fresh")
    fields = {
        "case": case.title, "backend": backend, "card": card.name, "kernel": main.kernel,
        "registers": code.registers, "shared": code.shared, "resident": held, "blocks": main.blocks,
        "waves": round(main.blocks / places, 2), "steps": round(steps),
        "instructions": len(step.code), **kinds, "floor_cycles": round(floor),
        "memory_cycles": round(memory), "cycles": None,
        "kilobytes_in_flight": round(held * step.copied * step.groups / 1024, 1),
        "bound": "", "launches": len(launches), "kernel_microseconds": None, "microseconds": None,
        "roof_microseconds": round(roof * 1e6, 1), "of_roof": None,
        "measured_milliseconds": measured(case, backend, card), "compiler": compiler_of(backend),
    }  # fmt: skip
    if card.architecture == ESTIMATED:
        fields |= estimate(case, card, launches, main, step, held, steps, bytes_a_step, roof)
    fields["bound"] = fields["bound"] or ("memory" if memory > floor else "issue")
    return Row(**fields)


def estimate(case, card, launches, main, step, held, steps, bytes_a_step, roof):
    """Time of the kernel over tiles and of the call, and what bounds it."""
    hertz, places = card.gigahertz * 1e9, card.multiprocessors * held

    def wave(blocks):
        """Seconds of so many blocks that run at once, and the cycles of their step."""
        at_once = -(-blocks // card.multiprocessors)
        cycles = gpu_issue.cycles_a_step(card, at_once, step.warps, step.code)
        once = sum(
            gpu_issue.cycles_once(card, at_once, step.warps, code)
            for code in (step.before, step.after)
        )
        work = (cycles * steps + once + BLOCK_CYCLES) / hertz
        return max(work, bytes_a_step * steps * blocks / card.bandwidth), cycles

    full, rest = divmod(main.blocks, places)
    whole, cycles = wave(min(places, main.blocks))
    tail = wave(rest)[0] if rest and full else 0.0
    seconds = LAUNCH_SECONDS + whole * max(full, 1) + tail
    others = sum(other_seconds(card, each) for each in launches if each is not main)
    memory = bytes_a_step * main.blocks * steps / card.bandwidth
    tensor = step.warps * held * sum(gpu_issue.tensor_cycles(each, card) for each in step.code)
    issue = step.warps * held * len(step.code)
    bounds = {
        "memory": bytes_a_step * held * card.multiprocessors * hertz / card.bandwidth,
        "tensor": tensor, "issue": issue,
    }  # fmt: skip
    bound = max(bounds, key=bounds.get)
    if cycles > 1.25 * bounds[bound]:
        bound = "latency"
    total = seconds + others
    if memory / seconds < 0.9 and (whole * max(full, 1) + tail) * places < 0.8 * (
        whole * places * math.ceil(main.blocks / places)
    ):
        bound = "waves"
    if others > 0.3 * total:
        bound = "tail"
    return {
        "cycles": round(cycles), "bound": bound, "kernel_microseconds": round(seconds * 1e6, 1),
        "microseconds": round(total * 1e6, 1), "of_roof": round(roof / total, 2),
    }  # fmt: skip


def other_seconds(card, launch):
    """A small kernel: its launch, its bytes, and where few threads go through many parts their
    latency."""
    return (
        LAUNCH_SECONDS
        + launch.moved / card.bandwidth
        + launch.serial * LATENCY["LDG"] / (card.gigahertz * 1e9)
    )


def cases():
    return [
        Case(SHAPES["paper3"], n, dtype, pass_)
        for dtype in DTYPES
        for pass_ in PASSES
        for n in SIZES
    ]


def rows(architectures, backends, folder):
    for architecture in architectures:
        card = CARDS[architecture]
        number = int(architecture.removeprefix("sm_").rstrip("a"))
        if "native" in backends:
            tiles = native_code(architecture, folder)
            for case in cases():
                yield native_row(case, card, tiles)
        if "triton" in backends:
            known = {}
            for case in cases():
                launches = of_triton(case, (number // 10, number % 10))
                main = next(each for each in launches if each.kernel in MAIN)
                if main.code not in known:
                    known[main.code] = triton_code(main, number, folder)
                yield row_of(case, "triton", card, launches, main, known[main.code], main.threads)


def native_row(case, card, tiles):
    threads, asked = 256, {}
    for _ in range(2):  # first for the shared memory of each kernel, then with what it leaves
        held = {
            name: resident(card, tiles[name].registers, tiles[name].shared + shared, threads)
            for name, shared in asked.items()
        }
        launches = with_sums(case, of_native(case, card.multiprocessors, held))
        main = next(each for each in launches if each.kernel in MAIN)
        asked[main.code] = main.shared
    code = tiles[main.code]
    whole = Code(code.function, code.registers, code.shared + main.shared)
    return row_of(case, "native", card, launches, main, whole, threads)


def with_sums(case, launches):
    """The launches, with what the sums of the parts move and wait for."""
    main = next(each for each in launches if each.kernel in MAIN)
    n, k_x, (L, *inner) = case.n, case.shape.out_features, case.shape.factor_sizes
    J, columns = math.prod(inner), 16 if case.n <= 16 else 64
    across = -(-n // columns)
    if main.kernel == "project_tiles":
        summed = [(main.blocks // (across * -(-k_x // 128)), n * k_x)]
    else:
        parts = main.blocks // (across * -(-J // 128))
        summed = [(parts, n * J), (parts * -(-J // 128), n * L)]
    found, place = [], 0
    for each in launches:
        if each.kernel == "sum_parts":
            parts, elements = summed[place]
            place += 1
            threads = max(each.blocks * each.threads // elements, 1)  # of an element
            each = each._replace(
                moved=4 * (parts + 1) * elements, serial=parts // min(threads, 16) // 4
            )
        found.append(each)
    return found


def measured(case, backend, card):
    """The milliseconds of a results file in which this case was measured on this card, as text."""
    wanted = {
        "operation": case.operation, "shape": case.shape.name, "n": str(case.n),
        "dtype": case.dtype, "pass": case.pass_,
    }  # fmt: skip
    for file in sorted(FILE.parent.glob("synthesis*.csv")):
        with file.open(newline="") as lines:
            for line in csv.DictReader(lines):
                same = all(line.get(name) == value for name, value in wanted.items())
                if same and card.name in line["device"] and backend in line["method"]:
                    return line["median_ms"]
    return ""


def key(row):
    return row["case"], row["backend"], row["card"]


def worse(found, kept):
    """What has a floor, instructions for the resources of a block, that is over 5 % worse."""
    before = {key(row): row for row in kept}
    for row in found:
        old = before.get(key(row._asdict()))
        if old is None:
            yield f"{row.case}, {row.backend}, {row.card}: not in the file"
            continue
        now, then = row.floor_cycles / row.resident, int(old["floor_cycles"]) / int(old["resident"])
        if now > ALLOWED * then:
            compilers = f"{old['compiler']} -> {row.compiler}"
            yield f"{row.case}, {row.card}: floor {then:.0f} -> {now:.0f} cycles, {compilers}"


def kept_rows():
    """The rows of the results file."""
    if not FILE.exists():
        return []
    with FILE.open(newline="") as file:
        return list(csv.DictReader(file))


def printed(row):
    estimate = f"{row.microseconds:7.0f} us {row.of_roof:5.2f}" if row.microseconds else ""
    return (
        f"{row.backend:7}{row.case[29:]:58}{row.registers:4} regs {row.resident} blocks "
        f"{row.waves:6.2f} waves {row.instructions:5} instr {row.floor_cycles:5} floor "
        f"{row.cycles or 0:6} cycles {row.memory_cycles:5} memory {estimate} {row.bound}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", nargs="+", default=["native", "triton"])
    parser.add_argument("--architecture", nargs="+", choices=list(CARDS), default=[ESTIMATED])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if lacking := missing():
        parser.error(f"the model needs {lacking}")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(options.architecture, options.backend, Path(folder)):
            print(printed(row), flush=True)
            found.append(row)
    if options.check:
        problems = list(worse(found, kept_rows()))
        print("\n".join(problems))
        sys.exit(bool(problems))
    if options.write:
        made = [
            {name: "" if value is None else str(value) for name, value in row._asdict().items()}
            for row in found
        ]
        known = {key(row) for row in made}
        made += [row for row in kept_rows() if key(row) not in known]
        with FILE.open("w", newline="") as file:
            writer = csv.DictWriter(file, Row._fields)
            writer.writeheader()
            writer.writerows(sorted(made, key=lambda row: (row["card"], row["backend"])))


if __name__ == "__main__":
    main()
