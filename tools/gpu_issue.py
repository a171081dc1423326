"""How many cycles the warps of one scheduler take for a stretch of machine code.

Each warp issues in order, one warp a cycle. Distances between instructions and the barriers that
they set and wait for are read from their encoding; pipes are busy for as long as the card's figures
say. The other schedulers of the multiprocessor are taken to do the same at the same time.
"""

import re
from collections import deque

from gpu_cards import (
    CACHE_BYTES,
    LATENCY,
    MEMORY_LATENCY,
    SCHEDULERS,
    SHARED_BYTES,
)  # fmt: skip

_LANES = 32
_NO_BARRIER = 7
_SLOW = ("MUFU", "F2F", "I2F", "F2I", "POPC", "FLO")
_SHARED = ("LDS", "STS", "LDSM", "STSM", "LDGSTS", "SHFL")


def tensor_cycles(instruction, card):
    """How long a tensor core is busy with the share of one scheduler."""
    if instruction.name == "DMMA":
        return 16
    shape = re.search(r"\.(\d+)x(\d+)x(\d+)\.|\.(16816|1688|1684)\b", instruction.text)
    if shape and shape[4]:
        m, n, k = {"16816": (16, 8, 16), "1688": (16, 8, 8), "1684": (16, 8, 4)}[shape[4]]
        rate = card.synchronous / SCHEDULERS
    elif shape:
        # An asynchronous product is that of four warps, 16 rows each.
        m, n, k = 16, int(shape[2]), int(shape[3])
        rate = card.asynchronous / SCHEDULERS
    else:
        return 0
    return m * n * k / (rate / 2 if "TF32" in instruction.text else rate)


def shared_cycles(instruction):
    """The scheduler's share of the data path to shared memory, which serves four."""
    if instruction.name not in _SHARED:
        return 0
    return SCHEDULERS * instruction.bits // 8 * _LANES / SHARED_BYTES


def pipe_of(instruction):
    """The pipe of an instruction and how long it is busy, tensor cores and memory apart."""
    if instruction.name in _SLOW:
        return "slow", 8
    if instruction.name.startswith(("FFMA", "FADD", "FMUL")):
        return "float", 1
    if instruction.name.startswith("D"):
        return "double", 2 if instruction.name in ("DFMA", "DADD", "DMUL") else 1
    if instruction.name == "IMAD":
        return "products", 2
    uniform = re.match(r"U[A-Z]", instruction.name)
    if instruction.kind in ("integer", "float") and not uniform:
        return "integer", 2
    return "none", 0


class _Warp:
    def __init__(self, block, code):
        self.block, self.code, self.at, self.ready = block, code, 0, 0.0
        self.barriers = [deque() for _ in range(6)]  # when what was set on each clears it
        self.copies, self.groups, self.products = 0.0, [], []
        self.arrived = None

    def held_until(self, instruction):
        until = self.ready
        for number, times in enumerate(self.barriers):
            if instruction.waits >> number & 1 and times:
                until = max(until, *times)
                times.clear()
        if match := re.match(r"DEPBAR\.LE SB(\d), (0x[0-9a-f]+)", instruction.text):
            left = int(match[2], 16)
            done, self.groups = _all_but(self.groups, left)
            until = max(until, done)
        elif match := re.match(r"WARPGROUP\.DEPBAR\.LE gsb\d, (0x[0-9a-f]+)", instruction.text):
            done, self.products = _all_but(self.products, int(match[1], 16))
            until = max(until, done)
        return until


def _all_but(times, left):
    """When all but the last `left` are done, and those that are left."""
    cut = max(len(times) - left, 0)
    return max(times[:cut], default=0.0), times[cut:]


class Scheduler:
    """`blocks` blocks of `warps` warps each, of which every one runs `code`."""

    def __init__(self, card, blocks, warps, code):
        self.card, self.clock = card, 0.0
        self.free = {"tensor": 0.0, "shared": 0.0, "memory": 0.0}
        self.blocks, self.warps = (
            blocks,
            [_Warp(b, code) for b in range(blocks) for _ in range(warps)],
        )
        self.a_block = warps

    def run(self):
        """Cycles until the last warp has issued its last instruction."""
        last = 0
        waiting = list(self.warps)
        while waiting:
            held = [(w.held_until(w.code[w.at]), place) for place, w in enumerate(waiting)]
            for (until, _), warp in zip(held, waiting, strict=True):
                warp.ready = until
            # Of those that can go the oldest goes; else the clock moves to the first that can.
            able = [place for until, place in held if until <= self.clock]
            if not able:
                self.clock = min(held)[0]
                continue
            at = min(able, key=lambda place: (place - last - 1) % len(waiting))
            last = at
            warp = waiting[at]
            self._issue(warp)
            warp.at += 1
            self.clock += 1
            if warp.at == len(warp.code):
                waiting.pop(at)
        return self.clock

    def _issue(self, warp):
        instruction, now = warp.code[warp.at], self.clock
        name, done = instruction.name, now + LATENCY.get(instruction.name, LATENCY["other"])
        begin = now
        pipe, busy = pipe_of(instruction)
        if busy:
            begin = max(now, self.free.get(pipe, 0.0))
            self.free[pipe] = begin + busy
            done += begin - now
        if busy := tensor_cycles(instruction, self.card):
            start = max(now, self.free["tensor"])
            self.free["tensor"] = start + busy
            done = start + busy + LATENCY["HMMA"]
            if name == "HGMMA":
                warp.products.append(done)
            else:
                # Few products wait in front of the core.
                begin = max(begin, start - busy)
        if busy := shared_cycles(instruction):
            start = max(now, self.free["shared"])
            self.free["shared"] = start + busy
            done += start - now
            begin = max(begin, start - 64)
        if name in ("LDG", "LDGSTS"):
            start = max(now, self.free["memory"])
            self.free["memory"] = start + SCHEDULERS * instruction.bits // 8 * _LANES / CACHE_BYTES
            done = start + (MEMORY_LATENCY if name == "LDGSTS" else LATENCY["LDG"])
            if name == "LDGSTS":
                warp.copies = max(warp.copies, done)
        elif name == "LDGDEPBAR":
            warp.groups.append(warp.copies)
            done = now
        elif name == "BAR" and "SYNC" in instruction.text:
            self._arrive(warp)
            return
        warp.ready = begin + max(instruction.stall, 1)
        if instruction.sets != _NO_BARRIER and name != "LDGDEPBAR":
            warp.barriers[instruction.sets].append(done)
        if instruction.frees != _NO_BARRIER:
            warp.barriers[instruction.frees].append(begin + LATENCY["other"])

    def _arrive(self, warp):
        warp.arrived = self.clock
        fellows = [each for each in self.warps if each.block == warp.block]
        if all(each.arrived is not None for each in fellows):
            for each in fellows:
                each.arrived, each.ready = None, self.clock + 2
        else:
            warp.ready = float("inf")


def cycles_a_step(card, blocks, warps, step, before=6, counted=8):
    """Cycles in which all resident blocks take one step of a loop each, in the long run."""
    first = Scheduler(card, blocks, warps, step * before).run()
    return (Scheduler(card, blocks, warps, step * (before + counted)).run() - first) / counted


def cycles_once(card, blocks, warps, code):
    return Scheduler(card, blocks, warps, code).run() if code else 0.0


def floor(card, warps, step):
    """Cycles that a step takes at least, for `warps` warps of a scheduler: one instruction a
    cycle, or the tensor core."""
    return warps * max(len(step), sum(tensor_cycles(each, card) for each in step))
