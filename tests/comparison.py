"""One call of an operation compared with its definition: outputs, every gradient, side effects."""

import torch

from tolerances import assert_within_rule


def in_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def evaluate(function, inputs, needs, cotangents, convert=lambda t: t):
    """Outputs of `function`, and the gradients of those inputs that `needs` marks.

    `cotangents` holds one incoming gradient an output, None for an output that takes no part."""
    leaves = [
        convert(t.detach()).requires_grad_(need) for t, need in zip(inputs, needs, strict=True)
    ]
    outputs = function(*leaves)
    outputs = in_tuple(outputs)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    used = [
        (o, convert(g))
        for o, g in zip(outputs, cotangents, strict=True)
        if g is not None and o.requires_grad
    ]
    grads = [torch.zeros_like(leaf) for leaf in wanted]
    if used:
        results, incoming = zip(*used, strict=True)
        grads = torch.autograd.grad(results, wanted, incoming, materialize_grads=True)
    return [o.detach() for o in outputs], list(grads)


def storage_bytes(tensor):
    """Every byte of the buffer that `tensor` looks into, its surroundings included."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def exact_copy(tensor):
    return tensor.to(torch.float64, memory_format=torch.contiguous_format, copy=True)


def plain_copy(tensor):
    return tensor.clone(memory_format=torch.contiguous_format)


def assert_matches_definition(function, definition, inputs, cotangents, needs=None):
    """`function` obeys the tolerance rule on outputs and gradients, leaves the buffers of its
    inputs and incoming gradients as they were, and returns memory of its own.

    Returns its outputs and gradients."""
    given = [t for t in (*inputs, *cotangents) if t is not None]
    before = [storage_bytes(t).clone() for t in given]
    results = assert_values(function, definition, inputs, cotangents, needs)
    for tensor, was in zip(given, before, strict=True):
        assert torch.equal(storage_bytes(tensor), was), "an argument or its surroundings changed"
    owned = {t.untyped_storage().data_ptr() for t in given if t.numel()}
    for output in results[: len(cotangents)]:
        if output.numel():
            assert output.untyped_storage().data_ptr() not in owned, "an output aliases an argument"
    return results


def assert_values(function, definition, inputs, cotangents, needs=None):
    """The tolerance rule alone; returns the outputs and gradients."""
    needs = [True] * len(inputs) if needs is None else needs
    outputs, grads = evaluate(function, inputs, needs, cotangents)
    truth, true_grads = evaluate(definition, inputs, needs, cotangents, exact_copy)
    rival, rival_grads = evaluate(definition, inputs, needs, cotangents, plain_copy)
    term, term_grads = evaluate(
        definition, inputs, needs, cotangents, lambda t: exact_copy(t).square_()
    )
    for i, rows in enumerate(zip(outputs, rival, truth, term, strict=True)):
        assert_within_rule(f"output {i}", *rows[:3], rows[3].sqrt())
    wanted = [i for i, need in enumerate(needs) if need]
    rows = zip(wanted, grads, rival_grads, true_grads, term_grads, strict=True)
    for i, grad, rival_grad, true_grad, term_grad in rows:
        assert_within_rule(f"gradient of input {i}", grad, rival_grad, true_grad, term_grad.sqrt())
    return [*outputs, *grads]
