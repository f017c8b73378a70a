#!/bin/sh
# Fails, with a sentence, unless each name given is that of a test: a misspelt one would run nothing and pass.
#   scripts/known_tests.sh FOLDER [arguments of meson test]
set -u
folder=$1
shift
value_follows=
for name in "$@"; do
  if [ -n "$value_follows" ]; then value_follows=; continue; fi
  case $name in
    -t | -j | --timeout-multiplier | --num-processes | --maxfail | --repeat | --suite | --no-suite | --wrapper | --test-args)
      value_follows=yes
      continue
      ;;
    -*) continue ;;
  esac
  if meson test -C "$folder" --no-rebuild --list "$name" 2>/dev/null | grep -qv '^No suitable'; then continue; fi
  near=$(meson test -C "$folder" --no-rebuild --list 2>/dev/null | grep -F "$name" | tr '\n' ' ')
  echo "there is no test $name${near:+; did you mean: $near}" >&2
  exit 1
done
