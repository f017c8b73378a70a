#!/bin/sh
# Every source file stands in the list of its room (a file that nobody compiles is found at once), and every test in the list of tests.
set -u
. "$(dirname "$0")/tap.sh"
unlisted() { # folder with src/ and tests/
  (cd "$1" && for room in src/*/; do
    find "$room" -name '*.c' | while read -r file; do
      grep -qF "'${file#"$room"}'" "$room/meson.build" 2>/dev/null || echo "$file"
    done
  done)
  (cd "$1" && for file in tests/test_*.c; do
    subject=${file#tests/test_}
    [ ! -e "$file" ] || grep -q "'${subject%.c}'" tests/meson.build || echo "$file"
  done)
  (cd "$1" && for file in tests/fuzz/fuzz_*.c; do
    target=${file#tests/fuzz/fuzz_}
    [ ! -e "$file" ] || grep -q "'${target%.c}'" tests/fuzz/meson.build || echo "$file"
  done)
}
expect_empty "every file is in a list" "$(unlisted .)"
tree=$(mktemp -d) || exit 1
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/src/tape" "$tree/tests"
echo "zmlx_sources += files('a.c')" >"$tree/src/tape/meson.build"
echo "subjects = []" >"$tree/tests/meson.build"
touch "$tree/src/tape/a.c" "$tree/src/tape/forgotten.c" "$tree/tests/test_forgotten.c"
found=$(unlisted "$tree")
expect_found "finds a forgotten source" "$(echo "$found" | grep -x src/tape/forgotten.c)"
expect_found "finds a forgotten test" "$(echo "$found" | grep -x tests/test_forgotten.c)"
expect_empty "and nothing else" "$(echo "$found" | grep -v forgotten)"
# A name that is no test's stops `make check`, and those that pages name are tests'.
build=${TEST_BUILD:-build}
expect_empty "a test is known" "$(scripts/known_tests.sh "$build" tape house_limits --verbose 2>&1)"
expect_empty "the value of an option is no name" "$(scripts/known_tests.sh "$build" --timeout-multiplier 10 -t 3 --maxfail=2 tape 2>&1)"
expect_found "a misspelt test is refused" "$(scripts/known_tests.sh "$build" tape no_such_test || echo refused)"
expect_found "and others are named" "$(scripts/known_tests.sh "$build" examples 2>&1 | grep house_examples)"
names=$(sed -n 's/.*TESTS=\([a-z_]*\).*/\1/p' docs/*.md README.md CONTRIBUTING.md | sort -u)
for name in $names; do
  expect_empty "make check TESTS=$name" "$(scripts/known_tests.sh "$build" "$name" 2>&1)"
done
finish
