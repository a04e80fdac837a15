"""Order of jobs, failures and stops, with fake workers."""

import json

import pytest

from leukjax.crossval import plan, scheduler, trials, workers
from leukjax.crossval.workers import JobResult
from leukjax.errors import Stopped


class NoProgress:
    def __getattr__(self, name):
        return lambda *_, **__: None


class FakeWorkers:
    """Two devices; each job ends at once with the result in `script`, else well."""

    def __init__(self, study, script=None):
        self.study, self.script, self.busy, self.given = study, script or {}, {}, []
        self.closed = 0

    @property
    def free(self):
        return [device for device in (0, 1) if device not in self.busy]

    def give(self, device, job, message):
        self.busy[device] = job
        self.given.append((job.name, message))

    def wait(self, seconds):
        ended = []
        for device in sorted(self.busy):
            job = self.busy.pop(device)
            result = self.script.get(job.name, JobResult(workers.DONE))
            folder = self.study.path(job)
            folder.mkdir(parents=True, exist_ok=True)
            if result.status == workers.DONE:
                content = {"score": 0.5 + 0.1 * (job.trial or 0), "epoch": 1, "failure": ""}
                name = "summary.json" if job.trial is None else trials.RESULT
                (folder / name).write_text(json.dumps(content))
            elif result.status == workers.DIVERGED:
                trials.write_divergence(folder, result.message)
            ended.append((job, result))
        return ended

    def terminate(self):
        pass

    def close(self):
        self.closed += 1


@pytest.fixture
def study(tmp_path):
    return plan.make(
        tmp_path, ["cnn"], [], folds=3, seeds=2, pool=False,
        sweep=["optimizer.learning_rate=1e-4,1e-3"],
    )  # fmt: skip


def train(study, script=None):
    pool = FakeWorkers(study, script)
    scheduler.Scheduler(study, pool, NoProgress()).train(study.runs())
    return pool


def test_runs_wait_for_their_trials_and_use_the_chosen_values(study):
    given = train(study).given
    names = [name for name, _ in given]
    assert len(names) == len(set(names)) == 12
    for fold in range(3):
        order = [names.index(f"cnn/fold{fold}-{end}") for end in ("trial0", "trial1", "seed0")]
        assert max(order[:2]) < order[2]
    rates = {name: message["config"]["optimizer"]["learning_rate"] for name, message in given}
    assert rates["cnn/fold1-trial0"] == 1e-4
    assert rates["cnn/fold1-seed1"] == 1e-3  # the better one
    kinds = {name: message["kind"] for name, message in given}
    assert (kinds["cnn/fold2-trial1"], kinds["cnn/fold2-seed1"]) == ("trial", "run")
    assert train(study).given == []  # everything is done


def test_a_failure_stops_no_other_job_and_waits_for_retry(study):
    bad = {
        "cnn/fold0-seed1": JobResult(workers.FAILED, "the disk is full"),
        "cnn/fold1-trial0": JobResult(workers.FAILED, "killed"),
        "cnn/fold2-trial1": JobResult(workers.DIVERGED, "the loss is nan"),
    }
    names = [name for name, _ in train(study, bad).given]
    assert "cnn/fold1-seed0" not in names  # its fold has no chosen trial
    assert "cnn/fold2-seed1" in names  # a diverged trial counts
    jobs = study.jobs(study.runs())
    assert scheduler.failures(study, jobs) == {
        "cnn/fold0-seed1": "the disk is full", "cnn/fold1-trial0": "killed"
    }  # fmt: skip
    assert train(study).given == []
    scheduler.forget_failures(study, jobs)
    assert [name for name, _ in train(study).given] == [
        "cnn/fold0-seed1", "cnn/fold1-trial0", "cnn/fold1-seed0", "cnn/fold1-seed1"
    ]  # fmt: skip
    assert scheduler.failures(study, jobs) == {}


def test_a_fold_whose_trials_all_diverge_fails_alone(study):
    diverged = JobResult(workers.DIVERGED, "the loss is nan")
    train(study, {"cnn/fold0-trial0": diverged, "cnn/fold0-trial1": diverged})
    jobs = study.jobs(study.runs())
    assert set(scheduler.failures(study, jobs)) == {"cnn/fold0-seed0", "cnn/fold0-seed1"}
    assert all(scheduler.is_done(study, job) for job in jobs if job.fold)


def test_a_worker_that_was_stopped_stops_all(study):
    pool = FakeWorkers(study, {"cnn/fold0-trial0": JobResult(workers.STOPPED, "SIGTERM at step 8")})
    with pytest.raises(Stopped, match=r"everything is saved in .*; the same command resumes"):
        scheduler.Scheduler(study, pool, NoProgress()).train(study.runs())
    assert pool.closed == 1
    assert scheduler.failures(study, study.jobs(study.runs())) == {}
