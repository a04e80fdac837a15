"""The candidate kernel, interpreted, is the attention that the models use."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pallas_attention

from leukjax.models.fused import transformer


@pytest.mark.parametrize("tokens", [8, 10])
def test_the_kernel_is_the_attention_of_the_models(tokens, monkeypatch):
    monkeypatch.setattr(pallas_attention, "INTERPRET", True)
    qkv = np.random.default_rng(0).normal(size=(2, tokens, 3 * 2 * 16)).astype(np.float32)

    def with_gradient(attend):
        mixed, pull = jax.vjp(functools.partial(attend, heads=2), jnp.asarray(qkv))
        return mixed, *pull(jnp.cos(mixed))

    ours, theirs = (with_gradient(m.attend) for m in (pallas_attention, transformer))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
