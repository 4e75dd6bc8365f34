#!/usr/bin/env bash
# Train on several processes (GPUs, or CPU processes where there is no GPU):
#   tools/dist_train.sh CONFIG PROCESSES [ARGUMENTS OF tools/train.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT describe a run over several machines; PYTHON names the interpreter.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [ARGUMENTS OF tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
