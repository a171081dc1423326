"""The kernels: plain `@triton.jit`, one file an operation.

Every kernel takes its tensors, then its sizes and strides in elements, then constants. `ACC` is the
type to calculate in, `B*` are the extents of a block. Indices into tensors are 64-bit. No kernel
uses atomics, so that results are bitwise the same from run to run.
"""
