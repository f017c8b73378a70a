#!/bin/sh
# The include rule: a room includes only rooms below it, and only their one header; paths never climb out of a room.
set -u
. "$(dirname "$0")/tap.sh"

findings() { # folder that holds src/ and include/
  (cd "$1" && find src -name '*.[ch]' | sort | xargs awk '
    BEGIN {
      count = split("base tape quant backend kernel array transform catalog patch models text lm tools cli", rooms)
      for (i = 1; i <= count; i++) height[rooms[i]] = i
    }
    FNR == 1 {
      split(FILENAME, part, "/")
      room = part[2]
      if (!(room in height)) { printf "%s:1: src/%s is not a room\n", FILENAME, room; room = "" }
    }
    /^[ \t]*#[ \t]*include[ \t]*"/ {
      target = $0
      sub(/^[^"]*"/, "", target)
      sub(/".*/, "", target)
      if (target ~ /(^|\/)\.\.(\/|$)/) { printf "%s:%d: \"%s\" climbs out of its folder\n", FILENAME, FNR, target; next }
      n = split(target, path, "/")
      other = path[1]
      if (!(other in height) || n == 1 || other == room) next
      if (target != other "/" other ".h") printf "%s:%d: \"%s\" is private to room %s\n", FILENAME, FNR, target, other
      if (height[other] > height[room]) printf "%s:%d: room %s includes upwards: \"%s\"\n", FILENAME, FNR, room, target
    }
    /^[ \t]*#[ \t]*include[ \t]*</ && /<(src|include)\/|<zmlx[^\/]*>/ { printf "%s:%d: %s\n", FILENAME, FNR, $0 }
  '
  # Outside the library only public headers exist.
  find include examples -name '*.[ch]' 2>/dev/null | sort | xargs grep -nE '^[ 	]*#[ 	]*include[ 	]*"' /dev/null)
}

expect_empty "rooms include only downwards" "$(findings .)"

# The rule itself: each line of this small tree breaks it once.
tree=$(mktemp -d) || exit 1
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/src/tape" "$tree/src/array/ops" "$tree/src/attic" "$tree/include/zmlx"
echo '#include "array/array.h"' >"$tree/src/tape/up.c"
echo '#include "tape/private.h"' >"$tree/src/array/private.c"
echo '#include "../tape/tape.h"' >"$tree/src/array/ops/climb.c"
echo 'int x;' >"$tree/src/attic/a.c"
echo '#include "base/base.h"' >"$tree/include/zmlx/inner.h"
found=$(findings "$tree")
for place in src/tape/up.c:1 src/array/private.c:1 src/array/ops/climb.c:1 src/attic/a.c:1 include/zmlx/inner.h:1; do
  expect_found "finds $place" "$(echo "$found" | grep -F "$place")"
done
mkdir -p "$tree/good/src/array/ops" "$tree/good/include"
printf '#include "ops.h"\n#include "array/kernels.h"\n#include "tape/tape.h"\n#include <zmlx/array.h>\n' >"$tree/good/src/array/ops/fine.c"
expect_empty "leaves good includes alone" "$(findings "$tree/good")"
finish
