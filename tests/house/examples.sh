#!/bin/sh
# The programs of examples/ run, and print what their readers expect; docs/tutorial.md shows its program and what it prints.
set -u
. "$(dirname "$0")/tap.sh"
programs=$TEST_BUILD/examples
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
runs() { # program, arguments...
  name=$1
  shift
  if "$programs/$name" "$@" >"$log" 2>&1; then ok "$name runs"; else not_ok "$name runs" "$(cat "$log")"; fi
}

runs activation
# The table of the page, line by line.
expect_empty "the tutorial shows what the activation prints" \
  "$(awk '/^ +x +mish/ { on = 1 } /^```/ { on = 0 } on' docs/tutorial.md | diff - "$log" 2>&1)"
# Its code is the program's, its message what the library says.
missing() { # file
  sed 's/^ *//; s/;$//' | while IFS= read -r line; do grep -qF -- "$line" "$1" || echo "$line"; done
}
expect_empty "the tutorial's code is that of the activation" \
  "$(awk '/^```c$/ { on = 1; next } /^```/ { on = 0 } on && !/^ *\.\.\./' docs/tutorial.md | missing examples/activation/activation.c)"
"$TEST_BUILD/zmlx" kernel show --expr 'x * tanhh(softplus(x))' >"$log" 2>&1
expect_empty "the tutorial's message is that of the library" \
  "$(awk '/tanhh/ { on = 1 } /^```/ { on = 0 } on' docs/tutorial.md | sed 's/^kernel mish//' | missing "$log")"
runs norm
expect_found "the norm agrees with the composed one" "$(grep -E 'norm (0|[0-9.]+e-(0[6-9]|1[0-9]))$' "$log")"
runs quantized
expect_found "the quantized kernel is right, and its gradient" "$(grep -E 'largest error .*e-.*gradient .*' "$log")"
runs train
expect_found "the network learns" "$(grep -E '^(9[5-9]|100)\.[0-9]% of 256 points' "$log")"
runs device
expect_found "numbers come to rest, wherever they are computed" "$(grep -E '^297 of 1000 come to rest, says the [CG]PU$' "$log")"
runs patch checkpoints/storyteller-4bit
expect_found "the patched model keeps its bits" "$(grep -E '^[1-9][0-9]* places .*: the same bits' "$log")"
expect_empty "a program without its argument fails" "$("$programs/patch" >"$log" 2>&1 && cat "$log")"
finish
