#!/usr/bin/env bash
# Measures everything on this machine and writes one CSV to send back.
#
#   benchmarks/run_all.sh                  hours on two cores, about one with an accelerator
#   benchmarks/run_all.sh --small          the same on tiny inputs: does it work here?
#   benchmarks/run_all.sh --dry-run        print the commands only
#   benchmarks/run_all.sh --only=NAME      one benchmark; may be repeated
#
# Rows, logs and the CSV go to benchmarks/run-DATE/ (--out=DIR: elsewhere). A benchmark that fails or
# cannot run has a row "not measured" with the reason. Nothing else is written, caches apart, and
# nothing is sent anywhere. PYTHON chooses the interpreter; else .venv or the one on the path. Peers:
# benchmarks/peers.sh before. Compilers of absent devices: pip install 'leukjax[preflight]'.
# Eight minutes on one GPU: benchmarks/accelerator.sh.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."

small='' dry='' out='' only=()
for word in "$@"; do
  case $word in
    --small) small=yes ;;
    --dry-run) dry=yes ;;
    --out=*) out=${word#*=} ;;
    --only=*) only+=("${word#*=}") ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "error: $word: unknown; --help lists the flags" >&2; exit 1 ;;
  esac
done
out=${out:-$PWD/benchmarks/run-$(date -u +%Y%m%d-%H%M)}
[[ $out = /* ]] || out=$from/$out
python=${PYTHON:-.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# Platform (gpu, tpu or cpu), number of devices, kind of device.
if ! found=$("$python" -c 'import jax
print(jax.default_backend(), jax.device_count(), jax.devices()[0].device_kind)' 2>/dev/null); then
  echo "error: $python cannot import JAX; make .venv with 'make train', or set PYTHON" >&2
  exit 1
fi
read -r platform count kind <<<"$found"
case $kind in # the compilers' name; an H100 if it is none of them
  *A100*) target=a100 ;;
  *v5p* | *"v5") target=v5p ;;
  *v5*lite* | *v5e*) target=v5e ;;
  *v6*) target=v6e ;;
  *) target=h100 ;;
esac

if [ "$platform" = cpu ]; then
  size=64 batch=32 config=cnn precisions=(--precision=float32)
  echo "JAX sees no GPU or TPU: this measures the CPU; accelerators are not measured"
else
  size=224 batch=128 config=resnet50 precisions=(--precision=bfloat16 --precision=float32)
  echo "$count x $kind"
fi
train=(--image_size="$size" --batch="$batch" "${precisions[@]}")
infer=(--image_size="$size" --precision="${precisions[0]#*=}")
input=(--image_size="$size")
whole=(--config="$config" --image_size="$size" --batch="$batch")
start=() growth=("--axes=records,batch,image_size") shared=("--axes=devices,processes")
ahead=(--devices="$target:1,$target:8") products=() parts=()
if [ -n "$small" ]; then
  train=(--models=cnn --image_size=48 --batch=4 --rounds=1 --seconds=0 --peers=flax)
  infer=(--models=cnn --image_size=48 --batch=1 --rounds=1 --seconds=0 --peers=flax)
  input=(--image_size=32 --images=64 --batch=8 --rounds=1 --seconds=0.5)
  whole=(--config=cnn --image_size=32 --batch=8 --epochs=1 --rounds=1 --steps_per_call=2)
  start=(--config=cnn --rounds=1)
  growth=("--axes=records,batch" "--records=512,1024" "--batch=4,8" --rounds=1 --seconds=0.5)
  shared=(--axes=devices "--devices=1,2" --rounds=1 --seconds=0.5)
  ahead=(--devices="$target:1" --config=cnn --batch=4 --field=data.image_size=48)
  products=(--shapes=4x16 "--ways=winograd,patches" --batch=4 --rounds=1 --seconds=0)
  parts=(--model=cnn --image_size=48 --batch=4 --seconds=0)
fi

export LEUKJAX_RESULTS=$out/rows
[ -n "$dry" ] || mkdir -p "$LEUKJAX_RESULTS"
missed=()

# run NAME COMMAND…: print, run, keep the log; a failure is recorded and does not stop the others.
run() {
  local name=$1
  shift
  if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
  echo "== $*"
  [ -z "$dry" ] || return 0
  if ! "$@" 2>&1 | tee -a "$out/$name.log"; then
    local why
    why=$(grep -v '^ *$' "$out/$name.log" | tail -n 1 | cut -c 1-200) || why='no message'
    missed+=(--missed "$name=$why")
  fi
}

run train_step "$python" benchmarks/train_step.py "${train[@]}"
run predict "$python" benchmarks/predict.py "${infer[@]}"
run input_pipeline "$python" benchmarks/input_pipeline.py "${input[@]}"
run end_to_end "$python" benchmarks/end_to_end.py "${whole[@]}"
run startup "$python" benchmarks/startup.py ${start[@]+"${start[@]}"}
run scaling "$python" benchmarks/scaling.py "${growth[@]}"
# Several devices of one process and several processes: on the CPU, which can simulate devices.
run scaling env JAX_PLATFORMS=cpu "$python" benchmarks/scaling.py "${shared[@]}"
run compiled "$python" benchmarks/compiled.py "${ahead[@]}"
if [ "$platform" = cpu ]; then # convolutions that only the CPU uses, and a trace of the CPU
  run convolutions "$python" benchmarks/convolutions.py ${products[@]+"${products[@]}"}
  run operations "$python" benchmarks/operations.py ${parts[@]+"${parts[@]}"}
fi

[ -z "$dry" ] || exit 0
"$python" benchmarks/merge_results.py "$LEUKJAX_RESULTS" "$out/results.csv" \
  ${only[@]+"${only[@]/#/--only=}"} ${missed[@]+"${missed[@]}"}
echo "send back: $out/results.csv"
