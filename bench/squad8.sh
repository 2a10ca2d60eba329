#!/usr/bin/env bash
# How well it finds and answers: eight articles of SQuAD's dev set as text files, with their human questions.
#
#   FIELDSTONE_DATA=… bash bench/squad8.sh [LIMIT]
#
# The searches answer all 1,788 questions; the systems that read take seconds a question, so they are asked LIMIT
# of them (default 200), drawn by a fixed seed. They get unanswerable questions too: those of squad8_unanswerable.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${FIELDSTONE_DATA:?set it to the folder with the data}
limit=${1:-200}
python=${PYTHON:-.venv/bin/python}
fieldstone="$(dirname "$python")/fieldstone"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" bench/machine.py "OMP_NUM_THREADS=$OMP_NUM_THREADS bash bench/squad8.sh $limit"

run() {
    echo "\$ fieldstone $*"
    time "$fieldstone" --quiet "$@"
    echo
}

run build "$data/documents/squad8_txt" --into "$work/squad8"
run evaluate "$work/squad8" --questions "$data/squad/squad8_questions.jsonl" --systems lexical,dense,fused
run evaluate "$work/squad8" --questions "$data/squad/squad8_questions.jsonl" --limit "$limit" \
    --systems lexical,dense,fused,fused+likelihood

cat "$data/squad/squad8_questions.jsonl" "$data/squad/squad8_unanswerable.jsonl" > "$work/both.jsonl"
run evaluate "$work/squad8" --questions "$work/both.jsonl" --limit "$limit" \
    --systems fused+likelihood/one-by-one,fused+likelihood/together
