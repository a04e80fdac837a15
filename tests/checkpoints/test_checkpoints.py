"""Checkpoints: exact, kept by score and age, and never believed when damaged."""

import errno
import json
import logging
import random
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from leukjax.checkpoints import checksums
from leukjax.checkpoints.checksums import NAME as CHECKSUMS
from leukjax.checkpoints.reader import for_evaluation
from leukjax.checkpoints.writer import Checkpoints
from leukjax.errors import UserError


def _state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": {"kernel": jnp.asarray(rng.normal(size=(300, 40)), jnp.float32)},
        "empty": {},
        "step": jnp.asarray(seed, jnp.int32),
        "half": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
    }


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints", keep_latest=2, lower_is_better=False)
    yield made
    made.close()


def _folder(tmp_path):
    return tmp_path / "checkpoints"


def _equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.smoke
def test_round_trip_is_bitwise_though_the_state_is_donated_at_once(checkpoints):
    state = _state()
    expected = jax.tree.map(np.array, state)
    spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    checkpoints.save(5, state, {"note": "x"}, 0.5)
    for _ in range(3):
        state = spoil(state)
    checkpoints.wait()
    _equal(checkpoints.restore(5, state), expected)
    assert checkpoints.read_meta(5) == {"note": "x", "step": 5, "score": 0.5}


def test_the_latest_two_and_the_best_stay_and_ties_go_to_the_earliest(checkpoints, tmp_path):
    scores = {10: 0.5, 20: 0.9, 30: 0.7, 40: 0.9, 50: 0.6, 60: None}
    for step, score in scores.items():
        checkpoints.save(step, _state(step), {}, score)
    checkpoints.wait()
    names = sorted(path.name for path in _folder(tmp_path).iterdir())
    assert names == ["20", "50", "60"]
    assert checkpoints.best() == 20
    assert checkpoints.latest() == 60


def test_a_restarted_run_remembers_the_best(checkpoints, tmp_path):
    checkpoints.save(1, _state(1), {}, 0.9)
    checkpoints.close()
    again = Checkpoints(_folder(tmp_path), keep_latest=2, lower_is_better=False)
    for step in (2, 3, 4):
        again.save(step, _state(step), {}, 0.1 * step)
    again.wait()
    assert again.best() == 1
    _equal(again.restore(1, _state()), _state(1))
    again.close()


def test_lower_is_better(tmp_path):
    made = Checkpoints(_folder(tmp_path), keep_latest=2, lower_is_better=True)
    for step, score in enumerate([0.7, 0.3, 0.5, 0.9]):
        made.save(step, _state(step), {}, score)
    made.wait()
    assert made.best() == 1
    made.close()


def _data_files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)


def test_a_flipped_byte_anywhere_is_noticed_and_the_one_before_is_used(checkpoints, tmp_path):
    checkpoints.save(1, _state(1), {}, 0.1)
    checkpoints.save(2, _state(2), {}, 0.2)
    checkpoints.wait()
    newest = _folder(tmp_path) / "2"
    draw = random.Random(0)
    for file in _data_files(newest):
        whole = file.read_bytes()
        if not whole:
            continue
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        problem = checkpoints._problem(2)
        assert problem is not None
        assert "damaged" in problem
        file.write_bytes(whole)
    assert checkpoints._problem(2) is None

    file.write_bytes(damaged)
    assert checkpoints.latest() == 1
    _equal(checkpoints.restore(1, _state()), _state(1))
    checkpoints.save(2, _state(2), {}, 0.2)  # the step is free again
    checkpoints.wait()
    assert checkpoints.latest() == 2


@pytest.mark.parametrize(
    "how", ["cut", "missing", "added", "checksums missing", "checksums broken"]
)
def test_other_damage(checkpoints, tmp_path, how):
    checkpoints.save(1, _state(1), {}, 0.1)
    checkpoints.save(2, _state(2), {}, 0.2)
    checkpoints.wait()
    newest = _folder(tmp_path) / "2"
    largest = max(_data_files(newest), key=lambda p: p.stat().st_size)
    if how == "cut":
        largest.write_bytes(largest.read_bytes()[:-1])
    elif how == "missing":
        largest.unlink()
    elif how == "added":
        (newest / "state" / "stray").write_text("x")
    elif how == "checksums missing":
        (newest / CHECKSUMS).unlink()
    else:
        (newest / CHECKSUMS).write_text(json.dumps({})[:-1])
    assert checkpoints.latest() == 1


def test_a_damaged_best_is_an_error_not_another_result(checkpoints, tmp_path):
    for step, score in {1: 0.9, 2: 0.1, 3: 0.2, 4: 0.3}.items():
        checkpoints.save(step, _state(step), {}, score)
    checkpoints.wait()
    file = max(_data_files(_folder(tmp_path) / "1"), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="same command gives the same run"):
        checkpoints.best()


def test_no_score_at_all(checkpoints):
    checkpoints.save(1, _state(), {}, None)
    checkpoints.wait()
    with pytest.raises(UserError, match="no checkpoint has a validation score"):
        checkpoints.best()


def test_an_empty_folder_has_no_latest(checkpoints):
    assert checkpoints.latest() is None


def test_remains_of_a_killed_save_are_removed(checkpoints, tmp_path):
    checkpoints.save(1, _state(1), {}, 0.1)
    checkpoints.close()
    (_folder(tmp_path) / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    again = Checkpoints(_folder(tmp_path), keep_latest=2, lower_is_better=False)
    assert again.latest() == 1
    assert not (_folder(tmp_path) / "2.orbax-checkpoint-tmp").exists()
    again.close()


@pytest.fixture
def largest_file():
    """Sets the size above which no file may grow: a disk that refuses, without being root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def no_log():
    """Drops what Orbax logs, as the commands do: what is left are uncaught exceptions."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_log")
@pytest.mark.parametrize("noticed_by", ["wait", "save", "close"])
def test_a_save_that_the_disk_refuses(checkpoints, tmp_path, largest_file, capfd, noticed_by):
    checkpoints.save(1, _state(1), {}, 0.1)
    checkpoints.wait()
    largest_file(8192)
    checkpoints.save(2, _state(2), {}, 0.2)
    if noticed_by == "wait":
        with pytest.raises(UserError, match=r"larger than the largest file.*are intact") as raised:
            checkpoints.wait()
        assert "\n" not in str(raised.value)
    elif noticed_by == "save":
        with pytest.raises(UserError, match="larger than the largest file"):
            checkpoints.save(3, _state(3), {}, 0.3)
    checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err
    assert [path.name for path in _folder(tmp_path).iterdir()] == ["1"]
    largest_file(resource.RLIM_INFINITY)
    again = Checkpoints(_folder(tmp_path), keep_latest=2, lower_is_better=False)
    assert again.latest() == 1
    _equal(again.restore(1, _state()), _state(1))
    again.save(2, _state(2), {}, 0.2)
    again.wait()
    assert again.latest() == 2
    again.close()


def test_checksums_that_the_disk_refuses(checkpoints, tmp_path, monkeypatch):
    checkpoints.save(1, _state(1), {}, 0.1)
    checkpoints.wait()

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("leukjax.checkpoints.writer.write_atomic", full)
    checkpoints.save(2, _state(2), {}, 0.2)
    with pytest.raises(UserError, match=r"checksums.json: no space left on the device"):
        checkpoints.wait()
    checkpoints.close()
    again = Checkpoints(_folder(tmp_path), keep_latest=2, lower_is_better=False)
    assert again.latest() == 1
    again.close()


def test_other_shardings_restore_the_same_numbers(checkpoints):
    from jax.sharding import NamedSharding, PartitionSpec
    from ml_collections import ConfigDict

    from leukjax.sharding import make_mesh

    mesh = make_mesh(ConfigDict({"data": 4, "model": 1, "fsdp": True}), 8)
    split = NamedSharding(mesh, PartitionSpec("data"))
    state = {"kernel": jax.device_put(np.arange(32.0, dtype=np.float32), split)}
    checkpoints.save(1, state, {}, 0.1)
    checkpoints.wait()
    whole = {"kernel": jnp.zeros(32)}
    restored = checkpoints.restore(1, whole)
    np.testing.assert_array_equal(restored["kernel"], np.arange(32.0))
    assert restored["kernel"].sharding == whole["kernel"].sharding


@pytest.mark.parametrize("name", ["a[b]", "a\\b", "a*b", "gs:"])
def test_a_path_that_reads_like_a_pattern(tmp_path, name):
    """Orbax merged nothing below the first two, and said so in its log alone."""
    folder = tmp_path / name / "checkpoints"
    (tmp_path / "axb" / "checkpoints" / "1").mkdir(parents=True)
    made = Checkpoints(folder, keep_latest=2, lower_is_better=False)
    variables = {"params": _state()["params"], "batch_stats": {}}
    averages = {"ema_params": {}, "ema_batch_stats": {}}
    made.save(1, variables | averages, {}, 0.5)
    made.wait()
    _equal(made.restore(1, variables | averages), variables | averages)
    link = made._plain
    made.close()
    assert not link.exists()
    assert folder.is_dir()
    step, found = for_evaluation(folder, lower_is_better=False)
    assert step == 1
    _equal(found, variables)


def test_no_path_without_a_pattern(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "a[b]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a[b]"))
    with pytest.raises(UserError, match=r"a\[b\]/checkpoints: .* choose another --workdir or set"):
        Checkpoints(tmp_path / "a[b]" / "checkpoints", keep_latest=2, lower_is_better=False)
    assert not list((tmp_path / "a[b]").glob("leukjax-*"))


def test_a_checkpoint_that_could_not_be_restored_is_not_sealed(checkpoints, tmp_path, monkeypatch):
    checkpoints.save(1, _state(1), {}, 0.1)
    checkpoints.wait()

    async def merge_nothing(*_, **__):
        """What Orbax does where it finds no parts: log a line, and commit."""

    monkeypatch.setattr(
        "orbax.checkpoint._src.serialization.ocdbt_utils.merge_ocdbt_per_process_files",
        merge_nothing,
    )
    checkpoints.save(2, _state(2), {}, 0.2)
    with pytest.raises(UserError, match=r"checkpoints/2: .* cannot be read back.*") as raised:
        checkpoints.wait()
    assert "\n" not in str(raised.value)
    assert not (_folder(tmp_path) / "2" / CHECKSUMS).exists()
    assert checkpoints.last_verified() == 1
    checkpoints.close()
    again = Checkpoints(_folder(tmp_path), keep_latest=2, lower_is_better=False)
    assert again.latest() == 1
    again.close()


def test_a_checkpoint_that_lacks_an_array_is_not_sealed(checkpoints, monkeypatch):
    monkeypatch.setattr("leukjax.checkpoints.writer._DESCRIPTIONS", (b"kernel/.zarray",))
    checkpoints.save(1, _state(1), {}, 0.1)
    with pytest.raises(UserError, match="it holds 1 arrays of 3"):
        checkpoints.wait()


def test_a_save_does_not_query_the_preemption_service(checkpoints, monkeypatch):
    """Its counter is that of `train.stop`; a second one makes processes miss the agreed step."""
    queried = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", queried.append)
    checkpoints.save(5, _state(), {}, 0.5)
    checkpoints.wait()
    assert checkpoints.latest() == 5
    assert queried == []


def test_a_file_that_does_not_belong_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    (tmp_path / checksums.NAME).write_text(checksums.text_of(checksums.checksums(tmp_path)))
    assert checksums.problem(tmp_path) is None
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # hours of reading
    monkeypatch.setattr(checksums.hashlib, "file_digest", None)
    assert checksums.problem(tmp_path) == "large does not belong to it"
