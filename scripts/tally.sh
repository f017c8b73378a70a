#!/bin/sh
# Counts the cases in a log of meson test whose tests print TAP: names those that were skipped, then says "N passed, N failed".
# A test that ended badly without naming a failed case (a crash, a time limit) counts as one failed case.
exec awk '
  function finish() {
    if (test != "" && result !~ /^exit status 0|^OK/ && !bad) { failed++; print "failed: " test " (" result ")" }
    if (test != "" && result ~ /^exit status 0|^OK/ && !seen) { failed++; print "failed: " test " (it reported no case)" }
    test = ""; bad = seen = 0
  }
  /^test:  / { finish(); test = $2 }
  /^result:  / { result = $0; sub(/^result: */, "", result) }
  /^(not )?ok [0-9]+ .*# SKIP/ {
    seen = 1
    sub(/^(not )?ok [0-9]* *-? *(# SKIP *)?/, "")
    print "skipped: " test ": " $0
    next
  }
  /^ok [0-9]+/ { passed++; seen = 1 }
  /^not ok [0-9]+/ { failed++; bad = seen = 1; sub(/^not ok [0-9]* *-? */, ""); print "failed: " test ": " $0 }
  END { finish(); printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0 }
' "$1"
