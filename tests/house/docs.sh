#!/bin/sh
# Documents say what is there: docs/cli.md is what the option table prints, docs/operations.md what the headers have, files that documents
# name exist, and the commands and make targets of README and CONTRIBUTING are known.
set -u
. "$(dirname "$0")/tap.sh"
zmlx=${TEST_BUILD:-build}/zmlx
documents="README.md CONTRIBUTING.md $(find docs -name '*.md' | sort | tr '\n' ' ')"

expect_empty "docs/cli.md is up to date (make docs)" "$("$zmlx" help --markdown 2>&1 | diff docs/cli.md - 2>&1 | head -n 20)"
expect_empty "docs/operations.md is up to date (make docs)" "$(python3 scripts/operations_table.py --check 2>&1)"
expect_empty "tables of docs/performance.md are up to date (scripts/sweep_table.py)" "$(python3 scripts/sweep_table.py --check 2>&1)"
expect_empty "the timeline of docs/cuda.md is up to date (scripts/cuda_timeline.py)" "$(python3 scripts/cuda_timeline.py --check 2>&1)"
expect_empty "docs/catalog-speed.md is up to date (scripts/catalog_speed.py)" "$(python3 scripts/catalog_speed.py --check 2>&1)"

# Words in backquotes that look like files of the tree: a folder of it, a slash, and no pattern in it.
missing_files() {
  # shellcheck disable=SC2016,SC2086 # backquotes; a list of words
  grep -noE '`(src|tests|docs|scripts|include|examples|benchmarks|checkpoints)/[A-Za-z0-9_./-]*`' $1 /dev/null |
    while IFS=: read -r document line name; do
      name=$(echo "$name" | tr -d '`')
      [ -e "$name" ] || echo "$document:$line: there is no $name"
    done
}
expect_empty "files that documents name exist" "$(missing_files "$documents")"

known=$("$zmlx" help | awk '/^  [a-z]/ { print $1 }')
unknown_commands() {
  # shellcheck disable=SC2086
  grep -hoE 'zmlx [a-z]+' $1 | awk '{ print $2 }' | sort -u | grep -vxF -e "$known" | grep -vxE 'is|and|in|on|for|as|does|at'
}
expect_found "zmlx help lists commands" "$(echo "$known" | grep -x generate)"
expect_empty "commands in README and CONTRIBUTING exist" "$(unknown_commands "README.md CONTRIBUTING.md")"

unknown_targets() {
  # shellcheck disable=SC2086
  grep -hoE '^make [a-z]+|`make [a-z]+' $1 | sed 's/.*make //' | sort -u | while read -r target; do
    grep -q "^$target:" Makefile || echo "make $target"
  done
}
expect_empty "make targets in README and CONTRIBUTING exist" "$(unknown_targets "README.md CONTRIBUTING.md")"

page=$(mktemp) || exit 1
trap 'rm -f "$page"' EXIT
# shellcheck disable=SC2016
printf 'See `src/nowhere/x.c`; run `make tea` and then `zmlx brew MODEL`.\n' >"$page"
expect_found "finds a file that is not there" "$(missing_files "$page")"
expect_found "finds an unknown target" "$(unknown_targets "$page")"
expect_found "finds a row of the benchmarks that is slow without a reason" \
  "$(python3 scripts/catalog_speed.py --check --reasons /dev/null 2>&1 | grep 'no reason for')"
expect_found "finds an unknown command" "$(unknown_commands "$page")"
finish
