#!/bin/sh
# The GPU suite, for a machine that has an NVIDIA GPU: logits of checkpoints by every executor, patched and stock, in chunks, byte by byte
# those of the CPU; a second run is the first; tiny models under compute-sanitizer, where that is installed.
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
passed=0
failed=0
rows=

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

note() { # name, 0 if it passed, what went wrong
  if [ "$2" -eq 0 ]; then
    passed=$((passed + 1))
    echo "ok $1"
  else
    failed=$((failed + 1))
    echo "not ok $1: $3"
  fi
  rows="$rows${rows:+,}
    {\"name\": \"$1\", \"passed\": $([ "$2" -eq 0 ] && echo true || echo false)}"
}

logits() { # out, model, file of tokens, options
  "$zmlx" logits --last 8 --out "$@" >"$work/said" 2>&1
}

compare() { # name, model, options: the GPU with the CPU's file
  name=$1
  shift
  if ! logits "$work/gpu" "$@" --device cuda; then
    note "$name" 1 "$(tail -n 1 "$work/said")"
  elif ! cmp -s "$work/gpu" "$work/cpu"; then
    note "$name" 1 "logits differ from the CPU's"
  else
    note "$name" 0 ""
  fi
}

if ! logits "$work/gpu" checkpoints/tiny-lfm2 --tokens-file "$work/short" --device cuda; then
  cat "$work/said"
  echo "0 passed, 1 failed"
  exit 1
fi

for model in "$@"; do
  [ -f "$model/config.json" ] || continue
  short=$(basename "$model")
  for dtype in bfloat16 float32; do
    for tokens in short long; do
      if ! logits "$work/cpu" "$model" --tokens-file "$work/$tokens" --dtype $dtype; then
        note "$short $dtype $tokens on the CPU" 1 "$(tail -n 1 "$work/said")"
        continue
      fi
      for executor in stream graph persistent; do
        for patch in none all; do
          for chunk in 1 5 128; do
            [ "$tokens" = short ] || [ $chunk = 128 ] || [ $patch = all ] || continue
            compare "$short $dtype $tokens $executor patch=$patch chunk=$chunk" "$model" --tokens-file "$work/$tokens" --dtype $dtype \
              --executor $executor --patch $patch --chunk $chunk
          done
        done
      done
    done
  done
done

# Kernels of all kinds under the tools that find wrong addresses, races and barriers that not all reach.
sanitizer=$(command -v compute-sanitizer || find /usr/local -name compute-sanitizer -type f -perm -1 2>/dev/null | head -n 1)
if [ -n "$sanitizer" ]; then
  head -n 3 "$work/short" >"$work/few"
  for tool in memcheck racecheck synccheck; do
    for model in checkpoints/tiny-lfm2_moe checkpoints/tiny-qwen3_moe; do
      for executor in stream persistent; do
        "$sanitizer" --tool $tool --error-exitcode 9 "$zmlx" logits $model --tokens-file "$work/few" --device cuda --executor $executor \
          --patch all --chunk 1 --out "$work/gpu" >"$work/said" 2>&1
        note "$tool $(basename $model) $executor" $? "$(grep -m 1 -E 'ERROR|Error' "$work/said")"
      done
    done
  done
else
  echo "skipped: compute-sanitizer is not installed"
fi

{
  echo "{"
  echo "  \"schema\": 1, \"kind\": \"check\", \"created\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\","
  echo "  \"doctor\": $(cat "$work/doctor"),"
  echo "  \"passed\": $passed, \"failed\": $failed,"
  echo "  \"cases\": [$rows"
  echo "  ]"
  echo "}"
} >"$out.new" && mv "$out.new" "$out"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
