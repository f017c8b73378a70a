#!/bin/sh
# Prints a C file that defines one string: the given files one after another.
#   scripts/embed_text.sh NAME HEADER FILE...   HEADER declares NAME
set -eu
name=$1 header=$2
shift 2
echo "// Made by scripts/embed_text.sh."
echo "#include \"$header\""
echo
echo "const char ${name}[] ="
cat "$@" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/    "/' -e 's/$/\\n"/'
echo "    ;"
