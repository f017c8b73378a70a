#!/bin/sh
# What keeps files readable: 900 lines a file, 140 columns, 90 lines a function; no path of somebody's machine in the tree; and a tree that
# is small enough to clone in a minute.
set -u
. "$(dirname "$0")/tap.sh"

code() { find "$@" -type f \( -name '*.[ch]' -o -name '*.sh' -o -name '*.py' \) -print0; }
long_files() { code "$@" | xargs -0 wc -l | awk '$2 != "total" && $1 > 900 { print $2 ": " $1 " lines" }'; }
# Columns, not bytes: bytes that continue a character do not count.
long_lines() {
  code "$@" | LC_ALL=C xargs -0 awk '
    { n = length($0); text = $0; n -= gsub(/[\200-\277]/, "", text) }
    n > 140 { printf "%s:%d: %d columns\n", FILENAME, FNR, n }'
}
# A function begins at a line in column 1 that holds a "(", or continues one, and ends with ") {"; it ends at the next "}" in column 1.
long_functions() {
  code "$@" | xargs -0 awk '
    FNR == 1 { start = 0 }
    /^[A-Za-z_].*[(]/ { head = FNR; name = $0 }
    /^[A-Za-z_ ].*[)][^=]*[{]$/ && !/=/ && !start { start = head }
    /^}/ {
      if (start && FNR - start + 1 > 90) printf "%s:%d: %d lines: %s\n", FILENAME, start, FNR - start + 1, substr(name, 1, 60)
      start = 0
    }'
}
machine_paths() { grep -rnEI '(^|[^A-Za-z0-9_.])/(home|root|work|Users|mnt|data)/[A-Za-z]' "$@" | cut -c1-160; }
# A capsule's command is to be repeated from the top of the project: no path of it begins at the root of a machine.
capsule_paths() { grep -rnE '"/[A-Za-z]' --include='*.json' "$@" | cut -c1-160; }
native() { grep -rnE 'march=native|mtune=native|mcpu=native|fast-math' --include=meson.build --include=Makefile "$@"; }

folders=
for f in src include tests examples scripts benchmarks; do [ -d "$f" ] && folders="$folders $f"; done
texts=
for f in README.md CONTRIBUTING.md docs checkpoints/README.md Makefile meson.build .ci .gitignore; do [ -e "$f" ] && texts="$texts $f"; done
# shellcheck disable=SC2086 # lists of words
{
  expect_empty "files of at most 900 lines" "$(long_files $folders)"
  expect_empty "lines of at most 140 columns" "$(long_lines $folders)"
  expect_empty "functions of at most 90 lines" "$(long_functions $folders)"
  expect_empty "no machine paths" "$(machine_paths $folders $texts)"
  expect_empty "no machine paths in capsules" "$(capsule_paths benchmarks/capsules)"
  expect_empty "a short README" "$(awk 'END { if (NR > 119) print "README.md: " NR " lines" }' README.md 2>&1)"
  bytes=$(find $folders $texts checkpoints -type f -exec cat {} + | wc -c)
  expect_empty "at most 54 MB" "$([ "$bytes" -le $((54 * 1048576)) ] || echo "$bytes bytes")"
  expect_empty "nothing tunes the build to the machine it runs on" "$(native $folders meson.build Makefile)"
}

tree=$(mktemp -d) || exit 1
trap 'rm -rf "$tree"' EXIT
awk 'BEGIN {
  print "int f(int a,\n      int b) {"
  for (i = 0; i < 90; i++) print "  a += b;"
  print "}"
  for (i = 0; i < 900; i++) print "//"
  for (i = 0; i < 141; i++) printf "x"
  print "\n// /ho" "me/someone/file"
}' >"$tree/bad.c"
expect_found "finds a long file" "$(long_files "$tree")"
expect_found "finds a long line" "$(long_lines "$tree")"
expect_found "finds a long function" "$(long_functions "$tree" | grep 'bad.c:1: 93 lines')"
expect_found "finds a machine path" "$(machine_paths "$tree")"
printf '{"command": ["a", "/tmp/b.json"]}\n' >"$tree/bad.json"
expect_found "finds a machine path in a capsule" "$(capsule_paths "$tree")"
finish
