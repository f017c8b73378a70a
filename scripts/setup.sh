#!/bin/sh
# Looks for the tools and libraries that a purpose needs. On Debian and Ubuntu, as root or with sudo, installs what is missing through apt
# and says so; elsewhere prints what to install and fails. Installs nothing when nothing is missing.
#   scripts/setup.sh [purpose...]   build: the library and the command (the default); check: the tests; clang: fuzzing and the clang
#                                   build; arm: cross compiler and emulator; tools and scripts: what .ci/run needs besides
set -u
[ $# -gt 0 ] || set -- build

# purpose, kind of check, what is looked for, Debian package
needs='
build cc      -            gcc
build header  stdio.h      libc6-dev
build tool    meson        meson
build tool    ninja        ninja-build
build tool    pkg-config   pkg-config
build library jansson      libjansson-dev
build library libpcre2-8   libpcre2-dev
build library libutf8proc  libutf8proc-dev
build library zlib         zlib1g-dev
check library cmocka       libcmocka-dev
check tool    g++          g++
check tool    objdump      binutils
tools tool    make         make
tools tool    git          git
scripts tool  shellcheck   shellcheck
clang tool    clang        clang
clang fuzzer  -            libclang-rt-dev
arm   tool    aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
arm   file    /usr/aarch64-linux-gnu/include/stdio.h libc6-dev-arm64-cross
arm   tool    qemu-aarch64 qemu-user
'

compiler() { # the compiler that a build would use: a command and perhaps words behind it, as in CC="ccache gcc"; nothing if there is none
  CC=${CC:-}
  if command -v "${CC%% *}" >/dev/null 2>&1; then echo "$CC" && return; fi
  for c in cc gcc clang; do
    command -v "$c" >/dev/null 2>&1 && echo "$c" && return
  done
}

fuzzer() { # can clang link libFuzzer and the address sanitizer?
  tmp=$(mktemp) || return 1
  printf 'int LLVMFuzzerTestOneInput(const char *d, long n);\nint LLVMFuzzerTestOneInput(const char *d, long n) { return !d && n; }\n' |
    clang -fsanitize=fuzzer,address -x c -o "$tmp" - >/dev/null 2>&1
  status=$?
  rm -f "$tmp"
  return $status
}

# shellcheck disable=SC2046 # the compiler's words
present() { # kind, what
  case $1 in
    cc) [ -n "$(compiler)" ] ;;
    tool) command -v "$2" >/dev/null 2>&1 ;;
    header) echo "#include <$2>" | $(compiler) -E -x c - >/dev/null 2>&1 ;;
    file) [ -f "$2" ] ;;
    library) pkg-config --exists "$2" 2>/dev/null ;;
    fuzzer) fuzzer ;;
  esac
}

missing() { # purposes -> packages, one a line
  echo "$needs" | while read -r purpose kind what package; do
    for wanted in "$@"; do
      [ "$purpose" = "$wanted" ] || continue
      present "$kind" "$what" || echo "$package"
    done
  done
}

packages=$(missing "$@" | sort -u | tr '\n' ' ')
packages=${packages% }
[ -n "$packages" ] || exit 0

by_hand() {
  echo "Missing, by their names in Debian and Ubuntu: $packages" >&2
  echo "$1" >&2
  exit 1
}
release=${OS_RELEASE:-/etc/os-release} # tests give another
# shellcheck source=/dev/null
[ ! -r "$release" ] || . "$release"
case " ${ID:-} ${ID_LIKE:-} " in
  *" debian "* | *" ubuntu "*) ;;
  *) by_hand "Install them (or what your system calls them) and run this again." ;;
esac
command -v apt-get >/dev/null 2>&1 || by_hand "There is no apt-get here: install them and run this again."
as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 || by_hand "Not root, and there is no sudo: run  apt-get install $packages  as root."
  as_root=sudo
  sudo -n true 2>/dev/null || [ -t 0 ] || by_hand "sudo asks for a password here: run  sudo apt-get install $packages  yourself."
fi

apt_install() {
  # shellcheck disable=SC2086 # a list of words
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
}
echo "Installing what is missing through apt (${as_root:-root}): $packages"
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
if ! apt_install >"$log" 2>&1; then
  echo "The package lists are missing or old: apt-get update"
  if ! { $as_root apt-get update -q && apt_install; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    by_hand "apt-get failed, see above."
  fi
fi
left=$(missing "$@" | sort -u | tr '\n' ' ')
[ -z "$left" ] || { echo "Still missing after apt-get install: $left" >&2; exit 1; }
echo "Installed: $packages"
