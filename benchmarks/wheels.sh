#!/usr/bin/env bash
# Collects the wheels that leukjax needs beyond a CUDA image with JAX and PyTorch.
#
#   benchmarks/wheels.sh FOLDER     for the Python version of $PYTHON (default: python3.12)
#
# The list follows from the packages' own requirements: those of leukjax without those of $IMAGE,
# the packages of the image. benchmarks/accelerator.sh --wheels=FOLDER installs them offline.
set -euo pipefail
if [ $# != 1 ] || [[ $1 = -* ]]; then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
  [[ ${1:-} = -h || ${1:-} = --help ]] && exit 0
  exit 1
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3.12}" -m venv "$scratch/venv"
python=$scratch/venv/bin/python
"$python" -m pip install --quiet --upgrade pip
# torch and timm by their small requirements: their own wheels are large.
read -ra image <<<"${IMAGE:-jax flax optax orbax-checkpoint onnxruntime jinja2 safetensors pyyaml pillow huggingface_hub}"

# resolve PACKAGE…: NAME==VERSION of everything that pip would install, one per line.
resolve() {
  "$python" -m pip install --quiet --dry-run --ignore-installed --report "$scratch/report.json" "$@"
  "$python" -c 'import json, re, sys
for row in json.load(open(sys.argv[1]))["install"]:
    about = row["metadata"]
    print(re.sub("[-_.]+", "-", about["name"]).lower() + "==" + about["version"])' "$scratch/report.json" | sort
}
"$python" -c 'import tomllib
for line in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    print(line)' >"$scratch/requirements.txt"
resolve "${image[@]}" | sed 's/==.*//' >"$scratch/image.txt"
resolve "${image[@]}" --requirement "$scratch/requirements.txt" >"$scratch/all.txt"
while read -r package; do
  grep -qx "${package%%==*}" "$scratch/image.txt" || echo "$package"
done <"$scratch/all.txt" >"$scratch/missing.txt"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" --requirement "$scratch/missing.txt"
cp "$scratch/missing.txt" "$folder/wheels.txt"
echo "$folder: $(wc -l <"$folder/wheels.txt") wheels, $(du -sh "$folder" | cut -f1)"
