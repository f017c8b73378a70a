#!/bin/sh
# Each public header compiles alone, as strict C17 and as C++17, with every compiler that is here.
set -u
. "$(dirname "$0")/tap.sh"
for compiler in gcc clang g++ clang++; do
  case $compiler in *++) language=c++ standard=c++17 ;; *) language=c standard=c17 ;; esac
  if ! echo '#include <stddef.h>' | "$compiler" -x "$language" -fsyntax-only - 2>/dev/null; then
    skip "$compiler" "not installed"
    continue
  fi
  for header in include/zmlx/*.h; do
    expect_empty "$compiler -std=$standard $(basename "$header")" \
      "$(echo "#include <zmlx/$(basename "$header")>" |
        "$compiler" -x $language -std=$standard -Wall -Wextra -pedantic -Werror -Iinclude -fsyntax-only - 2>&1)"
  done
done
expect_found "finds a header that needs another" \
  "$(echo 'size_t f(void);' | "${CC:-cc}" -x c -std=c17 -Werror -fsyntax-only - 2>&1)"
finish
