"""The machine: memory that XLA frees stays in the process."""

import subprocess
import sys

import pytest

from leukjax import runtime

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


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some Xeon\n\nprocessor\t: 1\n", "Some Xeon ("),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n", "ARM implementer 0x41, part 0xd40"),
        ("no colon", ""),
    ],
)  # fmt: skip
def test_the_processor_is_named(tmp_path, lines, name, monkeypatch):
    monkeypatch.setattr("platform.processor", str)
    (tmp_path / "cpuinfo").write_text(lines)
    assert runtime.processor(tmp_path / "cpuinfo").startswith(name or "unknown")
    assert runtime.processor(tmp_path / "none").startswith("unknown (")
    assert runtime.processor()
