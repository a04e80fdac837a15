#!/usr/bin/env bash
# Train with N processes on this machine, one per GPU. On CPU the processes share all cores.
#
#   launch/local.sh 2 --config=configs/cnn.py --workdir=runs/cnn
#
# The flags are those of `python -m leukjax.main`. SIGTERM and Ctrl-C are passed on: all processes
# save and stop at the same step. Exit status: 0 if all ended with 0; else that of the first that
# failed with another status than 75; else 75 (start again and the run resumes).
# They meet at 127.0.0.1 and listen there only. PYTHON names the interpreter. Needs bash 5.1.

set -u

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then # older ones have no wait -p
  echo "error: launch/local.sh needs bash 5.1; this is $BASH_VERSION" >&2
  exit 2
fi
if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh PROCESSES --config=CONFIG [--workdir=DIR] [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python}
grace=90 # seconds that the others get to end by themselves when one has failed

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 1

running=()
# A signal between two starts reaches those that run; the later ones then miss their peers.
trap '((${#running[@]})) && kill -TERM "${running[@]}" 2>/dev/null' TERM INT HUP
for ((index = 0; index < count; index++)); do
  JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$index \
    JAX_LOCAL_DEVICE_IDS=$index "$python" -m leukjax.main "$@" &
  running+=("$!")
done

worst=0
while ((${#running[@]})); do
  ended=""
  wait -n -p ended "${running[@]}"
  status=$?
  [[ -n ${ended:-} ]] || continue # a signal came and was passed on
  left=()
  for pid in "${running[@]}"; do
    [[ $pid == "$ended" ]] || left+=("$pid")
  done
  running=("${left[@]}")
  if ((status != 0 && (worst == 0 || worst == 75))); then
    worst=$status
  fi
  if ((status != 0 && ${#running[@]})) && [[ -z ${reaper:-} ]]; then
    (sleep "$grace" && kill -KILL "${running[@]}") >/dev/null 2>&1 &
    reaper=$!
  fi
done
[[ -z ${reaper:-} ]] || pkill -P "$reaper" 2>/dev/null
exit "$worst"
