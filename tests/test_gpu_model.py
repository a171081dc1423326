"""The model of the GPU kernels: what it reads out of machine code, and that no kernel's floor is
worse than the file says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpu_issue
import gpu_model
import gpu_sass
from gpu_cards import CARDS

ROOT = Path(__file__).resolve().parent.parent

# nvdisasm's lines: an address, an instruction, its lower and its upper half. The upper half has
# from bit 41 on: cycles to the next instruction, barriers set, freed (7: none), waited for.
PLAIN, LOADS, WAITS = "000fe20000000000", "000e280000000000", "001fe20000000000"


def listing(*lines):
    """Machine code as nvdisasm shows it; a line is a label, or an instruction and its upper
    half."""
    text, address = [".text.kernel:"], 0
    for line in lines:
        if isinstance(line, str):
            text.append(f"{line}:")
            continue
        instruction, upper = line
        text.append(f"        /*{address:04x}*/    {instruction} ;    /* 0x0000000000000000 */")
        text.append(f"                             /* 0x{upper} */")
        address += 16
    return "\n".join([*text, '        .section .other,"a"'])


LOOP = (
    ("MOV R0, RZ", PLAIN),
    ".L_x_0",
    ("ISETP.NE.AND P0, PT, R0, RZ, PT", PLAIN),
    ("LDGSTS.E.BYPASS.128 [R2], [R4.64]", PLAIN),
    ("@P0 BRA `(.L_x_2)", PLAIN),
    ("FADD R6, R6, R7", PLAIN),  # now and then
    ("FADD R6, R6, R7", PLAIN),
    ".L_x_2",
    ("LDSM.16.M88.4 R8, [R2]", LOADS),
    ("HMMA.16816.F32.BF16 R12, R8, R10, R12", WAITS),
    ("@P1 BRA `(.L_x_0)", PLAIN),
    ("STG.E [R4.64], R12", PLAIN),
    ("EXIT", PLAIN),
)


@pytest.fixture
def graph():
    (function,) = gpu_sass.parse(listing(*LOOP))
    return gpu_sass.Graph(function)


def test_machine_code_is_read(graph):
    loads, product = graph.function.instructions[6:8]
    assert (loads.name, loads.bits, loads.kind) == ("LDSM", 128, "memory")
    assert (loads.sets, loads.waits, product.sets, product.waits) == (0, 0, 7, 1)
    assert product.kind == "tensor"
    assert graph.function.instructions[3].target == ".L_x_2"
    assert graph.function.instructions[3].guarded


def test_a_step_is_the_shortest_way_with_all_products(graph):
    head = graph.main_loop()
    step = graph.step(head)
    names = [each.name for each in step]
    assert names == ["ISETP", "LDGSTS", "BRA", "LDSM", "HMMA", "BRA"]
    assert gpu_sass.counted(step) == {
        "tensor": 1, "float": 0, "memory": 2, "integer": 1, "control": 2,
    }  # fmt: skip
    before, after = graph.rest(head)
    assert [each.name for each in before] == ["MOV"]
    assert [each.name for each in after] == ["STG", "EXIT"]


def test_a_loop_may_be_left_by_a_call():
    """Of a label; what comes after it is reached."""
    first = (
        ".L_x_3",
        ("FADD R6, R6, R7", PLAIN),
        ("@P0 CALL.REL.NOINC `(.L_x_4)", PLAIN),
        ("BRA `(.L_x_3)", PLAIN),
        ".L_x_4",
        ("CALL.REL.NOINC `(quotient)", PLAIN),
    )
    (function,) = gpu_sass.parse(listing(*first, *LOOP))
    graph = gpu_sass.Graph(function)
    names = [each.name for each in graph.step(graph.main_loop())]
    assert names == ["ISETP", "LDGSTS", "BRA", "LDSM", "HMMA", "BRA"]


def test_cycles_of_a_step(graph):
    """Never below the floor; a second block hides what one waits for; a product waits for its
    operand."""
    card = CARDS["sm_90a"]
    step = [each for each in graph.step(graph.main_loop()) if each.name != "LDGSTS"]
    floor = gpu_issue.floor(card, 2, step)
    assert floor == pytest.approx(2 * max(5, 16 * 8 * 16 / (card.synchronous / 4)))
    one, two = (gpu_issue.cycles_a_step(card, blocks, 2, step) for blocks in (1, 2))
    assert floor <= one < two < 2 * one
    assert one > 33


def test_a_slower_kernel_is_seen(tmp_path):
    kept = gpu_model.kept_rows()
    found = gpu_model.Row(**{**kept[0], "floor_cycles": int(kept[0]["floor_cycles"])})
    found = found._replace(resident=int(found.resident))
    assert not list(gpu_model.worse([found], kept))
    slower = found._replace(floor_cycles=round(1.06 * found.floor_cycles) + 1)
    assert "floor" in next(gpu_model.worse([slower], kept))
    assert "not in the file" in next(gpu_model.worse([found._replace(case="another")], kept))


def test_the_file_has_every_case():
    """Of every card, by both backends."""
    wanted = {
        (case.title, backend, card.name)
        for case in gpu_model.cases()
        for backend in ("native", "triton")
        for card in CARDS.values()
    }
    assert wanted <= {gpu_model.key(row) for row in gpu_model.kept_rows()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["native", "triton"])
def test_no_floor_is_worse(backend):
    """Compiles the kernels of the H200 and compares them with `gpu_model.csv`."""
    if lacking := gpu_model.missing():
        pytest.skip(f"the model needs {lacking}")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tools/gpu_model.py"), "--check", "--backend", backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
