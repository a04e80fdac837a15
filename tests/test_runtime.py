"""The machine: memory that XLA frees stays in the process."""

import errno
import logging
import pathlib
import stat
import subprocess
import sys
import tempfile

import jax
import pytest

from leukjax import runtime
from leukjax.errors import UserError

# Counts the pages that the system hands out while a program with 64 MB of temporary buffers runs
# thrice, once the heap has settled. In XLA's own threads these would be mapped again, kept or not.
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
import jax, leukjax, leukjax.training.step
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


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_default_cache_folder_is_made_for_its_user_alone(home):
    folder = runtime.usable_cache_folder("auto")
    assert folder == home / ".cache" / "leukjax" / "compiled"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == []


def test_without_a_home_that_can_be_written_there_is_no_cache(home, monkeypatch, caplog):
    """The cache only saves time."""

    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(home))

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    logging.getLogger("absl").propagate = True  # off where a test before it ran a command
    for patched, refusal in (("mkdir", refused), ("home", homeless)):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, patched, refusal)
            assert runtime.usable_cache_folder("auto") is None
        assert "compiled functions are not kept" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refused)
        assert runtime.usable_cache_folder("auto") is None
        with pytest.raises(OSError, match="Read-only"):  # what was asked for is not left out
            runtime.usable_cache_folder(str(home / "mine"))


def test_a_bucket_for_compiled_functions_is_left_to_jax(home, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/compiled")
    assert runtime.usable_cache_folder("auto") is None
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some Xeon\n\nprocessor\t: 1\n", "Some Xeon ("),
        ("model name\t: An EPYC\nflags\t\t: fpu sse avx2\n", "An EPYC, AVX2 ("),
        ("model name\t: An EPYC\nflags\t\t: fpu avx2 avx512f\n", "An EPYC, AVX-512 ("),
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


@pytest.mark.parametrize("path", ["", "job_1"])
def test_available_memory_is_that_of_the_control_group(tmp_path, path):
    folder = tmp_path / path
    folder.mkdir(exist_ok=True)
    own = tmp_path / "own"
    own.write_text(f"0::/{path}\n")
    (folder / "memory.max").write_text("max\n")
    (folder / "memory.current").write_text("3000\n")
    (folder / "memory.stat").write_text("anon 1500\ninactive_file 1000\n")
    assert runtime.available_memory(tmp_path, own) > 2**20  # no limit
    (folder / "memory.max").write_text("5000\n")
    assert runtime.available_memory(tmp_path, own) == 3000
