# For the house tests, which look at the tree itself rather than at what it computes: prints TAP as cmocka does.
# shellcheck shell=sh
count=0
failures=0
ok() { # name
  count=$((count + 1))
  echo "ok $count - $1"
}
not_ok() { # name, what was found
  count=$((count + 1))
  failures=$((failures + 1))
  echo "not ok $count - $1"
  printf '%s\n' "$2" | sed 's/^/# /'
}
expect_empty() { # name, findings
  if [ -z "$2" ]; then ok "$1"; else not_ok "$1" "$2"; fi
}
expect_found() { # name, findings: for the test of a test, which must find something
  if [ -n "$2" ]; then ok "$1"; else not_ok "$1" "nothing was found"; fi
}
skip() { # name, why
  count=$((count + 1))
  echo "ok $count # SKIP $1: $2"
}
finish() {
  echo "1..$count"
  exit "$((failures > 0))"
}
