"""Every launcher starts `python -m leukjax.main` with the three variables; local.sh for real."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from runs import TINY, metrics

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"
VARIABLES = {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"}

# Stands for the interpreter: says how it was started.
ECHO = """#!/bin/bash
if [[ $1 == -c ]]; then exec {python} "$@"; fi
echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID $JAX_LOCAL_DEVICE_IDS $*"
"""


def _program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def _local(tmp_path: Path, python: str, *arguments: str, **options) -> subprocess.Popen:
    program = _program(tmp_path, "python", python)
    return subprocess.Popen(
        ["bash", LAUNCH / "local.sh", *arguments],
        env=os.environ | {"PYTHON": str(program)},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# Two processes also train in test_processes.py, and the next tests run the script.
@pytest.mark.slow
def test_local_trains_on_the_drawn_cells(tmp_path):
    fields = [f"--config.{name}={value}" for name, value in TINY.items()]
    done = subprocess.run(
        [LAUNCH / "local.sh", "2", "--config=cnn", f"--workdir={tmp_path / 'run'}", *fields],
        env=os.environ | {"PYTHON": sys.executable, "LEUKJAX_CACHE": str(tmp_path / "cache")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "2 x CPU" in done.stderr
    assert "2 processes" in done.stderr
    assert done.stderr.count("resuming") == 0
    assert "CNN" in done.stdout
    assert metrics(tmp_path / "run")[-1]["part"] == "val"


def test_local_gives_each_process_its_place(tmp_path):
    out, err = _local(
        tmp_path, ECHO.format(python=sys.executable), "3", "--config=cnn", "--workdir=a b"
    ).communicate()
    lines = sorted(out.splitlines())
    assert err == ""
    address = lines[0].split()[0]
    assert re.fullmatch(r"127\.0\.0\.1:[0-9]+", address)
    assert lines == [f"{address} 3 {i} {i} -m leukjax.main --config=cnn --workdir=a b"
                     for i in range(3)]  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((0, 0), 0), ((0, 75), 75), ((75, 75), 75), ((75, 1), 1), ((1, 75), 1), ((0, 137), 137)],
)
def test_local_returns_the_worst_status(tmp_path, statuses, expected):
    python = ECHO.format(python=sys.executable) + f"s=({' '.join(map(str, statuses))})\n"
    python += "sleep 0.$JAX_PROCESS_ID; exit ${s[$JAX_PROCESS_ID]}\n"
    process = _local(tmp_path, python, "2", "--config=cnn")
    process.communicate(timeout=30)
    assert process.returncode == expected


def test_local_passes_sigterm_on_and_waits(tmp_path):
    python = ECHO.format(python=sys.executable)
    python += "trap 'echo saved; exit 75' TERM; echo up; while true; do sleep 0.1; done\n"
    process = _local(tmp_path, python, "2", "--config=cnn")
    said = []
    while said.count("up\n") < 2:
        said.append(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out.split() == ["saved", "saved"]
    assert process.returncode == 75


def test_local_does_not_wait_for_ever_for_the_others(tmp_path):
    script = (LAUNCH / "local.sh").read_text()
    _program(tmp_path, "local.sh", script.replace("grace=90", "grace=1"))
    python = ECHO.format(python=sys.executable)
    python += "if [[ $JAX_PROCESS_ID == 1 ]]; then exit 1; fi; exec sleep 60\n"
    program = _program(tmp_path, "python", python)
    began = time.monotonic()
    done = subprocess.run(
        ["bash", tmp_path / "local.sh", "2", "--config=cnn"],
        env=os.environ | {"PYTHON": str(program)},
        capture_output=True,
    )
    assert done.returncode == 1
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("arguments", [[], ["--config=cnn"], ["0"], ["two"]])
def test_local_says_how_it_is_used(arguments):
    done = subprocess.run(["bash", LAUNCH / "local.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: launch/local.sh PROCESSES --config")


@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch", "slurm_crossval.sbatch", "tpu_vm.sh"])
def test_shellcheck_has_nothing_to_say(name):
    tool = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([tool, LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.access(LAUNCH / name, os.X_OK) or name.endswith(".sbatch")


# Slurm's srun as far as the scripts use it: two tasks on two nodes, of which it returns the highest
# status. It writes down its flags, and passes on everything behind them.
SRUN = """#!/bin/bash
echo "cpus ${SRUN_CPUS_PER_TASK:-}"
while [[ $1 == --* ]]; do echo "srun $1"; shift; done
highest=0
for id in 0 1; do
  SLURM_PROCID=$id SLURM_LOCALID=0 "$@"; s=$?; ((s > highest)) && highest=$s
  [[ -n ${SLURM_NTASKS:-} ]] || break
done
exit $highest
"""


def _slurm(tmp_path, script: str, statuses: str, *arguments: str, **variables: str):
    """Runs a script with stand-ins for Slurm's commands and for Python."""
    _program(tmp_path, "srun", SRUN)
    _program(
        tmp_path, "scontrol", '#!/bin/bash\n[[ $1 == show ]] && printf "n1\\nn2\\n" || echo "$@"'
    )
    echo = ECHO.format(python=sys.executable)
    echo += f"s=({statuses}); exit ${{s[${{JAX_PROCESS_ID:-0}}]}}\n"
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(_program(tmp_path, "echo-python", echo)),
        "SLURM_CPUS_PER_TASK": "6",
    }
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
    )


JOB = {
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "1",
    "SLURM_JOB_ID": "41",
    "SLURM_NTASKS": "2",
}
# Tasks 10 to 12: the third of three.
ARRAY = {
    "SLURM_ARRAY_JOB_ID": "41",
    "SLURM_ARRAY_TASK_ID": "12",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "12",
    "SLURM_ARRAY_TASK_COUNT": "3",
}


def test_slurm(tmp_path):
    directives = _directives("slurm.sbatch")
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "requeue"} <= directives.keys()
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]
    assert re.fullmatch(r"TERM@[0-9]+", directives["signal"])
    done = _slurm(tmp_path, "slurm.sbatch", "75 75", "--config=cnn", "--workdir=a b", **JOB)
    assert done.stdout.splitlines() == [
        "cpus ",
        "srun --cpus-per-task=6",
        "srun --kill-on-bad-exit=0",
        "n1:20041 2 0 0 -m leukjax.main --config=cnn --workdir=a b",
        "n1:20041 2 1 0 -m leukjax.main --config=cnn --workdir=a b",
        "requeue 41",
    ]
    assert done.returncode == 75


def test_slurm_crossval(tmp_path):
    directives = _directives("slurm_crossval.sbatch")
    assert {"array", "gpus-per-node", "time", "requeue"} <= directives.keys()
    assert directives["ntasks-per-node"] == "1"
    assert re.fullmatch(r"TERM@[0-9]+", directives["signal"])
    done = _slurm(
        tmp_path, "slurm_crossval.sbatch", "0", "configs/cnn.py", "--workdir=a b", **ARRAY
    )
    assert done.stdout.splitlines() == [
        "cpus ",
        "srun --ntasks=1",
        "srun --cpus-per-task=6",
        "    -m leukjax.crossval --shard=3/3 configs/cnn.py --workdir=a b",
    ]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("statuses", "restarts", "status", "requeued"),
    [
        ("0 0", "", 0, False),
        ("1 1", "", 1, False),
        ("75 75", "49", 75, True),
        ("75 75", "50", 75, False),
        ("137 75", "", 137, False),
        ("139 75", "", 139, False),
    ],
)
@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm_crossval.sbatch"])
def test_slurm_queues_only_what_was_stopped_and_not_for_ever(
    tmp_path, script, statuses, restarts, status, requeued
):
    variables = JOB if script == "slurm.sbatch" else ARRAY
    done = _slurm(tmp_path, script, statuses, SLURM_RESTART_COUNT=restarts, **variables)
    assert done.returncode == status
    assert ("requeue 41" in done.stdout) == requeued
    assert ("MAX_REQUEUES=50 is reached" in done.stderr) == (status == 75 and not requeued)


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm_crossval.sbatch"])
def test_slurm_with_a_container(tmp_path, script):
    variables = JOB if script == "slurm.sbatch" else ARRAY
    _program(tmp_path, "apptainer", '#!/bin/bash\necho "$*" >&2; shift 3; exec "$@"\n')
    container = "apptainer exec --nv leukjax.sif"
    done = _slurm(tmp_path, script, "0 0", "--workdir=a b", CONTAINER=container, **variables)
    assert done.returncode == 0
    assert done.stderr.startswith("exec --nv leukjax.sif ")
    assert "--workdir=a b" in done.stderr


@pytest.mark.parametrize(
    ("script", "changes", "message"),
    [
        ("slurm.sbatch", {"MAX_REQUEUES": "x"}, "MAX_REQUEUES=x: must be a number"),
        ("slurm.sbatch", {"SLURM_JOB_ID": ""}, "submit this file with sbatch"),
        ("slurm_crossval.sbatch", {"MAX_REQUEUES": ""}, ""),
        ("slurm_crossval.sbatch", {"SLURM_ARRAY_TASK_MAX": "20"}, "must be consecutive numbers"),
        ("slurm_crossval.sbatch", {"SLURM_ARRAY_TASK_ID": ""}, "submit this file with sbatch"),
    ],
)
def test_slurm_names_what_is_wrong(tmp_path, script, changes, message):
    variables = (JOB if script == "slurm.sbatch" else ARRAY) | changes
    done = _slurm(tmp_path, script, "0 0", **variables)
    assert (done.returncode != 0) == bool(message)
    assert message in done.stderr


def test_slurm_wants_a_task_for_each_gpu(tmp_path):
    done = _slurm(tmp_path, "slurm.sbatch", "0 0", **JOB | {"SLURM_GPUS_ON_NODE": "8"})
    assert done.returncode == 1
    assert "give sbatch --ntasks-per-node=8 --gpus-per-node=8" in done.stderr
    assert "srun" not in done.stdout


def _directives(name: str) -> dict[str, str]:
    return dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in (LAUNCH / name).read_text().splitlines()
        if line.startswith("#SBATCH ")
    )


def test_tpu_vm(tmp_path):
    """The command that gcloud would run on every host is run, with a metadata server of paper."""
    home = tmp_path / "home"
    (home / "leukjax" / ".venv" / "bin").mkdir(parents=True)
    _program(home / "leukjax" / ".venv" / "bin", "python", ECHO.format(python=sys.executable))
    _program(
        tmp_path,
        "curl",
        "#!/bin/bash\ncase ${@: -1} in\n"
        '*/worker-network-endpoints) echo "unknown:unknown:10.0.0.7,unknown:unknown:10.0.0.8";;\n'
        "*/agent-worker-number) echo 1;;\nesac\n",
    )
    # As ssh does: the command is one text for the login shell of the host.
    _program(
        tmp_path,
        "gcloud",
        '#!/bin/bash\nfor a in "$@"; do\n'
        '[[ $a == --command=* ]] && exec bash -c "${a#--command=}"; done\n',
    )
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", "slice", "zone", "--config=cnn", "--workdir=a b"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split("\n")[0] == (
        "10.0.0.7:8476 2 1  -m leukjax.main --config=cnn --workdir=a b"
    ), done.stderr

    # Without its peers a host must not train alone.
    _program(tmp_path, "curl", "#!/bin/bash\nexit 22\n")
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", "slice", "zone", "--config=cnn"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "leukjax.main" not in done.stdout
    assert "metadata" in done.stderr


def test_kubernetes():
    [job_set] = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert job_set["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert job_set["kind"] == "JobSet"
    [job] = job_set["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    [container] = pod["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    assert variables.keys() == VARIABLES
    assert variables["JAX_NUM_PROCESSES"]["value"] == str(spec["completions"])
    first = f"{job_set['metadata']['name']}-{job['name']}-0-0.{job_set['metadata']['name']}:8476"
    assert variables["JAX_COORDINATOR_ADDRESS"]["value"] == first
    assert "job-completion-index" in str(variables["JAX_PROCESS_ID"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    # 75 and a lost pod start the job again, every other status ends it. The first rule that matches
    # counts.
    lost, failed = spec["podFailurePolicy"]["rules"]
    assert lost["action"] == "Count"
    assert lost["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert failed["action"] == "FailJob"
    assert failed["onExitCodes"] == {
        "containerName": container["name"], "operator": "NotIn", "values": [75]
    }  # fmt: skip
    assert spec["backoffLimit"] == 0
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] <= 100
    assert "command" not in container  # the image's entry point is the main


def test_dockerfile():
    parsed = DockerfileParser(fileobj=(LAUNCH / "Dockerfile").open("rb"))
    lines = {entry["instruction"]: entry["value"] for entry in parsed.structure}
    assert parsed.baseimage.startswith("python:3.")
    assert shlex.split(lines["ENTRYPOINT"].strip("[]").replace(",", " ")) == [
        "python", "-m", "leukjax.main"
    ]  # fmt: skip
    for entry in parsed.structure:
        if entry["instruction"] == "COPY":
            for source in entry["value"].split()[:-1]:
                assert (REPOSITORY / source).exists(), source
    assert "constraints/py312plus.txt" in lines["RUN"]
