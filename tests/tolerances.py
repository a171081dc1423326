"""The one tolerance table, and the rule that reads it.

The error of a kernel may be twice that of plain torch in the same dtype, plus a small absolute
term, both errors taken against float64. The absolute term is a multiple of the size of the result,
or of the root of the sum of the squared terms that it adds up where that is larger: it does not
vanish where a sum cancels, nor where a rival of few terms happens to have no error, and it does not
grow with the number of terms. A change of this table needs a written reason.
"""

import torch

RIVAL = 2.0

SMALL = {
    torch.float64: 1e-13,  # there is no wider reference: both sides round sums of up to 10^4 terms
    torch.float32: 2.0**-19,  # 32 roundings: about 10^3 terms added one after the other
    torch.bfloat16: 2.0**-7,  # two roundings: of a product of factors, and of a rotated factor
    torch.float16: 2.0**-10,
}

BFLOAT16_OF_TORCH = 0.7  # products of factors are rounded once, in torch's chain after each product

DTYPES = tuple(SMALL)


def largest(tensor):
    return tensor.abs().max().item() if tensor.numel() else 0.0


def assert_within_rule(name, result, rival, exact, term):
    """`result`, `rival` (same dtype) and `exact` (float64) are one quantity computed three ways;
    `term` is the root of the sum of its squared terms."""
    assert result.shape == exact.shape, f"{name}: shape {tuple(result.shape)}"
    assert result.dtype == rival.dtype, f"{name}: dtype {result.dtype}"
    assert torch.isfinite(result).all(), f"{name}: not finite"
    error = largest(result.double() - exact)
    small = SMALL[result.dtype] * max(largest(term), largest(exact))
    allowed = RIVAL * largest(rival.double() - exact) + small
    assert error <= allowed, f"{name}: error {error:.3e}, allowed {allowed:.3e}"
