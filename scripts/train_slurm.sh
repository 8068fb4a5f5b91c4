#!/usr/bin/env bash
# Trains under Slurm, on all GPUs of all nodes of the job; from the project's folder:
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/train_slurm.sh CONFIG [KEY=VALUE ...] --run-dir DIR
#
# DIR and the data lie on storage that all nodes share. Two minutes before its time is up the job
# saves, and goes back to the queue to continue; so it does after a failed node or a preemption.
#SBATCH --job-name=stylenat
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=stylenat-%j.log
set -euo pipefail

[ -n "${SLURM_JOB_NODELIST:-}" ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$SLURM_SUBMIT_DIR"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node do not meet

is_over=
trap 'is_over=1; kill -USR1 "$srun"' USR1
srun scripts/train_multinode.sh "$head:$port" "$SLURM_JOB_NUM_NODES" "$@" &
srun=$!
code=0
until wait "$srun" && code=0; do
    code=$?
    kill -0 "$srun" 2>/dev/null || break # else it was the signal that ended the waiting
done
[ -z "$is_over" ] || [ "$code" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
