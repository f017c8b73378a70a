#!/bin/sh
# The tiers of 64-bit ARM, from any machine with Debian or Ubuntu: builds for it into build-arm and runs under qemu the tests that look at
# bits. Then logits of shipped checkpoints by every tier must be the file that the build of this machine writes. Ends with "N passed, N
# failed". Where the packages can't be had it says so, and skips everything.
#   scripts/check_arm.sh [FOLDER]     FOLDER (build): the build of this machine
set -u
cd "$(dirname "$0")/.." || exit 1
native=${1:-build}
folder=build-arm
root=$PWD/$folder.root
tests='kernels phases quant interpret array_cases'
models='storyteller-4bit llama-8bit-g128'
libraries='libjansson-dev libjansson4 libpcre2-dev libpcre2-8-0 libutf8proc-dev libutf8proc2 zlib1g-dev zlib1g libcmocka-dev libcmocka0'

skip() {
  echo "skipped: arm: $1"
  echo "0 passed, 0 failed"
  exit 0
}

# The libraries of the other architecture, unpacked into a folder: the system's own list of architectures stays as it is.
fetch() {
  mkdir -p "$root/apt/lists/partial" "$root/apt/sources" "$root/cache/archives/partial" "$root/packages" || return 1
  : >"$root/apt/status"
  cp /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list "$root/apt/sources/" 2>/dev/null
  cp /etc/apt/sources.list "$root/apt/sources/main.list" 2>/dev/null
  # Ubuntu keeps other architectures on another server.
  sed -i -E 's,https?://[a-z.]*(archive|security)\.ubuntu\.com/ubuntu/?,http://ports.ubuntu.com/ubuntu-ports/,g' "$root"/apt/sources/*
  set -- -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$root/apt" -o Dir::State::status="$root/apt/status" \
    -o Dir::Cache="$root/cache" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$root/apt/sources" -o APT::Sandbox::User=root
  apt-get "$@" update
  # shellcheck disable=SC2086 # a list of words
  (cd "$root/packages" && apt-get "$@" download $libraries) || return 1
  for p in "$root"/packages/*.deb; do dpkg-deb -x "$p" "$root" || return 1; done
  rm -rf "$root/apt" "$root/cache" "$root/packages"
}

[ -x "$native/zmlx" ] || scripts/build.sh "$native" || { echo "0 passed, 1 failed"; exit 1; }
scripts/setup.sh build arm || skip "the cross compiler and qemu are not here and cannot be installed"
if [ ! -f "$root/complete" ]; then
  rm -rf "$root"
  mkdir -p "$root"
  fetch >"$root/log" 2>&1 || { tail -n 5 "$root/log"; skip "the libraries for ARM could not be fetched"; }
  touch "$root/complete"
fi

qemu() { qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$root/usr/lib/aarch64-linux-gnu" "$@"; }

if [ ! -f "$folder/build.ninja" ]; then
  printf "[constants]\nroot = '%s'\n" "$root" >"$root/root.ini"
  meson setup "$folder" --cross-file "$root/root.ini" --cross-file scripts/cross/aarch64.ini -Dtests=enabled >"$root/setup.log" 2>&1 ||
    { cat "$root/setup.log"; echo "0 passed, 1 failed"; exit 1; }
fi
targets=zmlx
for t in $tests; do targets="$targets tests/test_$t"; done
# shellcheck disable=SC2086 # a list of words
ninja -C "$folder" --quiet $targets || { echo "0 passed, 1 failed"; exit 1; }

passed=0
failed=0
for t in $tests; do
  CMOCKA_MESSAGE_OUTPUT=TAP TEST_BUILD=$PWD/$folder qemu "$folder/tests/test_$t" >"$root/$t.log" 2>&1
  status=$?
  ok=$(grep -c '^ok ' "$root/$t.log")
  bad=$(grep -c '^not ok ' "$root/$t.log")
  if [ $status -ne 0 ] && [ "$bad" -eq 0 ] || [ $((ok + bad)) -eq 0 ]; then bad=1; fi
  [ "$bad" -eq 0 ] || cat "$root/$t.log"
  echo "$t: $ok passed, $bad failed"
  passed=$((passed + ok))
  failed=$((failed + bad))
done

tiers=$(qemu "$folder/zmlx" doctor | awk '/^CPU tiers/ { on = 1; next } /^devices/ { on = 0 } on && NF && !/lacks/ { print $1 }')
i=0
while [ $i -lt 40 ]; do echo $((i * i * 7 % 251)); i=$((i + 1)); done >"$root/tokens"
for m in $models; do
  "$native/zmlx" logits "checkpoints/$m" --tokens-file "$root/tokens" --last 40 --out "$root/native.safetensors" >/dev/null
  for t in $tiers; do
    rm -f "$root/arm.safetensors"
    qemu "$folder/zmlx" logits "checkpoints/$m" --tokens-file "$root/tokens" --last 40 --isa "$t" --out "$root/arm.safetensors" >/dev/null
    if cmp -s "$root/native.safetensors" "$root/arm.safetensors"; then
      passed=$((passed + 1))
    else
      echo "failed: logits of $m by $t are not those of this machine"
      failed=$((failed + 1))
    fi
  done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
