#!/usr/bin/env bash
# Makes the environment of the peers that the benchmarks compare with: PyTorch, timm, onnxruntime.
#
#   benchmarks/peers.sh            in .venv-peers (some gigabytes; leukjax itself never needs it)
#   LEUKJAX_PEERS=DIR benchmarks/peers.sh   in DIR; give the benchmarks the same variable
#
# PYTHON chooses the interpreter, PEERS_INDEX another index of wheels, as PyTorch's own for CPU
# alone: PEERS_INDEX=https://download.pytorch.org/whl/cpu
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${LEUKJAX_PEERS:-.venv-peers}
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet ${PEERS_INDEX:+--extra-index-url "$PEERS_INDEX"} \
  torch torchvision timm onnx onnxscript onnxruntime numpy opencv-python-headless
"$folder/bin/python" -c 'import torch, timm, onnxruntime
print("peers: torch", torch.__version__, "timm", timm.__version__, "onnxruntime", onnxruntime.__version__)'
