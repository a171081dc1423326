"""Cases that were wrong once, or that stand at an edge of a plan; they always run.

A case that the fuzz finds joins this list in its minimal form.
"""

from fuzz_cases import Case

FIXED = (
    # Several short factors behind long ones, which are merged but too long to be gathered.
    Case("projection", 128, (64, 64, 2), k_x=64, order="gradients"),
    Case("projection", 1, (600, 4, 4), k_x=5, order="gradients"),
    Case("projection", 40, (161, 1, 51, 12, 1), dtype="float32", order="gradients"),
    Case("projection", 3, (22, 557, 1, 14), k_x=69, dtype="bfloat16"),
    Case("projection", 247, (500, 16, 15, 1), k_x=13, dtype="bfloat16"),
    Case("with_mean", 128, (4, 5, 272, 2, 19), k_x=2, order="gradients"),
    Case("with_mean", 65, (3, 300, 300, 1), k_x=2, dtype="float16", order="second"),
    Case("mttkrp", 32, (512, 256, 3, 3), order="gradients"),
    Case("mttkrp", 64, (100, 100, 100), option=1, order="gradients"),
    Case("mttkrp", 46, (2, 135, 43, 2, 3), order="gradients"),
    Case("mttkrp_all", 46, (2, 135, 43, 2, 3)),
    Case("sweep", 64, (40, 100, 100, 1), option=2),
)
