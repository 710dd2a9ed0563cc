#!/usr/bin/env bash
# Trains the ten models of Table 1 of Soltan et al. 2023, each by its own command; a stage that several
# recipes have is trained once. At the end one report over all of them. Given again, it goes on.
#
#   launch/table1.sh OUT FLAG ...                 the paper's updates; the flags go to every run
#   UPDATES=100 launch/table1.sh OUT FLAG ...     100 updates for every 100,000 of the paper
#
# Small, on two cores: UPDATES=100 launch/table1.sh runs/table1 --gin_file=gin/demo.gin
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -eq 0 ]; then sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
out=$1
shift
flags=("$@")
runs=()
python=${PYTHON:-.venv/bin/python}
unit=${UPDATES:-100000}

# train NAME MACRO=UNITS ...: one run, its steps in units of 100,000 of the paper's updates.
train() {
  local name=$1 own=() pair
  shift
  for pair in "$@"; do
    own+=("--gin.${pair%=*}=$(awk "BEGIN { print int(${pair#*=} * $unit + 0.5) }")")
  done
  echo "== $name"
  runs+=("$out/$name")
  "$python" -m seqrecipes.train --gin_file="gin/$name.gin" "${flags[@]}" \
    --gin.MODEL_DIR="'$out/$name'" "${own[@]}"
}

train roberta_12e MLM_STEPS=5
# The others read its text with its vocabulary.
flags+=(
  --gin.VOCABULARY="'$out/roberta_12e/vocabulary/spm.model'"
  --gin.PREPARED="'$out/roberta_12e/data'"
)
for name in bart_12e12d bart_12e12d_mask bart_12e2d bart_12e2d_mask bart_12e1d_mask; do
  train "$name" STEPS=5
done
flags+=(--gin.SHARED="['$out/bart_12e12d']")
train bart_12e12d_mlm STEPS=5 EXTRACTED_STEPS=1
flags[-1]=--gin.SHARED="['$out/roberta_12e']"
train 2stage MLM_STEPS=5 FROZEN_STEPS=5
train 2stage_attn_f MLM_STEPS=5 FROZEN_STEPS=5
train 2stage_unfrz MLM_STEPS=5 FROZEN_STEPS=2 UNFROZEN_STEPS=1.5

"$python" -m seqrecipes.report "${runs[@]}" --output "$out"
