#!/usr/bin/env bash
# Rankmill on a GPU, measured in six minutes: are its scores those of the CPU, and how many pairs a second, against a bare ONNX
# Runtime loop on the same provider and sentence-transformers on the same texts. Every step has its own time; one that fails
# or hangs is named and does not end the others. A table and rows.jsonl go to $OUT (default .cache/gpu/out).
#
#   bench/gpu.sh                              on a machine with a GPU, in a built checkout or in what bench/gpu-pack.sh packed
#   DEVICES=cpu TRY=1 bench/gpu.sh            everything once, small, to see that it runs
#
# DEVICES (default "cuda webgpu"), PYTHON (default python3: needs torch, transformers, sentence-transformers, onnx), SECONDS_LEFT
# (default 350: later steps are left out), PATIENCE (default 1: each step's time is so many times longer, for a busy CPU).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-.cache/gpu/out} PYTHON=${PYTHON:-python3} DEVICES=${DEVICES:-cuda webgpu} TRY=${TRY:-} ENDS=$((SECONDS + ${SECONDS_LEFT:-350}))
mkdir -p "$OUT" .cache/gpu
OUT=$(cd "$OUT" && pwd)
work=.cache/gpu rows=$OUT/rows.jsonl
: >"$rows"
if [[ -n $TRY ]]; then
  berts=(tiny) causal=(tiny-causal) own=(rankmill-nano) dtypes=(fp32) texts=64 ms=100 budgets=512 lengths=64 requests=3 fleets=(1 2) peer=0.5
else
  berts=(minilm base) causal=(causal) own=(rankmill-small rankmill-nano) dtypes=(fp16 fp32) texts=1024 ms=300 budgets=16384,65536
  lengths=64,200,500 requests=300 fleets=(1 2 4) peer=1.5
fi
export RANKMILL_GPU_TOKENS=${RANKMILL_GPU_TOKENS:-}

# seconds, name, command …: its JSON lines become rows
step() {
  local limit=$(($1 * ${PATIENCE:-1})) name=$2 began=$SECONDS rc
  shift 2
  if ((SECONDS + 5 > ENDS)); then
    echo "left out, no time: $name" | tee -a "$OUT/steps.txt"
    return 1
  fi
  ((SECONDS + limit > ENDS)) && limit=$((ENDS - SECONDS))
  timeout -k 3 "$limit" "$@" 2>"$OUT/last.err" | tee -a "$rows" >"$OUT/last.out"
  rc=${PIPESTATUS[0]}
  printf '%4d s  rc %d  %s\n' $((SECONDS - began)) "$rc" "$name" | tee -a "$OUT/steps.txt"
  if ((rc != 0)); then
    { echo "== $name"; tail -c 1500 "$OUT/last.err"; } | tee -a "$OUT/errors.txt"
  fi
  return "$rc"
}
bench() { node dist/bench/gpu.js "$@"; }
export -f bench

{
  date -u
  uname -m
  node --version
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi'
} >"$OUT/machine.txt" 2>&1
cat "$OUT/machine.txt"
# CUDA's libraries, where Python's packages carry them.
for folder in $("$PYTHON" -c 'import glob, sysconfig; print(*glob.glob(sysconfig.get_path("purelib") + "/nvidia/**/lib", recursive=True))' 2>/dev/null); do
  LD_LIBRARY_PATH=$folder:${LD_LIBRARY_PATH:-}
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used --format=csv,noheader,nounits -lms 500 >"$OUT/load.csv" 2>/dev/null &
  sampler=$!
  trap 'kill $sampler 2>/dev/null' EXIT
fi

# Models of random weights are made beside the first steps: they need no GPU.
"$PYTHON" bench/gpu-models.py "$work/models" "${berts[@]}" "${causal[@]}" >"$OUT/models.txt" 2>&1 &
making=$!
# Texts and CPU scores are kept from where this was packed; made here where they are not.
[[ -s $work/texts.json ]] || step 30 texts node dist/bench/gpu.js texts "$work/texts.json" "$texts"
[[ -s $work/reference.json ]] || step 60 reference node dist/bench/gpu.js reference "$work/reference.json" "${own[@]}"
usable=()
for device in $DEVICES; do
  if step 60 "correct $device" node dist/bench/gpu.js correct "$device" "$work/reference.json"; then usable+=("$device"); fi
done
((${#usable[@]})) || echo 'no device can be used' | tee -a "$OUT/steps.txt"
first=${usable[0]:-}
is_made() { for ((i = 0; i < 60; i++)); do [[ -e $work/models/$1/done ]] && return; kill -0 $making 2>/dev/null || return; sleep 1; done; }

if [[ -n $first ]]; then
  halves=${dtypes[0]}
  [[ $first == cpu ]] && halves=auto
  for count in "${fleets[@]}"; do
    step 40 "workers $count $first" node dist/bench/gpu.js workers "$first" "$halves" "${own[0]}" "$work/texts.json" "$count" "$requests"
  done
  for model in "${own[@]}"; do
    for dtype in "${dtypes[@]}"; do step 35 "speed $first $model $dtype" node dist/bench/gpu.js speed "$first" "$dtype" "$model" "$work/texts.json" $ms $budgets $lengths; done
  done
  for model in "${berts[@]}"; do
    is_made "$model"
    for dtype in "${dtypes[@]}"; do
      step 40 "speed $first $model $dtype" node dist/bench/gpu.js speed "$first" "$dtype" "$work/models/$model" "$work/texts.json" $ms $budgets $lengths
      step 40 "sentence-transformers $model $dtype" "$PYTHON" bench/gpu-peer.py "$work/texts.json" "$work/models/$model" "${first/webgpu/cuda}" "$dtype" $peer $lengths
    done
  done
  is_made "${causal[0]}"
  step 40 "speed $first ${causal[0]} ${dtypes[0]}" node dist/bench/gpu.js speed "$first" "${dtypes[0]}" "$work/models/${causal[0]}" "$work/texts.json" $ms $budgets $lengths
  for device in "${usable[@]:1}"; do
    for model in "${own[@]}" "${berts[@]/#/$work/models/}"; do
      step 35 "speed $device $model ${dtypes[0]}" node dist/bench/gpu.js speed "$device" "${dtypes[0]}" "$model" "$work/texts.json" $ms $budgets $lengths
    done
  done
fi
wait $making
node bench/gpu-table.mjs "$OUT" | tee "$OUT/table.txt"
