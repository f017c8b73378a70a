#!/bin/sh
# Builds into a folder, setting up first what is missing: tools and libraries, then the folder itself.
#   scripts/build.sh FOLDER [options of meson setup, used when the folder is set up]
# CC chooses the compiler; a folder that was set up with another one is set up again.
set -eu
folder=$1
shift
cd "$(dirname "$0")/.."

compiler=${CC:-}
# C and C++ by the same compiler: the runtime of one sanitizer does not serve two.
case "$compiler" in *clang*) export CXX="${CXX:-$(echo "$compiler" | sed 's/clang/clang++/')}" ;; esac
if [ ! -f "$folder/build.ninja" ]; then
  scripts/setup.sh build
  meson setup "$folder" "$@" >"$folder.log" 2>&1 || { cat "$folder.log" >&2; rm -f "$folder.log"; exit 1; }
  mv "$folder.log" "$folder/setup.log"
elif [ -n "$compiler" ] && [ "$compiler" != "$(cat "$folder/compiler" 2>/dev/null)" ]; then
  echo "$folder was set up with another compiler: setting it up again for $compiler"
  meson setup --wipe "$folder" "$@" >/dev/null
fi
if [ -n "$compiler" ] || [ ! -f "$folder/compiler" ]; then echo "$compiler" >"$folder/compiler"; fi
if [ -t 1 ]; then exec ninja -C "$folder"; fi # shows its progress on one line
log=$folder/build.log
ninja -C "$folder" --quiet >"$log" 2>&1 || { cat "$log"; exit 1; }
grep -v -e 'no work to do' -e '^Cleaning' "$log" || true
