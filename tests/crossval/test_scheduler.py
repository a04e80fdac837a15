"""The order of the work, failures and stops, with workers that only pretend."""

import json

import pytest

from leukjax.crossval import job_result, plan, scheduler, trials
from leukjax.crossval.job_result import Answer
from leukjax.errors import Stopped


class Board:
    def __getattr__(self, name):
        return lambda *_, **__: None


class Workers:
    """Two devices; does each job at once, as `script` says or well."""

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
            answer = self.script.get(job.name, Answer(job_result.DONE))
            folder = self.study.path(job)
            folder.mkdir(parents=True, exist_ok=True)
            if answer.status == job_result.DONE:
                result = {"score": 0.5 + 0.1 * (job.trial or 0), "epoch": 1, "failure": ""}
                name = "summary.json" if job.trial is None else trials.RESULT
                (folder / name).write_text(json.dumps(result))
            elif answer.status == job_result.DIVERGED:
                trials.write_divergence(folder, answer.message)
            ended.append((job, answer))
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
    workers = Workers(study, script)
    scheduler.Conductor(study, workers, Board()).train(study.runs())
    return workers


def test_runs_wait_for_their_trials_and_take_their_values(study):
    given = train(study).given
    names = [name for name, _ in given]
    assert len(names) == len(set(names)) == 12
    for fold in range(3):
        places = [names.index(f"cnn/fold{fold}-{end}") for end in ("trial0", "trial1", "seed0")]
        assert max(places[:2]) < places[2]
    rates = {name: message["config"]["optimizer"]["learning_rate"] for name, message in given}
    assert rates["cnn/fold1-trial0"] == 1e-4
    assert rates["cnn/fold1-seed1"] == 1e-3  # the better one
    kinds = {name: message["kind"] for name, message in given}
    assert (kinds["cnn/fold2-trial1"], kinds["cnn/fold2-seed1"]) == ("trial", "run")
    assert train(study).given == []  # all is done


def test_a_failure_stops_nothing_else_and_waits_for_retry(study):
    bad = {
        "cnn/fold0-seed1": Answer(job_result.FAILED, "the disk is full"),
        "cnn/fold1-trial0": Answer(job_result.FAILED, "killed"),
        "cnn/fold2-trial1": Answer(job_result.DIVERGED, "the loss is nan"),
    }
    names = [name for name, _ in train(study, bad).given]
    assert "cnn/fold1-seed0" not in names  # its fold has no choice
    assert "cnn/fold2-seed1" in names  # one that diverged counts as a trial
    jobs = scheduler.all_jobs(study, study.runs())
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
    went = Answer(job_result.DIVERGED, "the loss is nan")
    train(study, {"cnn/fold0-trial0": went, "cnn/fold0-trial1": went})
    jobs = scheduler.all_jobs(study, study.runs())
    assert set(scheduler.failures(study, jobs)) == {"cnn/fold0-seed0", "cnn/fold0-seed1"}
    assert all(scheduler.is_done(study, job) for job in jobs if job.fold)


def test_a_worker_that_was_stopped_stops_all(study):
    workers = Workers(study, {"cnn/fold0-trial0": Answer(job_result.STOPPED, "SIGTERM at step 8")})
    with pytest.raises(Stopped, match=r"everything is saved in .*; the same command goes on"):
        scheduler.Conductor(study, workers, Board()).train(study.runs())
    assert workers.closed == 1
    assert scheduler.failures(study, scheduler.all_jobs(study, study.runs())) == {}
