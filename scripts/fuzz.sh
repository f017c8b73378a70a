#!/bin/sh
# Runs each fuzz target for some seconds, as many at once as there are processors: scripts/fuzz.sh FOLDER SECONDS [target...]
# Seeds are kept in tests/fuzz/corpus/TARGET; what a run discovers goes to FOLDER/corpus/TARGET, an input that fails to FOLDER/failures.
set -eu
folder=$1
seconds=$2
shift 2
cd "$(dirname "$0")/.."

# One target: its log, and a last line for the total, in FOLDER/fuzz-TARGET.*
run_one() {
  mkdir -p "$folder/corpus/$1"
  if "$folder/tests/fuzz/fuzz_$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$folder/failures/$1-" "$folder/corpus/$1" "tests/fuzz/corpus/$1" >"$folder/fuzz-$1.log" 2>&1; then
    echo "fuzz $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/fuzz-$1.log") inputs, none failed" >"$folder/fuzz-$1.passed"
  fi
}

scripts/setup.sh build clang
export CC=clang
scripts/build.sh "$folder" -Dfuzz=enabled -Dtests=disabled -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1
[ $# -gt 0 ] || {
  cd tests/fuzz/corpus
  set -- *
  cd ../../..
}
mkdir -p "$folder/failures"
rm -f "$folder"/fuzz-*.passed
running=0
for target in "$@"; do
  run_one "$target" &
  running=$((running + 1))
  if [ $running -ge "$(nproc)" ]; then
    wait # for the whole batch: all take the same time
    running=0
  fi
done
wait

passed=0
failed=0
for target in "$@"; do
  if [ -e "$folder/fuzz-$target.passed" ]; then
    passed=$((passed + 1))
    cat "$folder/fuzz-$target.passed"
  else
    failed=$((failed + 1))
    tail -n 40 "$folder/fuzz-$target.log"
    echo "fuzz $target: failed; the input is in $folder/failures"
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
