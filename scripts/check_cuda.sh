#!/bin/sh
# The GPU suite, for a machine that has an NVIDIA GPU: logits of checkpoints by every executor, patched and stock, in chunks, byte by byte
# those of the CPU; tiny models under compute-sanitizer, where that is installed. Checkpoints are tried side by side.
# In the end tokens for STRESS seconds (10), by the resident kernel, each checked (tests/stress_cuda.c): 3600 for an hour of them; and
# arrays for as long, operations and kernels of all forms beside the CPU (tests/stress_arrays.c).
# Ends with "N passed, N failed"; writes what it found as JSON.
#   scripts/check_cuda.sh FOLDER OUT.json [MODEL...]
set -u
folder=$1
out=$2
shift 2
zmlx=$folder/zmlx
[ $# -gt 0 ] || set -- checkpoints/*/
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
jobs=$((2 * $(nproc 2>/dev/null || echo 4)))

if ! "$zmlx" doctor --json >"$work/doctor" 2>&1; then
  cat "$work/doctor"
  echo "0 passed, 1 failed"
  exit 1
fi

# Ids that every vocabulary has; more than a range of attention and than the rows of one step.
i=0
while [ $i -lt 150 ]; do
  echo $(((i * i + 3 * i) % 61 + 1))
  i=$((i + 1))
done >"$work/long"
head -n 12 "$work/long" >"$work/short"
head -n 3 "$work/short" >"$work/few"

# Each job has a folder for its files; "found" gets a line for each case: "ok NAME" or "not ok NAME: WHY".
note() { # folder, name, 0 if it passed, what went wrong
  if [ "$3" -eq 0 ]; then line="ok $2"; else line="not ok $2: $4"; fi
  echo "$line" | tee -a "$1/found"
}

logits() { # folder, out, model, file of tokens, options
  at=$1
  shift
  "$zmlx" logits --last 8 --out "$@" >"$at/said" 2>&1
}

compare() { # folder, name, model, options: the GPU with the CPU's file
  at=$1
  name=$2
  shift 2
  if ! logits "$at" "$at/gpu" "$@" --device cuda; then
    note "$at" "$name" 1 "$(tail -n 1 "$at/said")"
  elif ! cmp -s "$at/gpu" "$at/cpu"; then
    note "$at" "$name" 1 "logits differ from the CPU's"
  else
    note "$at" "$name" 0 ""
  fi
}

check_model() { # folder, model
  here=$1
  model=$2
  short=$(basename "$model")
  for dtype in bfloat16 float32; do
    for tokens in short long; do
      if ! logits "$here" "$here/cpu" "$model" --tokens-file "$work/$tokens" --dtype $dtype; then
        note "$here" "$short $dtype $tokens on the CPU" 1 "$(tail -n 1 "$here/said")"
        continue
      fi
      for executor in stream graph persistent; do
        for patch in none all; do
          for chunk in 1 5 128; do
            # Stock tapes and launches one by one only as far as they tell something new.
            [ $patch = all ] || [ $tokens$dtype = shortbfloat16 ] || continue
            [ $tokens = short ] || { [ $executor != stream ] && [ $chunk != 1 ]; } || continue
            compare "$here" "$short $dtype $tokens $executor patch=$patch chunk=$chunk" "$model" --tokens-file "$work/$tokens" \
              --dtype $dtype --executor $executor --patch $patch --chunk $chunk
          done
        done
      done
    done
  done
}

choose() { # folder, out, model, options: ids of new tokens
  # shellcheck disable=SC2086 # several options
  "$zmlx" generate "$3" --tokens-file "$work/short" --max-tokens 80 --ignore-eos --print-tokens --quiet $4 >"$1/$2" 2>"$1/said"
}

# Tokens that the GPU chooses, many a launch: the likeliest ones, and drawn ones.
check_tokens() { # folder, model
  for how in "--dtype bfloat16" "--dtype float32" "--temperature 0.8 --seed 7" "--temperature 1 --top-p 0.9 --seed 3" \
    "--temperature 0.7 --top-k 20 --min-p 0.05 --repetition-penalty 1.2 --seed 5"; do
    choose "$1" cpu "$2" "$how" && choose "$1" gpu "$2" "$how --device cuda --executor persistent" && cmp -s "$1/cpu" "$1/gpu"
    note "$1" "$(basename "$2") tokens chosen on the GPU, $how" $? "not those of the CPU; $(tail -n 1 "$1/said")"
  done
}

# Ctrl-C while tokens are made.
check_stop() { # folder
  begin=$(date +%s%N)
  timeout --preserve-status -s INT 4 "$zmlx" generate checkpoints/storyteller-4bit --tokens-file "$work/few" --max-tokens 30000 \
    --ignore-eos --device cuda >"$1/text" 2>"$1/said"
  status=$?
  took=$((($(date +%s%N) - begin) / 1000000))
  [ $status -eq 130 ] && [ $took -lt 5000 ]
  note "$1" "Ctrl-C ends a resident kernel" $? "status $status after $took ms; $(tail -n 1 "$1/said")"
}

# Kernels of all kinds under the tools that find wrong addresses, races and barriers that not all reach.
check_tool() { # folder, tool, model, executor
  "$sanitizer" --tool "$2" --error-exitcode 9 "$zmlx" logits "$3" --tokens-file "$work/few" --device cuda --executor "$4" \
    --patch all --chunk 1 --out "$1/gpu" >"$1/said" 2>&1
  note "$1" "$2 $(basename "$3") $4" $? "$(grep -m 1 -A 2 -E 'ERROR|Error' "$1/said" | tr -s '\n ' ' ')"
}

# The same of arrays: each kind of graph once.
check_arrays() { # folder
  "$sanitizer" --tool memcheck --error-exitcode 9 "$folder/tests/stress_arrays" 0 >"$1/said" 2>&1
  note "$1" "memcheck arrays" $? "$(grep -m 1 -A 2 -E 'ERROR|Error|stress_arrays' "$1/said" | tr -s '\n ' ' ')"
}

# The first use compiles the kernels and keeps them, so that the others find them.
mkdir "$work/first"
if ! logits "$work/first" "$work/first/gpu" checkpoints/tiny-lfm2 --tokens-file "$work/short" --device cuda; then
  cat "$work/first/said"
  echo "0 passed, 1 failed"
  exit 1
fi

count=0
running=0
start() { # function, its arguments without the folder
  what=$1
  shift
  count=$((count + 1))
  mkdir "$work/$count"
  "$what" "$work/$count" "$@" &
  running=$((running + 1))
  if [ $running -ge "$jobs" ]; then
    wait
    running=0
  fi
}

sanitizer=$(command -v compute-sanitizer || find /usr/local -name compute-sanitizer -type f -perm -1 2>/dev/null | head -n 1)
if [ -n "$sanitizer" ]; then
  start check_arrays
  for tool in memcheck racecheck synccheck; do
    for model in checkpoints/tiny-lfm2_moe checkpoints/tiny-qwen3_moe; do
      for executor in stream persistent; do
        start check_tool $tool $model $executor
      done
    done
  done
else
  echo "skipped: compute-sanitizer is not installed"
fi
for model in "$@"; do
  if [ -f "$model/config.json" ]; then
    start check_model "$model"
    start check_tokens "$model"
  fi
done
wait

# Last, as they want the GPU for themselves.
mkdir "$work/0"
check_stop "$work/0"
"$folder/tests/stress_cuda" "${STRESS:-10}" "$@" >"$work/0/said" 2>&1
note "$work/0" "stress" $? "$(tail -n 1 "$work/0/said")"
stress=$(tail -n 1 "$work/0/said")
echo "stress: $stress"
"$folder/tests/stress_arrays" "${STRESS:-10}" >"$work/0/said" 2>&1
status=$?
note "$work/0" "arrays" $status "$(grep -m 1 'stress_arrays:' "$work/0/said"); $(tail -n 1 "$work/0/said")"
echo "arrays: $(grep '^#' "$work/0/said" | cut -c3-); $(tail -n 1 "$work/0/said")"

cat "$work"/[0-9]*/found >"$work/all"
passed=$(grep -c '^ok ' "$work/all")
failed=$(grep -c '^not ok ' "$work/all")
{
  echo "{"
  echo "  \"schema\": 1, \"kind\": \"check\", \"created\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\","
  echo "  \"doctor\": $(cat "$work/doctor"),"
  echo "  \"stress\": \"$stress\","
  echo "  \"passed\": $passed, \"failed\": $failed, \"sanitizer\": $([ -n "$sanitizer" ] && echo true || echo false),"
  echo "  \"cases\": ["
  sed -e 's/"/\\"/g' -e 's/^ok \(.*\)$/    {"name": "\1", "passed": true},/' \
    -e 's/^not ok \([^:]*\): .*$/    {"name": "\1", "passed": false},/' -e '$s/,$//' "$work/all"
  echo "  ]"
  echo "}"
} >"$out.new" && mv "$out.new" "$out"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
