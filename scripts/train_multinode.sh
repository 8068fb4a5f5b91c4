#!/usr/bin/env bash
# Trains on several machines; run it on each of them, with the same arguments:
#
#   scripts/train_multinode.sh HEAD[:PORT] NODES CONFIG [KEY=VALUE ...] --run-dir DIR
#
# HEAD is one of them, reached from all at PORT (29500); DIR and the data lie on storage that all
# share. Every machine uses its GPUs (without any, its CPU, as one rank). The same command continues.
# When a process is lost, all are started again, $STYLENAT_RESTARTS times (3), from the newest
# checkpoint. SIGINT, SIGTERM, SIGUSR1 and a closed terminal save and stop.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
head=$1 nodes=$2
shift 2
[[ $head == *:* ]] || head=$head:29500
bin=${STYLENAT_ENV:-.venv}/bin
gpus=$("$bin/python" -c 'import torch; print(max(1, torch.cuda.device_count()))')

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # with a shared store the restarted processes never meet
exec "$bin/python" -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$gpus" \
    --max-restarts "${STYLENAT_RESTARTS:-3}" --signals-to-handle SIGINT,SIGTERM,SIGHUP,SIGUSR1 \
    --rdzv-backend c10d --rdzv-endpoint "$head" --rdzv-id stylenat -m stylenat train "$@"
