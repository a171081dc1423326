"""What a machine can reach at most (the roof), and what a case needs at least."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.cases import ITEM_BYTES, Case


@dataclass
class Roof:
    """Best bandwidths (bytes/s; copy counts both ways) and peaks (flop/s) of simple loops."""

    rates: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def seconds(self, case: Case, gradient: str) -> float | None:
        """Least time of a case, see README.md; None for a layer, or without a measured roof."""
        phases = _phases(case, gradient)
        if not self.rates or not phases:
            return None
        return sum(self._phase(*phase) for phase in phases)

    def best(self, other: Roof) -> Roof:
        """The better of two measurements, rate by rate."""
        rates = {kind: max(rate, other.rates[kind]) for kind, rate in self.rates.items()}
        return Roof(rates, self.reason)

    def _phase(self, dtype: str, read: int, written: int, flops: int) -> float:
        both = min(read, written)
        apart = read / self.rates["read"] + written / self.rates["write"]
        together = (
            2 * both / self.rates["copy"]
            + (read - both) / self.rates["read"]
            + (written - both) / self.rates["write"]
        )
        return max(min(apart, together), flops / self._peak(dtype))

    def _peak(self, dtype: str) -> float:
        """flop/s in `dtype`; on a GPU float32 is reached by IEEE products or by three of TF32."""
        if "gemm_tf32" in self.rates:
            if dtype == "float32":
                return max(self.rates["gemm_float32"], self.rates["gemm_tf32"] / 3)
            return self.rates[f"gemm_{dtype}"]
        peak = {"float64": "fma64", "bfloat16": "bf16dot"}.get(dtype, "fma32")
        return self.rates.get(peak, self.rates["fma32"])


def measure_roof(threads: int, dtypes: set[str]) -> Roof:
    """The roof of the CPU by the library's own loops, about a second."""
    try:
        from ntensor.backends.native import roofline
    except ImportError as error:
        return Roof(reason=str(error))
    kinds = ["read", "write", "copy", "fma32"]
    kinds += ["fma64"] * ("float64" in dtypes) + ["bf16dot"] * ("bfloat16" in dtypes)
    rates = {kind: roofline(kind, threads) for kind in kinds}
    return Roof({kind: rate for kind, rate in rates.items() if rate})


def _phases(case: Case, gradient: str):
    """(dtype, bytes read, bytes written, flops) of each of forward and backward in the case.

    None for a whole layer, where the library's operation is but a part.
    """
    if case.operation in ("tucker", "fusion"):
        return []
    size, n, features = ITEM_BYTES[case.dtype], case.n, case.shape.features
    if case.operation == "synthesis_projection":
        core, output = case.shape.out_features * features, n * case.shape.out_features
        output *= 2 if case.mean else 1
        factors = n * sum(case.shape.factor_sizes)
        flops = 2 * n * core
        forward = core + factors, output, flops
        kept = core if gradient == "adds" else 0
        backward = core + factors + output + kept, core + factors, 2 * flops
        if case.pass_ == "factor-grads":
            backward = core + factors + output, factors, flops
        elif case.pass_ == "core-grad":
            backward = factors + output + kept, core, flops
    else:
        feature, matrix = n * features, 9 * n
        if case.operation == "synthesis":
            operands = n * sum(case.shape.factor_sizes)
            forward = operands, feature, feature
            backward = operands + feature, operands, 4 * feature
        elif case.operation == "rotation":
            operands = feature + matrix
            forward = operands, feature, 6 * feature
            backward = operands + feature, operands, 12 * feature
        else:
            operands = n * sum(case.shape.factor_sizes) + matrix
            forward = operands, feature, 2 * feature
            backward = operands + feature, operands, 4 * feature
    phases = [forward] * (not case.only_backward) + [backward] * case.differentiates
    return [(case.dtype, size * read, size * written, flops) for read, written, flops in phases]


def flops(case: Case, gradient: str) -> int:
    return sum(phase[3] for phase in _phases(case, gradient))


def compulsory_bytes(case: Case, gradient: str) -> int:
    return sum(phase[1] + phase[2] for phase in _phases(case, gradient))
