"""Rewrites a JAX function for converters: choices between platforms are made, calls are inlined.

Models choose the form of their convolutions, poolings and norms when they are lowered
(`lax.platform_dependent`, the primitives ``platform_index`` and ``cond``). A converter that starts
from the traced function meets all forms and the choice between them, which other formats cannot
express. Here the choice is made while the function is traced; nothing else changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array

# Primitives that are replaced by their inner jaxpr, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}
# A pooling over four dimensions, batch and channels included: onnxruntime has no such operator.
_AVOIDED = "reduce_window_max"


def resolved(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Returns the same function of one array without branches by platform; meant to be traced.

    It takes the default branch: native convolutions. Where that has a pooling by XLA, it takes the
    CPU's form, which uses comparisons. Results are equal up to the order of sums.
    """

    def traced(x: Array) -> Array:
        closed = jax.make_jaxpr(function)(x)
        (result,) = _evaluate(closed.jaxpr, closed.consts, [x])
        return result

    return traced


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Does what `jax.core.eval_jaxpr` does, with calls inlined and platforms resolved."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    platforms = {}  # keyed by the variable that would hold the index of a branch
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "platform_index":
            platforms[equation.outvars[0]] = parameters["platforms"]
            continue
        inner, atoms = None, equation.invars
        if name == "cond" and atoms[0] in platforms:
            inner = _choose(platforms[atoms[0]], parameters["branches"])
            atoms = atoms[1:]
        elif name in _CALLS:
            inner = parameters[_CALLS[name]]
        inputs = [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]
        if isinstance(inner, ClosedJaxpr):
            results = _evaluate(inner.jaxpr, inner.consts, inputs)
        elif inner is not None:
            results = _evaluate(inner, (), inputs)
        elif name == "optimization_barrier":  # has no effect where XLA compiles nothing
            results = inputs
        else:
            output = equation.primitive.bind(*inputs, **parameters)
            results = output if equation.primitive.multiple_results else [output]
        values.update(zip(equation.outvars, results, strict=True))
    return [atom.val if isinstance(atom, Literal) else values[atom] for atom in jaxpr.outvars]


def _choose(platforms: Sequence[Any], branches: Sequence[ClosedJaxpr]) -> ClosedJaxpr:
    """Chooses a branch; `platforms` holds the platforms of each, None for the default."""
    default = branches[platforms.index(None)]
    if _AVOIDED not in _primitives(default.jaxpr):
        return default
    return next(
        branch
        for names, branch in zip(platforms, branches, strict=True)
        if names is not None and "cpu" in names
    )


def _primitives(jaxpr: Jaxpr) -> set[str]:
    """Names of all primitives, those of inner jaxprs included."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        inner = equation.params.get(_CALLS.get(equation.primitive.name, ""))
        if inner is not None:
            names |= _primitives(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
    return names
