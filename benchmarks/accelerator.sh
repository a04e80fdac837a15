#!/usr/bin/env bash
# Measures one GPU or TPU in minutes: correctness, speed beside peers, input, start-up, a trace.
#
#   benchmarks/accelerator.sh --out=DIR                    at most eight minutes on one accelerator
#   benchmarks/accelerator.sh --out=DIR --wheels=FOLDER    installs FOLDER first (benchmarks/wheels.sh)
#   benchmarks/accelerator.sh --out=DIR --small            all stages on tiny inputs, also on a CPU
#
# --minutes=8 bounds the whole; --stage=a (repeatable) selects stages. Each stage is a process with a
# time limit that writes its rows to DIR/*.csv at once: a stage that is cut off loses only what was
# running. Missing peers are named as skipped. PYTHON chooses the interpreter. Ends with a status
# above 0 if a stage has no row, or if a check of stage (a) failed.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."

out='' wheels='' minutes=8 small='' stages=()
for word in "$@"; do
  case $word in
    --out=*) out=${word#*=} ;;
    --wheels=*) wheels=${word#*=} ;;
    --minutes=*) minutes=${word#*=} ;;
    --small) small=--small ;;
    --stage=*) stages+=("${word#*=}") ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "error: $word: unknown; --help lists the flags" >&2; exit 1 ;;
  esac
done
[ -n "$out" ] || { echo "error: --out=DIR is required" >&2; exit 1; }
[[ $minutes =~ ^[0-9]+$ ]] || { echo "error: --minutes=$minutes: must be a number" >&2; exit 1; }
[[ $out = /* ]] || out=$from/$out
mkdir -p "$out"
python=${PYTHON:-.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$wheels" ]; then
  [[ $wheels = /* ]] || wheels=$from/$wheels
  "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$out/site" "$wheels"/*.whl
  PYTHONPATH=$PYTHONPATH:$out/site
fi
# Two frameworks share the device: take memory as it is needed. Caches of their own: cold starts.
export XLA_PYTHON_CLIENT_PREALLOCATE=false LEUKJAX_RESULTS=$out TF_CPP_MIN_LOG_LEVEL=2
export LEUKJAX_CACHE=$out/cache JAX_COMPILATION_CACHE_DIR=$out/compiled

[ ${#stages[@]} -gt 0 ] || stages=(a b c d e f g)
declare -A share=([a]=20 [b]=40 [c]=15 [d]=10 [e]=10 [f]=10 [g]=5) # of the time
rest=0
for stage in "${stages[@]}"; do
  [ -n "${share[$stage]:-}" ] || { echo "error: --stage=$stage: must be one of a to g" >&2; exit 1; }
  rest=$((rest + share[$stage]))
done
ends=$((SECONDS + 60 * minutes))
for stage in "${stages[@]}"; do
  # Time that a stage leaves goes to the later ones.
  limit=$(((ends - SECONDS) * share[$stage] / rest))
  rest=$((rest - share[$stage]))
  echo "== stage $stage, at most $limit s"
  if ! timeout --kill-after=10 "$((limit > 1 ? limit : 1))" "$python" benchmarks/accelerator.py "$stage" --out="$out" \
    $small 2>&1 | tee "$out/$stage.log"; then
    echo "== stage $stage failed or was cut off; see $out/$stage.log"
  fi
done
exec "$python" benchmarks/accelerator.py check --out="$out" --stages="$(IFS=,; echo "${stages[*]}")"
