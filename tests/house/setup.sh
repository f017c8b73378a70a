#!/bin/sh
# scripts/setup.sh against made-up machines: a folder of fake tools is all that it sees. It installs only what is missing, says what it
# does, and where it can't install it names the packages and fails.
set -u
. "$(dirname "$0")/tap.sh"
world=$(mktemp -d) || exit 1
trap 'rm -rf "$world"' EXIT
mkdir "$world/bin"
for tool in sh cat sort tr tail mktemp rm sed env; do ln -s "$(command -v $tool)" "$world/bin/$tool"; done
printf 'ID=debian\n' >"$world/debian"
printf 'ID=fedora\nID_LIKE="rhel"\n' >"$world/fedora"

fake() { # name, script
  printf '#!/bin/sh\n%s\n' "$2" >"$world/bin/$1"
  chmod +x "$world/bin/$1"
}
fake id 'echo ${FAKE_UID:-0}'
for tool in gcc meson ninja; do fake $tool 'exit 0'; done
# A library is there if the file has_<library> is; apt-get install makes it so.
# shellcheck disable=SC2016 # for the fake to expand
fake pkg-config '[ "$1" = --exists ] && [ -e "$(dirname "$0")/../has_$2" ]'
ln -s "$(command -v dirname)" "$world/bin/dirname"
# shellcheck disable=SC2016
fake apt-get 'here=${0%/bin/apt-get}
echo "apt-get $*" >>"$here/called"
[ "$1" != update ] || : >"$here/lists"
if [ "$1" = install ]; then
  [ -e "$here/lists" ] || { echo "E: Unable to locate package" >&2; exit 100; }
  case "$*" in *libjansson-dev*) : >"$here/has_jansson" ;; esac
fi'

reset() { # the libraries that are there
  rm -f "$world"/has_* "$world/called" "$world/lists"
  for library in "$@"; do : >"$world/has_$library"; done
}
setup() { # arguments of env...: output and status in $world/out, $status
  env -i PATH="$world/bin" OS_RELEASE="$world/debian" "$@" /bin/sh scripts/setup.sh build >"$world/out" 2>&1
  status=$?
}
is() { # name, found, expected
  if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "found $2, expected $3: $(cat "$world/out")"; fi
}
called() { cat "$world/called" 2>/dev/null; }

reset jansson libpcre2-8 libutf8proc zlib
setup
is "nothing missing: succeeds" $status 0
expect_empty "nothing missing: says nothing" "$(cat "$world/out")"
expect_empty "nothing missing: installs nothing" "$(called)"

reset libpcre2-8 libutf8proc zlib
: >"$world/lists"
setup
is "one library missing, as root: succeeds" $status 0
expect_found "says what it installs" "$(grep -x 'Installing what is missing through apt (root): libjansson-dev' "$world/out")"
is "installs just that" "$(called)" "apt-get install -y -q --no-install-recommends libjansson-dev"

reset libpcre2-8 libutf8proc zlib
setup
is "without package lists: succeeds" $status 0
is "fetches the lists in between" "$(called | sed 's/ -.*//' | tr '\n' ';')" "apt-get install;apt-get update;apt-get install;"

reset jansson
setup
is "still missing afterwards: fails" $status 1
expect_found "and names it" "$(grep 'Still missing' "$world/out" | grep libpcre2-dev | grep libutf8proc-dev)"

reset jansson
setup FAKE_UID=1000
is "neither root nor sudo: fails" $status 1
expect_found "tells what to run as root" "$(grep 'apt-get install libpcre2-dev libutf8proc-dev zlib1g-dev  *as root' "$world/out")"
expect_empty "and installs nothing" "$(called)"

reset jansson
setup OS_RELEASE="$world/fedora"
is "another system: fails" $status 1
expect_found "prints the list" "$(grep 'Missing.*: libpcre2-dev libutf8proc-dev zlib1g-dev$' "$world/out")"
expect_empty "and installs nothing there" "$(called)"
finish
