#!/bin/bash
# Trains on several nodes under SLURM; arguments are those of `mlipfm train`:
#   sbatch slurm.sh recipe.yaml strategy.name=fsdp2 strategy.device=cuda --time-limit 11h30min --out runs/first
# torchrun starts a process that dies again with all others, at most three times, from the last training state. At the time limit the state is saved;
# the same sbatch goes on, also with another number of nodes.
# Nodes without GPUs: PROCESSES=8 sbatch --gpus-per-node=0 slurm.sh ... starts eight processes on each (one without PROCESSES).
#SBATCH --job-name=mlipfm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
set -euo pipefail

processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK > processes ? SLURM_CPUS_PER_TASK / processes : 1))
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # reads to the end: head would break the pipe of many nodes
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # else processes that start again read the addresses of those that died
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$processes" --max-restarts 3 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:$((20000 + SLURM_JOB_ID % 20000))" \
  --no-python mlipfm train "$@"
