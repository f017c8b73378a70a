#!/bin/sh
# Builds a folder with its tests, runs the whole suite (or the tests named) and ends with the line "N passed, N failed" over all cases.
#   scripts/check.sh FOLDER [arguments of meson test]
set -eu
folder=$1
shift
cd "$(dirname "$0")/.."

scripts/setup.sh build check
scripts/build.sh "$folder"
if ! grep -q '^tests enabled$' "$folder/purpose" 2>/dev/null; then
  meson configure "$folder" -Dtests=enabled
  meson setup --reconfigure "$folder" >/dev/null
  scripts/build.sh "$folder"
  echo 'tests enabled' >"$folder/purpose"
fi

scripts/known_tests.sh "$folder" "$@"
status=0
meson test -C "$folder" --print-errorlogs "$@" || status=$?
scripts/tally.sh "$folder/meson-logs/testlog.txt" || status=1
exit $status
