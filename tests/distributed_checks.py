"""What holds on several processes: run by `test_distributed.py`, once on two and once on four.

    python distributed_checks.py RANK PROCESSES FOLDER

Each check compares with the same calculation on one process. The outcomes are written to
`FOLDER/RANK.json`, a traceback under the name of a check that failed; the first one ends the run.
"""

import copy
import datetime
import json
import os
import pathlib
import sys
import traceback
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import ntensor
from cases import PUBLIC
from comparison import in_tuple

EXTENTS = {"n": 8, "x": 12, "l": 4, "e": 8, "i": 4, "f": 32, "k": 24, "a": 3, "b": 3}


class Split(NamedTuple):
    """A registered operation: the labels of its tensors and results, and its other arguments.

    `labels` are those along which it runs without communication; `l` of `f = l e` is its leading
    part. A result `nc` is the gradients of `needs` side by side.
    """

    operation: str
    tensors: str
    results: str
    labels: str
    listed: int | None = None
    statics: tuple = ()
    absent: tuple = ()

    def arguments(self, tensors):
        values = list(tensors)
        for place in self.absent:
            values.insert(place, None)
        if self.listed is not None:
            values = [*values[: self.listed], values[self.listed :]]
        return (*values, *self.statics)


ALL, SOME, ONE = [True] * 3, [True, False, True], [False, True, False]
SPLITS = (
    Split("synthesis", "nl ne", "nf", "nl", 0),
    Split("synthesis_grads", "nf nl ne", "nc", "n", 1, ([True, True],)),
    Split("synthesis_grads", "nf nl ne", "nl", "nl", 1, ([True, False],)),
    Split("synthesis_grads", "nf nl ne", "ne", "nl", 1, ([False, True],)),
    Split("synthesis_projection", "xlei nl ne ni", "nx", "nxlei", 1),
    Split("synthesis_projection_with_mean", "xlei nl ne ni", "nx nx", "nxei", 1),
    Split("projection_factor_grads", "xlei nx nl ne ni", "nc", "nx", 3, (ALL,), (2,)),
    Split("projection_factor_grads", "xlei nx nl ne ni", "nc", "nxe", 3, (SOME,), (2,)),
    Split("projection_factor_grads", "xlei nx nl ne ni", "ne", "nxlei", 3, (ONE,), (2,)),
    Split("projection_factor_grads", "xlei nx nx nl ne ni", "ne", "nxei", 3, (ONE,)),
    Split("projection_core_grad", "nx nl ne ni", "xlei", "nxlei", 2, (), (1,)),
    Split("projection_core_grad", "nx nl ne ni", "xlei", "nxei", 2, (), (0,)),
    Split("projection_core_grad", "nx nx nl ne ni", "xlei", "nxei", 2),
    Split("grouped_projection", "klei nl ne ni", "nx", "lei", 1, (2,)),
    Split("grouped_projection_factor_grads", "klei nx nl ne ni", "nc", "", 2, (2, ALL)),
    Split("grouped_projection_factor_grads", "klei nx nl ne ni", "ne", "lei", 2, (2, ONE)),
    Split("grouped_projection_core_grad", "nx nl ne ni", "klei", "lei", 1, (2,)),
    Split("rotation", "nk nab", "nk", "n", None, ("column",)),
    Split("rotation_matrix_grad", "nk nk", "nab", "n", None, ("row",)),
    Split("rotated_synthesis", "nl nk nab", "nf", "n", None, ("column",)),
    Split("rotated_synthesis_grads", "nf nl nk nab", "nc", "n", None, ("row", ALL)),
)


def shape(labels, split):
    extents = dict(EXTENTS)
    if split.operation.startswith("rotated"):
        extents["f"] = extents["l"] * extents["k"]
    return [extents[label] for label in labels]


def axis(labels, label):
    """Where a label is split; the leading factor's also splits a synthesis."""
    for place, other in enumerate(labels):
        if other == label or (other, label) == ("f", "l"):
            return Shard(place)
    return None


def check_split(split, mesh, chosen):
    """The operation with one label a dimension of the mesh: results, and no communication."""
    tensors = [torch.randn(shape(t, split)) for t in split.tensors.split()]
    operation = getattr(torch.ops.ntensor, split.operation)
    expected = in_tuple(operation(*split.arguments(tensors)))
    placed = [
        distribute_tensor(t, mesh, [axis(labels, label) or Replicate() for label in chosen])
        for t, labels in zip(tensors, split.tensors.split(), strict=True)
    ]
    with CommDebugMode() as communication:
        found = in_tuple(operation(*split.arguments(placed)))
    free = all(label in split.labels for label in chosen)
    assert not (free and communication.get_total_counts()), (split, chosen)
    for labels, ours, whole in zip(split.results.split(), found, expected, strict=True):
        if free:
            wanted = tuple(axis(labels, label) or Partial() for label in chosen)
            assert ours.placements == wanted, (split, chosen, ours.placements)
        torch.testing.assert_close(ours.full_tensor(), whole, rtol=1e-4, atol=1e-4)


def check_every_operation(mesh):
    names = {split.operation for split in SPLITS}
    assert names == set(ntensor.ops.operation.OPERATIONS)
    pairs = [("n", "x"), ("n", "l"), ("x", "e"), ("i", "i")]
    for split in SPLITS:
        if 0 in split.absent and torch.__version__ < "2.12":
            continue  # a known limit: torch 2.11 looks for the mesh in the first argument alone
        used = sorted({label for label in split.tensors if label in "nxlei"})
        choices = [(label,) for label in used] if mesh.ndim == 1 else pairs
        for chosen in choices:
            if set(chosen) <= set(used):
                check_split(split, mesh, chosen)


def check_needs_are_told_apart(mesh):
    """Calls that differ in an argument that is no tensor share no remembered decision."""
    core, grad = torch.randn(4, 2, 6), torch.randn(8, 4)
    factors = [torch.randn(8, 2), torch.randn(8, 6)]
    for needs in ([True, False], [False, True], [True, True]):
        arguments = (core, grad, None, factors, needs)
        expected = torch.ops.ntensor.projection_factor_grads(*arguments)
        batch = [distribute_tensor(t, mesh, [Shard(0)]) for t in (grad, *factors)]
        whole = distribute_tensor(core, mesh, [Replicate()])
        found = torch.ops.ntensor.projection_factor_grads(whole, batch[0], None, batch[1:], needs)
        torch.testing.assert_close(found.full_tensor(), expected)


def check_public_functions(mesh):
    """Every case over the batch, values and gradients; the cores are whole everywhere."""
    for case in PUBLIC:
        inputs = case.inputs()
        placed = [
            distribute_tensor(t.detach(), mesh, [Replicate() if i in case.cores else Shard(0)])
            for i, t in enumerate(inputs)
        ]
        placed = [t.requires_grad_() for t in placed]
        outputs = in_tuple(case.function(*placed))
        expected = in_tuple(case.definition(*inputs))
        for ours, whole in zip(outputs, expected, strict=True):
            assert isinstance(ours, DTensor)
            torch.testing.assert_close(ours.full_tensor(), whole)
        gradients = torch.autograd.grad(sum(o.square().sum() for o in outputs), placed)
        wanted = torch.autograd.grad(sum(o.square().sum() for o in expected), inputs)
        for ours, whole in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(ours.full_tensor(), whole)


def check_core_rows(mesh):
    """The core split over its rows: only the gradients of the factors are sums over processes."""
    layer = ntensor.nn.MultilinearProjection((4, 8), 12)
    z = [torch.randn(8, k, requires_grad=True) for k in (4, 8)]
    cotangent = torch.randn(8, 12)
    layer(*z).backward(cotangent)
    wanted = [layer.core.grad, *(t.grad for t in z)]
    layer.core = torch.nn.Parameter(distribute_tensor(layer.core.detach(), mesh, [Shard(0)]))
    whole = [distribute_tensor(t.detach(), mesh, [Replicate()]).requires_grad_() for t in z]
    upstream = distribute_tensor(cotangent, mesh, [Shard(1)])
    with CommDebugMode() as communication:
        x = layer(*whole)
        assert x.placements == (Shard(1),)
        x.backward(upstream)
    gradients = [layer.core.grad, *(t.grad for t in whole)]
    assert gradients[0].placements == (Shard(0),)
    # torch 2.11 adds up the parts of a gradient that it keeps; later ones leave them.
    placements = [g.placements for g in gradients[1:]]
    assert all(each in ((Partial(),), (Replicate(),)) for each in placements)
    assert communication.get_total_counts() == placements.count((Replicate(),))
    for ours, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours.full_tensor(), expected, rtol=1e-4, atol=1e-5)
    layer.accumulate_core_grad = True
    try:
        layer(*whole)
    except RuntimeError as error:
        assert "DTensor" in str(error)
    else:
        raise AssertionError("accumulate_core_grad was not refused")


def check_compiled(mesh):
    """A compiled call of DTensors, forward and backward, in one graph."""
    tensors = [torch.randn(s) for s in ((4, 3, 6), (8, 3), (8, 6))]
    plain = [t.clone().requires_grad_() for t in tensors]
    expected = ntensor.synthesis_projection(*plain)
    expected.sin().sum().backward()
    placed = [
        distribute_tensor(t, mesh, [Replicate() if i == 0 else Shard(0)]).requires_grad_()
        for i, t in enumerate(tensors)
    ]
    compiled = torch.compile(ntensor.synthesis_projection, backend="aot_eager", fullgraph=True)
    found = compiled(*placed)
    torch.testing.assert_close(found.full_tensor(), expected)
    found.sin().sum().backward()
    for ours, whole in zip(placed, plain, strict=True):
        torch.testing.assert_close(ours.grad.full_tensor(), whole.grad)


class Model(torch.nn.Module):
    """Every layer with parameters, one of them exchanged for torch's own."""

    def __init__(self):
        super().__init__()
        self.pair = ntensor.nn.convert(torch.nn.Bilinear(4, 6, 8))
        self.rotate = ntensor.nn.FeatureRotation()
        self.project = ntensor.nn.MultilinearProjection((3, 6), 5)

    def forward(self, a, b, c, R):
        return self.project(c, self.rotate(self.pair(a, b)[:, :6].sin(), R))


def data(samples):
    shapes = ((4,), (6,), (3,), (3, 3))
    return [torch.randn(samples, *s) for s in shapes], torch.randn(samples, 5)


def trained(model, inputs, target, steps=2):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(*inputs) - target).square().mean().backward()
        optimizer.step()
    return dict(model.named_parameters())


def check_data_parallel(wrap):
    """Two steps of training, each process with its part of the batch."""
    rank, count = dist.get_rank(), dist.get_world_size()
    model = Model()
    inputs, target = data(8)
    expected = trained(copy.deepcopy(model), inputs, target)
    part = slice(8 // count * rank, 8 // count * (rank + 1))
    found = trained(wrap(model), [t[part] for t in inputs], target[part])
    for name, ours in found.items():
        whole = ours.full_tensor() if isinstance(ours, DTensor) else ours
        torch.testing.assert_close(whole, expected[name.removeprefix("module.")])


def check_ddp(mesh):
    check_data_parallel(DistributedDataParallel)


def check_fsdp2(mesh):
    def wrap(model):
        for layer in (model.pair, model.project):
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    check_data_parallel(wrap)


# Processes: checks and the meshes that they run on.
CHECKS = {
    2: {
        check_every_operation: (2,),
        check_needs_are_told_apart: (2,),
        check_public_functions: (2,),
        check_core_rows: (2,),
        check_compiled: (2,),
        check_ddp: (2,),
        check_fsdp2: (2,),
    },
    4: {check_every_operation: (2, 2), check_core_rows: (4,)},
}


def main(rank, processes, folder):
    torch.set_num_threads(1)
    folder = pathlib.Path(folder)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=240),
    )
    outcomes = {}
    for check, sizes in CHECKS[processes].items():
        torch.manual_seed(0)
        try:
            check(init_device_mesh("cpu", sizes))
            outcomes[check.__name__] = ""
        except Exception:
            outcomes[check.__name__] = traceback.format_exc()
            break
    (folder / f"{rank}.json").write_text(json.dumps(outcomes), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
