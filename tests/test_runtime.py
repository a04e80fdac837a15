"""The machine: memory that XLA frees stays in the process."""

import subprocess
import sys

import jax
import pytest

from leukjax import runtime
from leukjax.errors import UserError

# Counts the pages that the system hands out while a program with 64 MB of temporary buffers runs
# thrice, once the heap has settled. In XLA's own threads these would be mapped anew, held or not.
FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from leukjax import runtime
if sys.argv[1] == "hold" and not runtime.hold_memory():
    raise SystemExit("no glibc")
step = jax.jit(lambda x: jnp.tanh(x) @ jnp.ones((4096, 8)))
x = jnp.ones((4096, 4096))
for _ in range(60):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    if "no glibc" in run.stderr:
        pytest.skip("the C library is not glibc")
    return int(run.stdout)


def test_held_memory_is_not_handed_out_again():
    page_faults = 3 * (1 << 26) // 4096
    assert _faults("hold") < page_faults / 10
    assert _faults("let go") > page_faults / 2


NUMERICS = """
import os
os.environ |= {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}
import jax, leukjax, leukjax.train.step
from leukjax import runtime
assert jax.config.jax_enable_x64, "importing leukjax changed a setting"
runtime.set_numerics()
print(jax.numpy.arange(2.0).dtype, jax.random.bits(jax.random.key(0), (2,)).tolist())
print(runtime.chosen_numerics())
"""


def test_commands_set_what_exact_numbers_depend_on():
    run = subprocess.run([sys.executable, "-c", NUMERICS], capture_output=True, text=True)
    bits = jax.random.bits(jax.random.key(0), (2,)).tolist()
    assert run.stdout.splitlines() == [
        f"float32 {bits}",
        "{'jax_default_matmul_precision': 'highest'}",
    ]
    assert "JAX_ENABLE_X64=True is not used: leukjax sets False" in run.stderr


def test_what_cannot_be_set_is_refused_in_one_line():
    with jax.enable_x64(True), pytest.raises(UserError, match=r"^JAX_ENABLE_X64=True: .*remove it"):
        runtime.set_numerics()  # a setting of this thread goes before one of the process
    runtime.set_numerics()


def test_a_default_run_records_nothing():
    assert runtime.chosen_numerics() == {}
