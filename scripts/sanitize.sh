#!/bin/sh
# Builds the tests with a sanitizer and runs the suite: scripts/sanitize.sh address,undefined | thread [arguments of meson test]
set -eu
kind=$1
shift
cd "$(dirname "$0")/.."
folder=build-$(echo "$kind" | tr , -)
# Clang, where it is, compiles the kernels with checks in a third of the time that gcc needs.
if [ -z "${CC:-}" ] && echo 'int main(void) { return 0; }' | clang -fsanitize="$kind" -x c -o /dev/null - 2>/dev/null; then
  export CC=clang
fi
[ -f "$folder/build.ninja" ] || scripts/build.sh "$folder" -Db_sanitize="$kind" -Db_lundef=false -Doptimization=1

# Frames that outlive their functions: with clang only, since gcc (at least to 13) aligns them too little for 64-byte vectors.
frames=0
case ${CC:-gcc} in *clang*) frames=1 ;; esac
export ASAN_OPTIONS=detect_stack_use_after_return=$frames:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=second_deadlock_stack=1
# The thread sanitizer of older compilers cannot start under wide address randomization.
plain=
[ "$kind" = thread ] && setarch "$(uname -m)" -R true 2>/dev/null && plain="setarch $(uname -m) -R"
$plain scripts/check.sh "$folder" --timeout-multiplier=10 "$@"
