#!/bin/sh
# The installed library as a stranger meets it: make install into an empty folder, then a program outside the tree that finds it through
# pkg-config, in C against the shared library and against the static one, and in C++.
set -u
. "$(dirname "$0")/tap.sh"
build=${TEST_BUILD:-build}
root=$(mktemp -d) || exit 1
trap 'rm -rf "$root"' EXIT

step() { # name, command...: its output is shown if it fails
  name=$1
  shift
  if "$@" >"$root/log" 2>&1; then ok "$name"; else not_ok "$name" "$(cat "$root/log")"; fi
}
step "install" env DESTDIR="$root" meson install -C "$build" --no-rebuild
folder=$(dirname "$(find "$root" -name zmlx.pc)")
library=$(dirname "$folder")
export PKG_CONFIG_PATH="$folder" PKG_CONFIG_SYSROOT_DIR="$root" LD_LIBRARY_PATH="$library"
expect_empty "headers are those of the tree" "$(diff -r include/zmlx "$(find "$root" -type d -path '*include/zmlx')" 2>&1)"
step "the command runs" "$(find "$root" -path '*/bin/zmlx')" --version

cp -r examples/embed "$root/embed"
model=$(pwd)/checkpoints/storyteller-4bit
story() { (cd "$root/embed" && "$@" "$model" "The old man opened the door and"); }
compiler=${CC:-cc}
step "the example builds" make -C "$root/embed" CC="$compiler"
step "the example runs" story ./embed
expect_found "it writes a story" "$(sed -n 1p "$root/log" | grep -E '([[:alpha:][:punct:]]+ ){8}')"
expect_found "it says how fast" "$(grep -E '^\[[0-9]+ tokens, [0-9]+ a second\]' "$root/log")"
first=$(sed '$d' "$root/log")

for name in activation norm quantized train patch; do
  # shellcheck disable=SC2046 # lists of words
  step "examples/$name builds as the tutorial says" \
    "$compiler" -std=c17 "examples/$name/$name.c" $(pkg-config --cflags --libs zmlx) -lm -o "$root/$name"
done
step "and examples/activation runs" "$root/activation"

# shellcheck disable=SC2046 # lists of words
step "the example builds against the static library" \
  "$compiler" -std=c17 $(pkg-config --cflags zmlx) -o "$root/embed/static" "$root/embed/embed.c" "$library/libzmlx.a" \
  $(PKG_CONFIG_SYSROOT_DIR='' pkg-config --static --libs-only-l zmlx | sed 's/-lzmlx//g') -lm
step "and runs without the shared one" story env LD_LIBRARY_PATH= ./static
expect_empty "with the same story" "$(sed '$d' "$root/log" | grep -vxF -e "$first")"
usual='^(libc|libm|libdl|libpthread|ld-.*|libjansson|libpcre2-8|libutf8proc|libz|libgcc_s)\.so'
expect_empty "the shared library needs nothing unusual" \
  "$(objdump -p "$library/libzmlx.so" | awk '$1 == "NEEDED" { print $2 }' | grep -vE "$usual")"

printf '#include <zmlx/zmlx.h>\n#include <cstdio>\nint main() { std::puts(zm_version()); }\n' >"$root/version.cc"
if command -v g++ >/dev/null 2>&1; then
  # shellcheck disable=SC2046
  step "a C++ program builds" g++ -std=c++17 $(pkg-config --cflags zmlx) -o "$root/version" "$root/version.cc" $(pkg-config --libs zmlx)
  step "and runs" "$root/version"
  expect_empty "with the version of pkg-config" "$(grep -vxF "$(pkg-config --modversion zmlx)" "$root/log")"
else
  skip "a C++ program" "no g++"
fi
finish
