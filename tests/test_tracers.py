"""What records calls: `torch.jit`, `torch.fx`, the exporter to ONNX.

A file that they make needs torch alone, since they record its own operations; the graph of
`torch.fx`, which stays in the process, holds the public functions.
"""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F

import ntensor
from cases import PUBLIC

each_case = pytest.mark.parametrize("case", PUBLIC, ids=str)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*TorchScript|.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

# Loads each module of a folder and compares it with the results that lie beside it.
WITHOUT_THE_LIBRARY = """
import pathlib, sys, torch
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.pt")):
    module = torch.jit.load(file)
    for inputs, wanted in torch.load(file.with_suffix(".pairs")):
        torch.testing.assert_close(module(*inputs), wanted, msg=lambda said: f"{file}: {said}")
assert "ntensor" not in sys.modules
"""


def in_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def longer(case, inputs):
    """Another number of samples."""
    return [
        t.detach() if i in case.cores else torch.cat([t.detach(), t.detach() + 1, t.detach() * 2])
        for i, t in enumerate(inputs)
    ]


def save(module, calls, folder, name, expected):
    module.save(str(folder / f"{name}.pt"))
    pairs = []
    for inputs in calls:
        with torch.no_grad():
            pairs.append(([t.detach() for t in inputs], expected(*inputs)))
    torch.save(pairs, folder / f"{name}.pairs")


def load_without_the_library(folder):
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_THE_LIBRARY, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr


def layers():
    """Modules with a bilinear layer in them, and their inputs."""
    pair = torch.randn(2, 6, 3), torch.randn(2, 6, 4)

    class Model(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.first, self.second = layer, torch.nn.Linear(5, 2)

        def forward(self, a, b):
            return self.second(self.first(a, b).relu())

    converted = ntensor.nn.convert(Model(torch.nn.Bilinear(3, 4, 5)))
    strided = ntensor.nn.Bilinear(3, 4, 5)
    strided.weight.data = torch.randn(5, 4, 3).mT
    assert type(converted.first) is ntensor.nn.Bilinear
    return {
        "alone": (ntensor.nn.Bilinear(3, 4, 5), pair),
        "unbiased": (ntensor.nn.Bilinear(3, 4, 5, bias=False), pair),
        "in a model": (Model(ntensor.nn.Bilinear(3, 4, 5)), pair),
        "converted": (converted, pair),
        "strided weight": (Model(strided), pair),
        "float64": (Model(ntensor.nn.Bilinear(3, 4, 5)).double(), tuple(t.double() for t in pair)),
        "fixed": (Model(ntensor.nn.Bilinear(3, 4, 5)).requires_grad_(False), pair),
    }


def gradients(module, inputs, leaves):
    return torch.autograd.grad(module(*inputs).sin().sum(), leaves, allow_unused=True)


@pytest.mark.parametrize("method", ["trace", "script"])
def test_bilinear_layers_under_the_jit(method, tmp_path):
    """The check of `trace` passes; values and gradients; the file needs torch alone."""
    for name, (module, inputs) in layers().items():
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            made = (
                torch.jit.trace(module, inputs) if method == "trace" else torch.jit.script(module)
            )
        fewer = tuple(t[:, :1] for t in inputs)
        torch.testing.assert_close(made(*fewer), module(*fewer))
        leaves = [p for p in module.parameters() if p.requires_grad]
        if leaves:
            torch.testing.assert_close(
                gradients(made, inputs, leaves), gradients(module, inputs, leaves)
            )
        save(made, (inputs, fewer), tmp_path, f"{method}-{name}", module)
    load_without_the_library(tmp_path)


def test_every_function_under_trace(tmp_path):
    """With operands that require gradients, whose check was the one to fail."""
    for case in PUBLIC:
        inputs = case.inputs()
        made = torch.jit.trace(lambda *t, case=case: case.function(*t), tuple(inputs))
        kinds = {node.kind() for node in made.inlined_graph.nodes()}
        assert all(kind.startswith(("aten::", "prim::")) for kind in kinds), kinds
        assert "prim::PythonOp" not in kinds
        found, wanted = in_tuple(made(*inputs)), in_tuple(case.definition(*inputs))
        torch.testing.assert_close(found, wanted)
        loss = [sum(o.sin().sum() for o in outputs) for outputs in (found, wanted)]
        torch.testing.assert_close(*(torch.autograd.grad(each, inputs) for each in loss))
        save(made, (inputs, longer(case, inputs)), tmp_path, case.name, case.definition)
    load_without_the_library(tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, w: ntensor.einsum("bi,bj,oij->bo", a, b, w),
        lambda a, b, w: ntensor.contract(w, a[0], 1),
        lambda a, b, w: tuple(ntensor.mttkrp_all(w, [a.new_ones(k, 2) for k in (5, 3, 40)])),
    ],
    ids=["einsum", "contract", "mttkrp_all"],
)
def test_other_functions_under_trace(function, tmp_path):
    shapes = (4, 3), (4, 40), (5, 3, 40)
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    made = torch.jit.trace(function, tuple(inputs))
    again = [torch.randn(s, dtype=torch.float64) for s in shapes]
    save(made, (inputs, again), tmp_path, "function", function)
    load_without_the_library(tmp_path)


def test_an_accumulated_gradient_is_not_traced():
    module = ntensor.nn.MultilinearProjection((3, 4), 5, accumulate_core_grad=True)
    inputs = torch.randn(2, 3), torch.randn(2, 4)
    with pytest.raises(RuntimeError, match="accumulate_core_grad does not work under"):
        torch.jit.trace(module, inputs)
    with torch.no_grad():
        made = torch.jit.trace(module, inputs)
        torch.testing.assert_close(made(*inputs), module(*inputs))


class Holder(torch.nn.Module):
    """A function with a fixed number of arguments, as `torch.fx` and the exporter want them."""

    def __init__(self, function, count):
        super().__init__()
        self.function, self.count = function, count
        names = ", ".join(f"x{i}" for i in range(count))
        scope = {}
        exec(f"def forward({names}): return function({names})", {"function": function}, scope)
        self.forward = scope["forward"]


@each_case
def test_fx(case):
    """The graph holds the public function, and its code can be copied and pickled."""
    inputs = case.inputs()
    graph = torch.fx.symbolic_trace(Holder(case.function, len(inputs)).forward)
    public = {getattr(ntensor, name) for name in ntensor.__all__ if name != "nn"}
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert len(targets) == 1
    assert targets[0] in public
    again = pickle.loads(pickle.dumps(graph))
    for made in (graph, copy.deepcopy(graph), again):
        torch.testing.assert_close(made(*inputs), case.function(*inputs))


def test_fx_of_layers():
    everything = layers()

    class Projects(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.project = ntensor.nn.MultilinearProjection((3, 4), 6)
            self.rotate = ntensor.nn.FeatureRotation()

        def forward(self, a, b):
            x, mean = self.project(a[0], b[0], mean=True)
            return self.rotate(x + mean, torch.eye(3).expand(6, 3, 3))

    everything["projection"] = (Projects(), layers()["alone"][1])
    for module, inputs in everything.values():
        graph = torch.fx.symbolic_trace(module)
        torch.testing.assert_close(graph(*inputs), module(*inputs))
        names = {node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"}
        assert names & {"bilinear", "synthesis_projection_with_mean"}


def decomposed(case):
    """As the exporter to ONNX does: export with any number of samples, then torch's table."""
    inputs = tuple(case.inputs(torch.float32, requires_grad=False))
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = [None if i in case.cores else {0: batch} for i in range(len(inputs))]
    module = Holder(case.function, len(inputs))
    dynamic = dict(zip((f"x{i}" for i in range(len(inputs))), shapes, strict=True))
    program = torch.export.export(module, inputs, dynamic_shapes=dynamic)
    return inputs, program.run_decompositions(dict(torch._decomp.decomposition_table))


@each_case
def test_decompositions(case):
    """Of an exported program nothing of the library is left, for any number of samples."""
    inputs, program = decomposed(case)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert targets and not any(target.startswith("ntensor") for target in targets)
    for given in (inputs, longer(case, inputs)):
        torch.testing.assert_close(program.module()(*given), case.definition(*given))


def test_fake_tensors_of_any_size_do_not_decompose():
    """They take the fake kernel and its checks."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    real = [torch.ones(7, k) for k in (3, 4)]
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=False) as mode:
        a, b = map(mode.from_tensor, real)
        assert isinstance(a.shape[0], torch.SymInt)
        assert ntensor.synthesis(a, b).shape[1] == 12
        with pytest.raises(ValueError, match=r"synthesis: factors\[1\] must have shape"):
            torch.ops.ntensor.synthesis([a, b[:5]])


def test_onnx():
    """By the current exporter, and run by ONNX Runtime for another number of samples."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    batch = torch.export.Dim("batch", min=2, max=64)
    pairs = [
        (ntensor.nn.convert(torch.nn.Bilinear(3, 4, 5)), (3, 4)),
        (ntensor.nn.Bilinear(3, 4, 5, bias=False), (3, 4)),
        (Holder(ntensor.synthesis, 2), (3, 4)),
        (Holder(lambda y, R: ntensor.rotation(y, R.reshape(-1, 3, 3)), 2), (6, 9)),
        (Holder(lambda a, b: ntensor.einsum("bi,bj,ijo->bo", a, b, core), 2), (3, 4)),
    ]
    core = torch.randn(3, 4, 5)
    for module, extents in pairs:
        inputs = tuple(torch.randn(6, k) for k in extents)
        made = torch.onnx.export(module, inputs, dynamo=True, dynamic_shapes=({0: batch},) * 2)
        session = runtime.InferenceSession(made.model_proto.SerializeToString())
        for n in (6, 11):
            given = [torch.randn(n, k) for k in extents]
            names = [each.name for each in session.get_inputs()]
            found = session.run(None, dict(zip(names, (t.numpy() for t in given), strict=True)))
            torch.testing.assert_close(torch.from_numpy(found[0]), module(*given).detach())


def test_bilinear_under_trace_is_torchs():
    inputs = torch.randn(4, 3), torch.randn(4, 5), torch.randn(6, 3, 5), torch.randn(6)
    ours, theirs = (torch.jit.trace(f, inputs) for f in (ntensor.bilinear, F.bilinear))
    kinds = [[node.kind() for node in made.graph.nodes()] for made in (ours, theirs)]
    assert kinds[0] == kinds[1] == ["aten::bilinear"]


def test_the_compiler_meets_no_decomposition_where_ci_is_set(monkeypatch):
    """It refuses an operation that has one; whoever exports finds it all the same."""
    raw = torch.ops.ntensor.synthesis.default
    factors = [torch.ones(2, 3, device="meta")] * 2

    def is_offered():
        torch.ops.ntensor.synthesis(factors)
        return bool(torch._decomp.get_decompositions([raw]))

    monkeypatch.setenv("CI", "true")
    assert not is_offered() and not is_offered()
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert is_offered() and is_offered()
    monkeypatch.undo()
    monkeypatch.delenv("CI", raising=False)
    assert is_offered()
