"""Writes capsules of many rows (docs/capsules.md): a row a line, so that differences can be read, and published by rename."""
import json
import os


def rounded(value, digits):
    """Floats of so many digits: more is more than a clock knows."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    return [rounded(v, digits) for v in value] if isinstance(value, list) else value


def write(path, capsule, digits=7):
    head = json.dumps({k: v for k, v in capsule.items() if k != "rows"}, indent=1)[:-2] + ',\n "rows": [\n'
    with open(path + ".part", "w") as f:
        f.write(head + ",\n".join("  " + json.dumps(rounded(r, digits)) for r in capsule["rows"]) + "\n ]\n}\n")
    os.rename(path + ".part", path)
