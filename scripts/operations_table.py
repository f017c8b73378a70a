#!/usr/bin/env python3
"""Writes docs/operations.md: the functions and classes of MLX beside the functions of the public headers.

  scripts/operations_table.py            writes the page
  scripts/operations_table.py --check    fails if the page, the headers and docs/operations.txt do not agree
  scripts/operations_table.py --list     writes MLX's list of functions and classes into docs/operations.txt (needs the package mlx)

docs/operations.txt is the data: one line a function or class of MLX, "name = answer". Without an answer the function is zm_<name> and must
be in the headers. An answer is a C name or several, with a note after ":"; or "planned: what for", or "no: the reason". Of answers with
"||" between them the first that the headers allow holds, and "planned" gives way to zm_<name> itself: so the page follows the headers.
"""
import pathlib
import re
import sys

top = pathlib.Path(__file__).parent.parent
data_path, page_path = top / "docs/operations.txt", top / "docs/operations.md"
MODULES = {"mx": "Arrays (mlx.core)", **{m: f"mlx.core.{m}" for m in ("fast", "random", "linalg", "fft")}}


def declared():
    """C names of the public headers -> header."""
    found = {}
    for path in sorted((top / "include/zmlx").glob("*.h")):
        text = re.sub(r"//[^\n]*", "", path.read_text())
        for name in re.findall(r"\b(zm_[a-z0-9_]+)\(", text):
            found.setdefault(name, path.name)
    return found


def read_data():
    rows = []
    for number, line in enumerate(data_path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, answer = (part.strip() for part in line.partition(" = "))
        rows.append((name, answer, number))
    return rows


def resolve(name, answer, headers):
    results = [resolve_one(name, part.strip(), headers) for part in answer.split("||")]
    return next((r for r in results if r[2] != "unknown"), results[0])


def resolve_one(name, answer, headers):
    """(C text, note, state) of a function of MLX; state is present, planned, no or unknown."""
    module, _, short = name.rpartition(".")
    own = f"zm_{module}_{short}" if module not in ("", "fast") else f"zm_{short}"
    kind, _, note = (part.strip() for part in answer.partition(":"))
    if own in headers and (not answer or kind == "planned"):
        return f"`{own}`", headers[own], "present"
    if kind in ("planned", "no") and note:
        return "", note, kind
    names = kind.replace(",", " ").split()
    missing = [n for n in names or [own] if n not in headers]
    if missing:
        return "", f"{', '.join(missing)} is in no header", "unknown"
    where = ", ".join(dict.fromkeys(headers[n] for n in names))
    return ", ".join(f"`{n}`" for n in names), f"{where}: {note}" if note else where, "present"


def page():
    headers, errors, groups = declared(), [], {m: [] for m in MODULES}
    count = {"present": 0, "planned": 0, "no": 0, "unknown": 0}
    for name, answer, number in read_data():
        c, note, state = resolve(name, answer, headers)
        count[state] += 1
        if state == "unknown":
            errors.append(f"docs/operations.txt:{number}: {name}: {note}; give it an answer")
        module = name.rpartition(".")[0] or "mx"
        text = {"present": c, "planned": "planned", "no": "no"}.get(state, "?")
        groups[module].append(f"| `{name}` | {text} | {note} |")
    lines = [
        "# Operations: what MLX has, and what is here",
        "",
        "Made by `scripts/operations_table.py` from the public headers and `docs/operations.txt`; do not edit (`make docs`). Functions and",
        f"classes of MLX {version()}: {count['present']} are here, {count['planned']} are planned, {count['no']} have no place here, for",
        "the reason given.",
        "",
        "What differs everywhere: axes are arguments of their own, and functions over several axes take a list and its length; there is no",
        "device or stream argument; what is out of range is an error where shapes tell it, and defined where values tell it (an index out",
        "of range reads zeros and writes nothing); results are the same bits with any number of threads (`docs/numerics.md`).",
    ]
    for module, title in MODULES.items():
        lines += ["", f"## {title}", "", "| MLX | here | where, notes |", "|---|---|---|", *groups[module]]
    return "\n".join(lines) + "\n", errors


def version():
    match = re.search(r"^# MLX ([0-9.]+)", data_path.read_text(), re.M)
    return match.group(1) if match else "?"


def write_list():
    import mlx.core as mx
    from importlib.metadata import version as installed

    def is_listed(what):
        return type(what).__name__ in ("nb_func", "function", "builtin_function_or_method") or isinstance(what, type)

    answers = {name: answer for name, answer, _ in read_data()} if data_path.exists() else {}
    about = "its functions and classes, and where they are here. scripts/operations_table.py says what the lines mean."
    lines = [f"# MLX {installed('mlx')}: {about}"]
    for module in MODULES:
        space = mx if module == "mx" else getattr(mx, module)
        for short in sorted(d for d in dir(space) if not d.startswith("_") and is_listed(getattr(space, d))):
            name = short if module == "mx" else f"{module}.{short}"
            answer = answers.get(name, "")
            lines.append(f"{name} = {answer}" if answer else name)
    data_path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if "--list" in sys.argv:
        write_list()
    text, errors = page()
    if "--check" in sys.argv:
        if not page_path.exists() or page_path.read_text() != text:
            errors.append("docs/operations.md is not what scripts/operations_table.py makes: run make docs")
    else:
        page_path.write_text(text)
    print("\n".join(errors), end="\n" if errors else "")
    sys.exit(1 if errors else 0)
