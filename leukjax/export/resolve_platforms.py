"""A function as other formats can hold it: JAX's choices between platforms made, and no calls.

Models choose the form of their convolutions, poolings and norms when a program is lowered
(`lax.platform_dependent`, the primitives ``platform_index`` and ``cond``). A converter that starts
from what JAX traced meets both forms and the choice between them, for which other formats have no
word. Here the choice is made while the function is traced, so that nothing else of it changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array

# Whose inside takes their place; the key of their parameters under which it stands.
_CALLS = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}
# A pooling over four dimensions, images and channels counted: more than onnxruntime takes.
_AVOIDED = "reduce_window_max"


def unbranched(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same function of one array, without branches by platform; to be traced, not called often.

    Taken is the branch of platforms that have none of their own: native convolutions. Where that
    has a pooling of XLA's, CPU's form by comparisons is taken. Equal up to the order of sums.
    """

    def traced(x: Array) -> Array:
        closed = jax.make_jaxpr(function)(x)
        (result,) = _evaluate(closed.jaxpr, closed.consts, [x])
        return result

    return traced


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """What `jax.core.eval_jaxpr` does, but for calls, and for choices by platform."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    platforms = {}  # by the variable that would hold the number of a branch
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "platform_index":
            platforms[equation.outvars[0]] = parameters["platforms"]
            continue
        chosen = None
        if name == "cond" and equation.invars[0] in platforms:
            chosen = _choose(platforms[equation.invars[0]], parameters["branches"])
            inputs = equation.invars[1:]
        else:
            inputs = equation.invars
        given = [atom.val if isinstance(atom, Literal) else values[atom] for atom in inputs]
        if name in _CALLS:
            chosen = parameters[_CALLS[name]]
        if isinstance(chosen, ClosedJaxpr):
            results = _evaluate(chosen.jaxpr, chosen.consts, given)
        elif chosen is not None:
            results = _evaluate(chosen, (), given)
        elif name == "optimization_barrier":  # orders nothing where nothing is compiled by XLA
            results = given
        else:
            found = equation.primitive.bind(*given, **parameters)
            results = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, results, strict=True))
    return [atom.val if isinstance(atom, Literal) else values[atom] for atom in jaxpr.outvars]


def _choose(platforms: Sequence[Any], branches: Sequence[ClosedJaxpr]) -> ClosedJaxpr:
    """One of the branches; `platforms` holds the names for each, None for all the others."""
    rest = branches[platforms.index(None)]
    if _AVOIDED not in _primitives(rest.jaxpr):
        return rest
    return next(
        branch
        for names, branch in zip(platforms, branches, strict=True)
        if names is not None and "cpu" in names
    )


def _primitives(jaxpr: Jaxpr) -> set[str]:
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        inner = equation.params.get(_CALLS.get(equation.primitive.name, ""))
        if inner is not None:
            found |= _primitives(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
    return found
