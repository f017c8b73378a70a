#!/bin/sh
# Runs each fuzz target for some seconds: scripts/fuzz.sh FOLDER SECONDS [target...]
# Seeds are kept in tests/fuzz/corpus/TARGET; what a run discovers goes to FOLDER/corpus/TARGET, an input that fails to FOLDER/failures.
set -eu
folder=$1
seconds=$2
shift 2
cd "$(dirname "$0")/.."
scripts/setup.sh build clang
export CC=clang
scripts/build.sh "$folder" -Dfuzz=enabled -Dtests=disabled -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1
[ $# -gt 0 ] || { cd tests/fuzz/corpus; set -- *; cd ../../..; }
mkdir -p "$folder/failures"
passed=0
failed=0
for target in "$@"; do
  mkdir -p "$folder/corpus/$target"
  if "$folder/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$folder/failures/$target-" "$folder/corpus/$target" "tests/fuzz/corpus/$target" >"$folder/fuzz-$target.log" 2>&1; then
    passed=$((passed + 1))
    echo "fuzz $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/fuzz-$target.log") inputs, none failed"
  else
    failed=$((failed + 1))
    tail -n 40 "$folder/fuzz-$target.log"
    echo "fuzz $target: failed; the input is in $folder/failures"
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
