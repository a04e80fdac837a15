"""An integer hash that compiles fast, for random numbers that need not be secret.

Each draw of ``jax.random`` is compiled separately, in half a second on CPU; XLA fuses this hash
with the arithmetic around it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

# Multipliers of the finaliser of MurmurHash3 (Appleby, public domain).
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)


def mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns a bijective hash: each bit of the input changes half of the bits of the output."""
    for shift, multiplier in zip((16, 13), _MULTIPLIERS, strict=True):
        x = (x ^ (x >> shift)) * jnp.uint32(multiplier)
    return x ^ (x >> 16)


def signed(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Returns 24 of the bits as float32 numbers in [-1, 1)."""
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * 2.0**-23 - 1
