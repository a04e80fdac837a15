"""An integer hash that compiles in no time, for random numbers that need not be secret.

With ``jax.random`` every draw is compiled for itself, half a second each on CPU; XLA takes this in
with the arithmetic around it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

# Multipliers of the finaliser of MurmurHash3 (Appleby, public domain).
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)


def mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Every bit of the input changes half of the bits of the output; one to one."""
    for shift, multiplier in zip((16, 13), _MULTIPLIERS, strict=True):
        x = (x ^ (x >> shift)) * jnp.uint32(multiplier)
    return x ^ (x >> 16)


def signed(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Bits as numbers in [-1, 1), float32, which holds 24 of them."""
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * 2.0**-23 - 1
