#!/usr/bin/env bash
# Trains under Slurm, on all GPUs of all nodes of the job; from the project's folder:
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/train_slurm.sh CONFIG [KEY=VALUE ...] --run-dir DIR
#
# DIR and the data lie on storage that all nodes share. A job that Slurm ends is continued by the
# same command; --requeue lets Slurm do that.
#SBATCH --job-name=stylenat
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --output=stylenat-%j.log
set -euo pipefail

[ -n "${SLURM_JOB_NODELIST:-}" ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$SLURM_SUBMIT_DIR"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node do not meet

exec srun scripts/train_multinode.sh "$head:$port" "$SLURM_JOB_NUM_NODES" "$@"
