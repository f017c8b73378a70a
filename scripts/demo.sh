#!/bin/sh
# What `make demo` shows: the shipped model writes, and the machine says how fast, at which share of its memory bandwidth, and whether the
# patched model gave the same bits as the stock one. scripts/demo.sh [path of zmlx]
set -eu
cd "$(dirname "$0")/.."
zmlx=${1:-build/zmlx}
model=checkpoints/storyteller-4bit
prompt='It was a dark November evening, and the old clock in the hall had just struck nine, when'

log=$(mktemp)
trap 'rm -f "$log"' EXIT
explain() { # what failed
  cat "$log" >&2
  echo "demo: $1" >&2
  exit 1
}
value() { # key of the JSON in the log -> its number
  sed -n "s/.*\"$1\": *\\([-0-9.eE+]*\\).*/\\1/p" "$log" | head -n 1
}

echo "$model: a 4-bit mixture of experts of 29.8 M parameters. Prompt, and what it writes:"
echo
printf '%s' "$prompt"
"$zmlx" generate "$model" --patch all --prompt "$prompt" --max-tokens 160 --temperature 0.7 --top-p 0.9 --repetition-penalty 1.1 \
  --seed 4 2>"$log" || explain "the model wrote nothing"
echo
cat "$log"
echo
"$zmlx" bench "$model" --patch all --json >"$log" 2>&1 || explain "the measurement failed"
awk -v rate="$(value decode_tok_s)" -v bytes="$(value bytes_per_token)" -v bandwidth="$(value read_bandwidth_gb_s)" \
  -v share="$(value share_of_bandwidth)" 'BEGIN {
  printf "Speed: %.0f tokens a second, each reading %.1f MB of weights: %.1f GB/s.\n", rate, bytes / 1e6, rate * bytes / 1e9
  printf "That is %.0f%% of the %.1f GB/s that this machine reads from memory.", 100 * share, bandwidth
  if (share > 1) printf " (So small a model stays in the caches.)"
  printf "\n"
}'
if "$zmlx" validate "$model" >"$log" 2>&1; then
  echo
  sed -n '/^tokens a second/,/^prompt/p' "$log"
  echo
  echo "Same bits: every token and every bit of every logit of the patched model equals the stock model's (zmlx validate)."
else
  explain "the patched model differs from the stock one"
fi
