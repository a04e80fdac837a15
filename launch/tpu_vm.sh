#!/usr/bin/env bash
# Train on a Cloud TPU slice, one process per host. Run it from your own machine:
#
#   launch/tpu_vm.sh NAME ZONE --config=configs/resnet50.py:cnmc \
#     --config.data.root=/mnt/shared/C-NMC --workdir=/mnt/shared/runs/resnet50
#
# Needs gcloud, logged in; on every host leukjax with its `tpu` extra in ~/leukjax/.venv, and a
# file system that all hosts share (Filestore, or a bucket mounted by gcsfuse) for --workdir.
# Exit status 75: a host was lost or stopped; run the same line again and it resumes.

set -eu

if (($# < 3)); then
  echo "usage: launch/tpu_vm.sh NAME ZONE --config=CONFIG --workdir=DIR [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
name=$1
zone=$2
shift 2
flags=$(printf '%q ' "$@")

# Each host learns its number and its peers from the metadata server.
# shellcheck disable=SC2016  # expanded on the hosts
on_host='
attribute() {
  curl --silent --fail --header "Metadata-Flavor: Google" \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}
IFS=, read -ra peers <<< "$(attribute worker-network-endpoints)"
index=$(attribute agent-worker-number)
if [[ ${#peers[@]} -eq 0 || -z $index ]]; then
  echo "error: $(hostname): the metadata server does not name the hosts of this slice" >&2
  exit 1
fi
export JAX_COORDINATOR_ADDRESS="${peers[0]##*:}:8476"
export JAX_NUM_PROCESSES="${#peers[@]}"
export JAX_PROCESS_ID="$index"
cd ~/leukjax && exec .venv/bin/python -m leukjax.main'

exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="bash -c $(printf '%q' "$on_host $flags")"
