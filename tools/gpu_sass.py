"""Machine code of NVIDIA GPUs: instructions with their control bits, loops, and the way through a
loop that its steps take as a rule."""

import re
import subprocess
from collections import defaultdict
from typing import NamedTuple

_LABEL = re.compile(r"^(\.L_x_\d+):")
_FIRST = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);\s*/\* 0x([0-9a-f]{16}) \*/")
_SECOND = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/")

TENSOR = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "DMMA")
MEMORY = ("LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDGSTS", "UBLKCP", "UTMALDG", "LDTM", "STTM")
MEMORY += ("LD", "ST", "LDL", "STL", "SHFL", "RED", "ATOMG", "LDGDEPBAR", "LDC", "LDCU")
CONTROL = ("BRA", "BAR", "DEPBAR", "WARPGROUP", "WARPSYNC", "BSYNC", "BSSY", "EXIT", "NOP", "CALL")
CONTROL += (
    "RET",
    "SYNCS",
    "ELECT",
    "YIELD",
    "UTCBAR",
    "WARPGROUPSET",
    "BREAK",
    "PREEXIT",
    "ACQBULK",
)
FLOAT = ("FFMA", "FADD", "FMUL", "F2F", "F2FP", "HFMA2", "FSEL", "FSETP", "HADD2", "HMUL2", "FFMA2")
FLOAT += ("DFMA", "DADD", "DMUL", "FMNMX", "FADD2", "FMUL2")
KINDS = ("tensor", "float", "memory", "integer", "control")


class Instruction(NamedTuple):
    """`stall` and the barriers are those of the encoding; 7 is no barrier."""

    address: int
    text: str  # without its guard
    guarded: bool
    target: str | None  # the label that a branch goes to
    stall: int
    sets: int  # the barrier that its result clears
    frees: int  # the barrier that reading its operands clears
    waits: int  # a mask of barriers

    @property
    def name(self):
        return self.text.split()[0].split(".")[0]

    @property
    def bits(self):
        """The width of a load, store or copy."""
        found = re.search(r"\.(32|64|128)\b", self.text.split()[0])
        if self.name in ("LDSM", "STSM"):
            return 32 * int((re.search(r"\.M\w+\.(\d)", self.text) or [0, 1])[1])
        return int(found[1]) if found else 32

    @property
    def kind(self):
        for kind, names in zip(KINDS, (TENSOR, FLOAT, MEMORY, (), CONTROL), strict=True):
            if self.name in names:
                return kind
        return "integer"


class Function(NamedTuple):
    name: str
    instructions: list[Instruction]
    labels: dict[str, int]  # label -> place in `instructions`


def functions(cubin, disassembler):
    """The functions of a file of machine code."""
    done = subprocess.run(
        [disassembler, "-hex", str(cubin)], capture_output=True, text=True, check=True
    )
    return list(parse(done.stdout))


def parse(text):
    here, first = None, None
    for line in text.splitlines():
        if line.startswith(".text."):
            if here:
                yield here
            here = Function(line.strip()[len(".text.") : -1], [], {})
        elif here is None:
            continue
        elif line.lstrip().startswith(".section"):
            yield here
            here = None
        elif match := _LABEL.match(line):
            here.labels[match[1]] = len(here.instructions)
        elif match := _FIRST.match(line):
            first = match
        elif first and (match := _SECOND.match(line)):
            here.instructions.append(_instruction(first, int(match[1], 16)))
            first = None
    if here:
        yield here


def _instruction(match, high):
    text = match[2].strip()
    guard = re.match(r"@!?U?P\w+\s+", text)
    text = text[guard.end() :] if guard else text
    if guard and guard[0].startswith("@!PT"):
        text = "NOP"  # never executed
    # A call of a label, which has no name, does not return: so the compiler leaves a loop at times.
    jumps = text.startswith(("BRA", "CALL"))
    target = re.search(r"`\((\.L_x_\d+)\)", text) if jumps else None
    control = high >> 41
    return Instruction(
        int(match[1], 16), text, bool(guard) or bool(re.match(r"BRA\S* !?U?P\d", text)),
        target[1] if target else None, control & 15, control >> 5 & 7, control >> 8 & 7,
        control >> 11 & 63,
    )  # fmt: skip


class Graph:
    """The basic blocks of a function: the places of the instructions of each, and its
    successors."""

    def __init__(self, function):
        self.function = function
        code, starts = function.instructions, {0, *function.labels.values()}
        starts |= {at + 1 for at, each in enumerate(code) if _ends_block(each)}
        order = sorted(start for start in starts if start < len(code))
        ends = [*order[1:], len(code)]
        self.blocks = {s: range(s, e) for s, e in zip(order, ends, strict=True)}
        self.next = {start: self._successors(block) for start, block in self.blocks.items()}
        self.back = self._back_edges()

    def _successors(self, block):
        last = self.function.instructions[block[-1]]
        found = [] if _never_falls(last) else [block[-1] + 1]
        if last.target:
            found.append(self.function.labels[last.target])
        return [place for place in found if place in self.blocks]

    def _back_edges(self):
        """Edges to a block that is on the way from the entry, found depth first."""
        edges, state, stack = set(), {0: 1}, [(0, iter(self.next[0]))]
        while stack:
            block, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[block] = 2
                stack.pop()
            elif state.get(following) == 1:
                edges.add((block, following))
            elif following not in state:
                state[following] = 1
                stack.append((following, iter(self.next[following])))
        return edges

    def loops(self):
        """Head -> (the blocks of the loop, the blocks that jump to its head)."""
        before = defaultdict(set)
        for block, following in self.next.items():
            for each in following:
                before[each].add(block)
        found = {}
        for tail, head in sorted(self.back):
            body, todo = found.setdefault(head, ({head}, set()))[0], [tail]
            found[head][1].add(tail)
            while todo:
                block = todo.pop()
                if block not in body:
                    body.add(block)
                    todo += before[block]
        return found

    def main_loop(self):
        """The innermost loop with the most tensor products, else sums; None without a loop."""
        loops = self.loops()
        for names in (("tensor",), ("float",)):
            work = {head: self._count(body, names) for head, (body, _) in loops.items()}
            inner = {
                head: count
                for head, count in work.items()
                if count
                and not any(
                    work[other] and other != head and loops[other][0] < loops[head][0]
                    for other in loops
                )
            }
            if inner:
                return max(inner, key=lambda head: inner[head])
        return None

    def _count(self, blocks, kinds):
        code = self.function.instructions
        return sum(code[at].kind in kinds for block in blocks for at in self.blocks[block])

    def step(self, head, copies=None):
        """The instructions of a step of the loop at `head`, as they are executed as a rule: with
        all products, as many 16-byte copies as there are (`copies`), and no more than must be."""
        body, tails = self.loops()[head]
        return self._way(head, tails, body, copies)

    def rest(self, head):
        """The instructions of a whole run of the function but for that loop, as a rule."""
        body, _ = self.loops()[head]
        after = {each for block in body for each in self.next[block] if each not in body}
        exits = {start for start in self.blocks if not self.next[start]}
        outside = set(self.blocks) - body
        before = self._way(0, {head}, outside | {head}, None)[: -len(self.blocks[head])]
        ways = [self._way(start, exits, outside, None) for start in after]
        return before, max(ways, key=_stores, default=[])

    def _way(self, start, ends, inside, copies):
        """The chosen way from `start` to one of `ends`: loops on it are gone through once."""
        code, best = self.function.instructions, {}

        def weigh(block):
            items = [code[at] for at in self.blocks[block]]
            return sum(each.kind == "tensor" for each in items), sum(map(_moves, items)), len(items)

        for block in self._in_order(start, inside):
            tensor, moved, count = weigh(block)
            ways = {0: (0, 0, ())} if block == start else best.get(block, {})
            ways = {
                done + moved: (products + tensor, short - count, (*way, block))
                for done, (products, short, way) in ways.items()
            }
            best[block] = ways
            for following in self.next[block]:
                if following in inside and (block, following) not in self.back:
                    known = best.setdefault(following, {})
                    for done, way in ways.items():
                        known[done] = max(known.get(done, (-1, 0, ())), way)
        found = [
            (way[0], -abs(done - copies) if copies is not None else done, *way[1:])
            for end in ends
            for done, way in best.get(end, {}).items()
        ]
        chosen = max(found, default=(0, 0, 0, ()))[3]
        return [code[at] for block in chosen for at in self.blocks[block]]

    def _in_order(self, start, inside):
        """The blocks that are reached from `start`, each after all that lead to it."""
        order, seen, stack = [], {start}, [(start, iter(self.next[start]))]
        while stack:
            block, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                order.append(block)
                stack.pop()
            elif (
                following in inside
                and following not in seen
                and (block, following) not in self.back
            ):
                seen.add(following)
                stack.append((following, iter(self.next[following])))
        return reversed(order)


def _ends_block(instruction):
    return instruction.name in ("BRA", "EXIT", "RET", "BRX") or instruction.target is not None


def _never_falls(instruction):
    leaves = instruction.name in ("BRA", "EXIT", "RET") or instruction.target is not None
    return leaves and not instruction.guarded


def _moves(instruction):
    return instruction.name in ("LDGSTS", "STG") and instruction.bits == 128


def _stores(way):
    return sum(each.name in ("STG", "ST") for each in way)


def counted(instructions):
    """Kind -> how many of it."""
    return {kind: sum(each.kind == kind for each in instructions) for kind in KINDS}
