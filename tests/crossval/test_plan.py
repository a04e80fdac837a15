"""Plan of a study: jobs, configs, shards, and errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukjax.crossval import plan
from leukjax.crossval.plan import Job
from leukjax.errors import UserError


def make(*sources, folder=Path("study"), overrides=(), folds=3, seeds=2, pool=False, sweep=()):
    return plan.make(
        folder,
        sources or ("cnn", "hybrid_vit"),
        overrides,
        folds=folds,
        seeds=seeds,
        pool=pool,
        sweep=sweep,
    )


def test_models_share_folds_and_seeds():
    study = make("cnn:cnmc", "resnet50:cnmc", "hybrid_vit:cnmc,r50_b16", folds=5, seeds=3)
    assert study.models == ("cnn", "resnet50", "hybrid_vit-r50_b16")
    runs = study.runs()
    assert len(runs) == len(set(runs)) == 45
    assert {(run.fold, run.seed) for run in study.runs("cnn")} == {
        (run.fold, run.seed) for run in study.runs("hybrid_vit-r50_b16")
    }
    config = study.config(Job("resnet50", 4, 2), {"optimizer.learning_rate": "3e-4"})
    split = {"protocol": "kfold", "held_out": "auto", "folds": 5, "fold": 4, "seed": 0}
    assert split.items() <= config.split.to_dict().items()
    assert (config.seed, config.optimizer.learning_rate) == (2, 3e-4)
    # The study's own config is unchanged.
    assert study.configs["resnet50"].optimizer.learning_rate == 1e-4
    assert make(pool=True).configs["cnn"].split.held_out == "none"
    assert make(overrides=[("seed", "7")]).seeds == (7, 8)


@pytest.mark.parametrize("sweep", [(), ("optimizer.learning_rate=1e-4,1e-3",)])
def test_shards_are_a_partition(sweep):
    study = make(sweep=sweep, seeds=3)
    shares = [study.share((number, 4)) for number in (1, 2, 3, 4)]
    assert sorted((run for share in shares for run in share), key=study.runs().index) == (
        study.runs()
    )
    if sweep:  # a fold is on one machine, because its runs wait for its trials
        machine = {(run.model, run.fold): n for n, share in enumerate(shares) for run in share}
        assert all(machine[run.model, run.fold] == n for n, s in enumerate(shares) for run in s)


def test_a_sweep_is_a_grid():
    study = make(sweep=("optimizer.learning_rate=1e-4,1e-3", "augment.flip=true,false"))
    assert [tuple(values.values()) for values in study.trials] == [
        ("1e-4", "true"), ("1e-4", "false"), ("1e-3", "true"), ("1e-3", "false")
    ]  # fmt: skip
    # All models have the same number of trials, with the first seed.
    assert {len(study.trial_jobs(model, 1)) for model in study.models} == {4}
    assert {job.seed for job in study.trial_jobs("cnn", 0)} == {0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sweep": ["optimizer.learning_rate"]}, "--sweep=optimizer.learning_rate: must read"),
        ({"sweep": ["optimizer.learning_rate=1,,2"]}, "must read FIELD=VALUE,VALUE"),
        ({"sweep": ["optimizer.learning_rate=1,1"]}, "with different values"),
        ({"sweep": ["augment.flip=1,0", "augment.flip=1"]}, "augment.flip is swept twice"),
        ({"sweep": ["split.seed=1,2"]}, "shared by all runs of a study"),
        ({"sweep": ["seed=1,2"]}, "shared by all runs"),
        ({"sweep": ["data.table=a.csv,b.csv"]}, "shared by all runs"),
        ({"sweep": ["data.path_template={a},{b}"]}, "shared by all runs"),
        ({"sweep": ["checkpoint.metric=loss,auroc"]}, "shared by all runs"),
        ({"sweep": ["optimizer.learnin_rate=1,2"]}, "no such field; did you mean"),
        ({"sweep": ["optimizer.learning_rate=1e-3,-1"]}, "must be between 0 and"),
        ({"overrides": [("split.protocol", "image")]}, "folds and the held-out split are made of"),
        ({"overrides": [("split.protocol", "kfold")]}, "holds nothing out; give the protocol"),
        ({"overrides": [("split.folds", "4")]}, "--config.split.folds: set by --folds here"),
    ],
)
def test_errors(change, message):
    with pytest.raises(UserError, match=message):
        make(**change)


def test_configs_that_do_not_share_the_folds(tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        "from leukjax.config import load\n"
        "def get_config(argument=''):\n    config = load('cnn')\n    config.split.seed = 1\n"
        "    config.data.image_size = 32\n    return config\n"
    )
    with pytest.raises(UserError, match=r"split.seed: 0 in cnn, 1 in other; .* --config.split.see"):
        make("cnn", str(other))
    make("cnn", str(other), overrides=[("split.seed", "3")])  # the image size may differ
    with pytest.raises(UserError, match="a second model with the name cnn"):
        make("cnn", "configs/cnn.py")
    with pytest.raises(UserError, match="no config is given"):
        plan.make(tmp_path, (), (), folds=3, seeds=1, pool=False, sweep=())


def test_another_study_in_the_same_folder_is_refused(tmp_path):
    study = make(folder=tmp_path)
    plan.claim(study)
    record = json.loads((tmp_path / plan.FILE).read_text())
    assert record["models"]["cnn"]["runs"][:2] == ["runs/cnn/fold0-seed0", "runs/cnn/fold0-seed1"]
    # Paths may change, and how a config is named.
    free = [("data.cache_dir", "elsewhere"), ("runtime.timeout", "9")]
    plan.claim(make("configs/cnn.py", "hybrid_vit", folder=tmp_path, overrides=free))
    for change, message in [
        ({"overrides": [("train.epochs", "3")]}, "models.cnn.fields.train.epochs: 20.0 -> 3.0"),
        ({"seeds": 3}, r"seeds: \[0, 1\] -> \[0, 1, 2\]"),
        ({"sweep": ["optimizer.learning_rate=1,2"]}, "sweep"),
        ({"pool": True}, "pool: False -> True"),
    ]:
        with pytest.raises(UserError, match=message):
            plan.claim(make(folder=tmp_path, **change))
    assert json.loads((tmp_path / plan.FILE).read_text()) == record


def test_sources_are_the_folds(tmp_path):
    for name in "abcd":
        Image.fromarray(np.full((16, 16, 3), 40, np.uint8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "cells.csv"
    table.write_text("path,label,site\na.png,x,u\nb.png,y,v\nc.png,x,u\nd.png,y,v\n")
    overrides = [("data.table", str(table)), ("split.protocol", "leave_one_source_out")]
    study = make("cnn:table", overrides=overrides, folds=5)
    assert [run.fold for run in study.runs("cnn")] == [0, 0, 1, 1]  # two seeds each
    assert study.pool
    assert study.config(study.runs()[-1], {}).split.protocol == "leave_one_source_out"
    table.write_text("path,label\na.png,x\nb.png,y\n")
    with pytest.raises(UserError, match="the data name 0 sources, and it needs two"):
        make("cnn:table", overrides=overrides)
