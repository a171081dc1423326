"""Cases that were wrong once, or that stand at an edge of a plan; they always run.

A case that the fuzz finds joins this list in its minimal form.
"""

from fuzz_cases import Case

FIXED = (
    # Several short factors behind long ones, which are merged but too long to be gathered.
    Case("projection", 128, (64, 64, 2), k_x=64, order="gradients"),
    # One output of two factors: by products of torch where all gradients are wanted.
    Case("projection", 65, (66, 70), k_x=1, order="second", backend=None),
    Case("bilinear", 600, (3, 180), k_x=1, order="gradients", backend=None, dtype="float64"),
    Case("projection", 1, (600, 4, 4), k_x=5, order="gradients"),
    Case("projection", 40, (161, 1, 51, 12, 1), dtype="float32", order="gradients"),
    Case("projection", 3, (22, 557, 1, 14), k_x=19, dtype="bfloat16"),
    Case("projection", 131, (500, 16, 15, 1), k_x=13, dtype="bfloat16"),
    Case("with_mean", 66, (4, 5, 272, 2, 19), k_x=2, order="gradients"),
    Case("with_mean", 65, (3, 300, 300, 1), k_x=2, dtype="float16"),
    Case("with_mean", 65, (3, 70, 70, 1), k_x=2, dtype="float16", order="second"),
    Case("mttkrp", 32, (512, 256, 3, 3), order="gradients"),
    Case("mttkrp", 64, (100, 100, 100), option=1, order="gradients"),
    Case("mttkrp", 46, (2, 135, 43, 2, 3), order="gradients"),
    Case("mttkrp_all", 46, (2, 135, 43, 2, 3)),
    Case("sweep", 64, (40, 100, 100, 1), option=2),
    # A sum of 800 000 terms in float64; gradients of several modes added in a half type.
    Case(
        "sweep", 2, (2, 6, 632, 1, 227), dtype="float64", layouts=("stepped", "expanded"), option=86
    ),
    Case(
        *("mttkrp_all", 70, (1, 190, 61, 1)),
        dtype="bfloat16",
        order="gradients",
        layouts=("stepped", "sliced", "expanded"),
        option=541,
        seed=960392879,
    ),
    # Sums of equal terms, of which two cancel: partial sums are 20 times the result.
    Case(
        *("synthesis", 1, (21, 87, 1, 189)),
        order="second",
        layouts=("expanded", "expanded", "expanded_columns"),
        seed=519659365,
    ),
    # A core's gradient that is written past the caches; one whose samples take several blocks.
    Case("projection", 3, (32, 512), k_x=300, order="gradients"),
    Case("projection", 2, (32, 256), k_x=300, dtype="float64", order="gradients"),
    Case("projection", 600, (8, 40), k_x=20, order="gradients"),
    Case("with_mean", 3, (30, 480), k_x=300, order="gradients"),
    # Chunks of the hoisted index, with both outputs.
    Case("with_mean", 65, (40, 1000), k_x=3),
    Case("projection", 65, (70, 1000), k_x=3, dtype="float16"),
    Case("with_mean", 3, (64, 3, 21), k_x=5, order="gradients"),
    Case("with_mean", 65, (33, 1000), k_x=3, dtype="float64"),
    Case("with_mean", 65, (150, 40), k_x=27, dtype="bfloat16"),
    # Threads that divide the hoisted indices, with the samples in the lanes or one by one.
    Case("with_mean", 12, (64, 240), k_x=3),
    Case("with_mean", 3, (64, 5, 120), k_x=5, dtype="bfloat16", plan=2),
    # Samples one by one, more than a tile takes; threads that divide the rows.
    Case("projection", 7, (40, 3, 200), k_x=67, order="gradients", plan=4),
    Case("projection", 2, (3, 17, 300), k_x=67, dtype="float16", plan=3),
    # The mean over the first of several hoisted factors; more samples than a slab.
    Case("with_mean", 70, (3, 4, 40), k_x=9, order="gradients", plan=1),
    Case("with_mean", 70, (3, 4, 40), k_x=9, dtype="bfloat16", order="gradients", plan=1),
    # A short last factor, its rows divided by threads and by pieces; long columns.
    Case("synthesis", 15, (1001, 5), order="gradients"),
    Case("synthesis", 15, (3, 333, 5), dtype="float16", order="gradients"),
    Case("projection", 70, (5, 700, 9), k_x=9, order="gradients", plan=0),
    Case("mttkrp", 5, (30, 700, 20), option=2, plan=1),
    # One inner factor, too long to be gathered, in several panels.
    Case("projection", 64, (9, 1500), k_x=30, order="gradients"),
    Case("projection", 64, (9, 1501), k_x=30, dtype="bfloat16"),
    Case("projection", 64, (9, 1501), k_x=30, dtype="float16"),
    Case("projection", 64, (9, 1501), k_x=30, dtype="float64"),
    # Several panels and several chunks of rows, of the result and of the core's gradient; with
    # several chunks of the hoisted index too.
    Case("projection", 64, (7, 100), k_x=300, plan=0),
    Case("projection", 64, (200, 8), k_x=170, plan=1),
    Case("projection", 256, (2, 190), k_x=40, order="gradients", plan=0),
    # More slabs than threads can share evenly, and a core that is not read by each.
    Case("projection", 576, (2, 1025), k_x=16, dtype="float64", plan=0),
    # More threads than rows, samples one by one.
    Case("projection", 2, (512, 1024), k_x=1, plan=2),
    # Inner factors of too many columns to be kept.
    Case("with_mean", 64, (2, 130, 33), k_x=2, dtype="bfloat16", plan=0),
)
# A few samples, every plan.
FIXED += tuple(
    Case(operation, 7, (4, 3, 50), k_x=45, dtype=dtype, order="gradients", plan=plan)
    for operation in ("projection", "with_mean")
    for dtype in ("float32", "float64", "bfloat16", "float16")
    for plan in range(6)
)
# Slabs of one to four vectors, and one sample more, in every type; several row chunks.
FIXED += tuple(
    Case("with_mean", n, (3, 5, 70), k_x=k_x, dtype=dtype)
    for n in (1, 16, 17, 33, 48, 65)
    for k_x, dtype in ((25, "float32"), (1, "float64"), (97, "bfloat16"), (7, "float16"))
)
# The gradients of merged factors, for one and for both outputs, with a strided incoming gradient.
FIXED += tuple(
    Case(
        *("with_mean", 65, (3, 2, 4, 2, 9)),
        k_x=67,
        dtype=dtype,
        order="gradients",
        outputs=outputs,
        layouts=("contiguous",) * 6 + ("stepped",) * 2,
    )
    for dtype in ("float32", "float64", "bfloat16", "float16")
    for outputs in (1, 2, 3)
)
# Every way to a mean output and its gradients, a mean core and samples of its own among them.
FIXED += tuple(
    Case("with_mean", 9, sizes, k_x=5, order=order, outputs=outputs, plan=plan)
    for sizes, order in (((4, 6, 1), "second"), ((3, 1), "accumulate"))
    for outputs in (1, 2, 3)
    for plan in range(1, 6)
)
# Factors of extent 1, which kernels take before the others, in every place.
FIXED += tuple(
    Case(operation, 17, sizes, k_x=3, order="gradients", backend=backend, needs=needs)
    for operation in ("projection", "with_mean", "synthesis", "grouped")
    for sizes in ((150, 1), (7, 1, 130, 1))
    for backend, needs in ((None, (True,)), ("native", (False, True)))
)
# Extents of 1 alone, whose gradients are products of torch where they are large.
FIXED += tuple(
    Case("projection", 600, extents, k_x=700, dtype=dtype, order="second")
    for extents in ((1, 1), (1, 1, 1))
    for dtype in ("float32", "float64", "bfloat16")
)
# Sums of like terms that cancel: up to 480 of them are added in one chain.
FIXED += tuple(
    Case(
        "grouped",
        20,
        sizes,
        k_x=k_x,
        dtype=dtype,
        order="second",
        layouts=("expanded", "expanded_columns", "contiguous"),
        outputs=outputs,
        option=391,
        plan=10,
        backend="native",
        seed=522202061,
    )
    for sizes, k_x, dtype, outputs in (
        ((56, 1, 1, 193), 3, "float64", 2),
        ((5, 1, 1, 96), 2, "float32", 3),
    )
)
# Each factor's gradient by a projection of its own.
FIXED += tuple(
    Case("projection", 70, (5, 9, 21), k_x=k_x, dtype=dtype, order="gradients", plan=plan)
    for k_x, dtype in ((1, "float32"), (3, "bfloat16"), (4, "float64"), (2, "float16"))
    for plan in range(3, 6)
)
# 64 296 equal terms to an element: a product of matrices in float64 is not precise enough to judge.
FIXED += (
    Case(
        "rotated",
        1,
        (456, 141),
        dtype="float64",
        order="second",
        layouts=("expanded",),
        option=350,
        seed=637614561,
    ),
)
# Sums of like terms, each beyond the range of float16, cancel in a second derivative.
FIXED += (
    Case(
        "synthesis",
        1,
        (9, 96, 145, 1, 1),
        dtype="float16",
        order="second",
        layouts=("expanded",),
        option=349,
        seed=280327518,
    ),
)
# More rows than a thread sums up at a time, few samples: W is formed once for all of them.
FIXED += tuple(
    Case(operation, n, sizes, k_x=2500, plan=2 - operation.count("mean"))
    for operation in ("projection", "with_mean")
    for n, sizes in ((1, (5, 7)), (3, (4, 30)))
)
# One sample of like terms: rows of the core were added up in one chain.
FIXED += (
    Case(
        "bilinear",
        1,
        (366, 16),
        k_x=21,
        order="accumulate",
        layouts=("expanded",),
        outputs=3,
        option=968,
        plan=7,
        at_end=True,
        seed=833346126,
    ),
)
# Factors' gradients of four slabs: all read one copy of the core, of two blocks of rows and whole
# and ragged tiles.
FIXED += tuple(
    Case("projection", n, (7, 29), k_x=150, dtype=dtype, order="gradients", plan=0)
    for n in (256, 300)
    for dtype in ("float32", "float64", "bfloat16", "float16")
)
# More rows than D takes at a time.
FIXED += (Case("projection", 5, (3, 4), k_x=70000, order="gradients", plan=0),)
