#!/bin/sh
# What the library's binaries may hold: exported names start with zm_ and are those that the headers declare; no transcendental function of
# the platform; and no AVX instruction outside the CPU tiers, so that the library starts on any x86-64.
set -u
. "$(dirname "$0")/tap.sh"
build=${TEST_BUILD:-build}
exported=$(nm -D --defined-only "$build/libzmlx.so" | awk '{ sub(/@.*/, "", $3); print $3 }' | sort)
declared=$(sed -n 's/.*ZM_API[^(;]*[ *]\(zm_[a-z0-9_]*\)(.*/\1/p' include/zmlx/*.h | sort)

expect_found "the library exports something" "$exported"
expect_empty "exported names start with zm_" "$(echo "$exported" | grep -v '^zm_')"
lists=$(mktemp -d) || exit 1
trap 'rm -rf "$lists"' EXIT
echo "$exported" >"$lists/exported"
echo "$declared" >"$lists/declared"
expect_empty "what the headers declare is there" "$(comm -13 "$lists/exported" "$lists/declared")"
expect_empty "what is exported stands in a header" "$(comm -23 "$lists/exported" "$lists/declared")"

# Square root, fma, rounding and the like are exact by IEEE and allowed; these are not.
platform='(a?(sin|cos|tan)h?|atan2|sincos|exp|exp2|exp10|expm1|log|log2|log10|log1p|pow|cbrt|hypot|erfc?|[lt]gamma)[fl]?'
expect_empty "no platform mathematics" "$(nm -A -u "$build/libzmlx.a" 2>/dev/null | grep -E " U $platform\$")"
expect_found "would find platform mathematics" "$(echo ' U expf' | grep -E " U $platform\$")"

case $(uname -m) in
  x86_64)
    # The tiers are libraries of their own, so these are all other objects.
    wide=$(find "$build" -path '*/libzmlx.so*.p/*.o' -exec objdump -d --no-show-raw-insn {} + | awk '
      /file format/ { object = $1 }
      /%[yz]mm[0-9]/ && !(object in seen) { seen[object] = 1; print object " " $0 }')
    expect_empty "no AVX outside the tiers" "$wide"
    ;;
  *) skip "no AVX outside the tiers" "not an x86-64" ;;
esac
finish
