#!/bin/bash
# A run on Slurm: a Ray cluster on the nodes of the job, and `curation run` on the first of them.
#   sbatch deploy/slurm.sh                      # the example below
#   sbatch deploy/slurm.sh --config my.yaml     # arguments of `curation run`
# The exit code is that of the run. The same command goes on where a job that ran out of time stopped.
#SBATCH --job-name=curation
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# A node that is lost takes its own work along, not the job.
#SBATCH --no-kill
# Two minutes before its time is over, this script gets SIGTERM; the run then ends within seconds.
#SBATCH --signal=B:TERM@120
set -euo pipefail

[ $# -gt 0 ] || set -- --config configs/emu3.yaml --input s3://my-bucket/raw --output s3://my-bucket/curated

# shellcheck disable=SC1091
source "${CURATION_VENV:-.venv}/bin/activate"

free_port() {
    python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# Whoever reaches the ports may run programs as you: a token of this job's own keeps others out.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*} # where this script runs
head_ip=${HEAD_IP:-$(hostname --all-ip-addresses | cut -d ' ' -f 1)}
address=$head_ip:$(free_port)
# Ports are whatever is free: other jobs may have a Ray on the same nodes.
common=(--block --num-cpus="$SLURM_CPUS_PER_TASK" --min-worker-port=0 --max-worker-port=0)

steps=()
trap 'kill "${steps[@]}" 2>/dev/null || true; wait' EXIT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$head_ip" --port="${address##*:}" --include-dashboard=false \
    --ray-client-server-port="$(free_port)" --temp-dir="${RAY_TMPDIR:-/tmp/ray-$SLURM_JOB_ID}" "${common[@]}" &
steps+=($!)

for _ in {1..60}; do
    if ray health-check --address "$address" >/dev/null 2>&1; then break; fi
    sleep 1
done

# Workers need not be waited for: the run takes up nodes as they come.
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --overlap --no-kill --kill-on-bad-exit=0 --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --address="$address" "${common[@]}" &
    steps+=($!)
fi

curation run --address "$address" "$@" &
run=$!
trap 'kill -TERM "$run" 2>/dev/null || true' TERM INT
status=0
wait "$run" || status=$?
while kill -0 "$run" 2>/dev/null; do # a signal ended the wait, not the run
    status=0
    wait "$run" || status=$?
done
exit "$status"
