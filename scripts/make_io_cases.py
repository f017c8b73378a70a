#!/usr/bin/env python3
"""Files of arrays by NumPy and MLX, and what NumPy and MLX read in ours.

  scripts/make_io_cases.py                    writes tests/data/io_cases.json: files in hex with the arrays that they hold
  scripts/make_io_cases.py --check TEST_IO    runs that test program so that it keeps its files, and reads each with NumPy or MLX

Needs the packages mlx[cpu] and numpy. Arrays are {"t": dtype, "s": shape, "x": bytes in hex}.
"""
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(6)
files = []
DTYPES = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4"]


def pack(a):
    if isinstance(a, mx.array):
        name = str(a.dtype).replace("mlx.core.", "").replace("bool_", "bool")
        raw = np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a)
    else:
        with np.errstate(over="ignore"):
            raw = a.astype(np.float32 if a.dtype.kind == "f" and a.dtype.itemsize == 8 else a.dtype.newbyteorder("="))
        name = raw.dtype.name
    return {"t": name, "s": list(a.shape), "x": np.ascontiguousarray(raw).tobytes().hex()}


def add(kind, label, data, arrays, same=False, **more):
    packed = {k: pack(v) for k, v in arrays.items()}
    files.append({"kind": kind, "label": label, "file": data.hex(), "arrays": packed, "same": same, **more})


def sample(dtype, shape=(2, 3)):
    return (rng.standard_normal(shape) * 50).astype(dtype)


def npy(a, version=None):
    f = io.BytesIO()
    np.lib.format.write_array(f, np.asanyarray(a), version=version)
    return f.getvalue()


def by_mlx(save, suffix, *args, **named):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x" + suffix)
        save(path, *args, **named)
        return pathlib.Path(path).read_bytes()


def npz(save, **arrays):
    f = io.BytesIO()
    save(f, **arrays)
    return f.getvalue()


class Pipe(io.RawIOBase):
    """A target that can't be sought: zip entries get their sizes behind the data."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, b):
        self.data += bytes(b)
        return len(b)


def make():
    for t in DTYPES:
        a = sample(t)
        add("npy", "numpy " + t, npy(a), {"": a}, True)
    for shape in [(), (0,), (7,), (3, 0, 2), (1, 2, 1, 2, 1, 2, 1, 2)]:
        a = sample("f4", shape)
        add("npy", f"numpy {shape}", npy(a), {"": a}, True)
    add("npy", "float64", npy(np.array([1 / 3, 1e300, -1e-300, np.pi])), {"": np.array([1 / 3, 1e300, -1e-300, np.pi])})
    for t in (">i4", ">f2", ">u8", ">f8"):
        a = sample(t)
        add("npy", "order " + t, npy(a), {"": a})
    for shape in [(3, 4), (2, 3, 4), (5,), ()]:
        a = np.asfortranarray(sample("i2", shape))
        add("npy", f"columns {shape}", npy(a), {"": a})
    for version in [(2, 0), (3, 0)]:
        a = sample("i8")
        add("npy", f"version {version}", npy(a, version), {"": a})
    for t in [mx.bool_, mx.uint8, mx.int64, mx.float16, mx.bfloat16, mx.float32]:
        a = mx.array(sample("f4")).astype(t)
        add("npy", f"mlx {t}", by_mlx(mx.save, ".npy", a), {"": a})
    three = {"weight": sample("f4"), "layers.0.bias": sample("i4", (5,)), "größe/1": sample("bool", (0, 2))}
    add("npz", "numpy", npz(np.savez, **three), three)
    add("npz", "numpy compressed", npz(np.savez_compressed, **three), three)
    add("npz", "empty", npz(np.savez), {})
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as z:
        for k, v in three.items():
            z.writestr(zipfile.ZipInfo(k + ".npy"), npy(v), zipfile.ZIP_DEFLATED)  # without the time: the same file every time
    add("npz", "sizes later", pipe.data, three)
    ours = {"a": mx.array(sample("f4")), "b": mx.array(sample("f4")).astype(mx.bfloat16), "c": mx.array(sample("i4"))}
    add("npz", "mlx", by_mlx(mx.savez, ".npz", **ours), ours)
    add("npz", "mlx compressed", by_mlx(mx.savez_compressed, ".npz", **ours), ours)
    add("safetensors", "mlx", by_mlx(mx.save_safetensors, ".safetensors", ours, {"format": "mlx", "who": "é\n\""}), ours,
        metadata={"format": "mlx", "who": "é\n\""})
    add("safetensors", "mlx plain", by_mlx(mx.save_safetensors, ".safetensors", ours), ours, metadata={})
    target = pathlib.Path(__file__).resolve().parent.parent / "tests/data/io_cases.json"
    target.write_text('{"files":[\n' + ",\n".join(json.dumps(f, separators=(",", ":")) for f in files) + "\n]}\n")


def same(name, a, stored):
    if stored["t"] == "bfloat16":
        a = np.array(a.view(mx.uint16)) if isinstance(a, mx.array) else np.asarray(a).view(np.uint16)
    a = np.asarray(a)
    ok = list(a.shape) == stored["s"] and np.ascontiguousarray(a).tobytes().hex() == stored["x"]
    ok = ok and (stored["t"] == "bfloat16" or a.dtype.name == stored["t"])
    if not ok:
        sys.exit(f"{name}: {a.dtype} {a.shape} is not {stored}")


def check(program):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program], env={**os.environ, "TEST_IO_KEEP": folder}, check=True, stdout=subprocess.DEVNULL,
                       cwd=pathlib.Path(__file__).resolve().parent.parent)
        lists = sorted(pathlib.Path(folder).glob("*.json"))
        for listed in lists:
            wanted, path = json.loads(listed.read_text()), str(listed)[:-5]
            readers = [mx.load] if path.endswith("safetensors") else [np.load, mx.load]
            for read in readers:
                found = read(path)
                found = {"": found} if path.endswith("npy") else found
                if sorted(found.keys()) != sorted(wanted):
                    sys.exit(f"{path}: names {sorted(found.keys())}")
                for k in wanted:
                    same(f"{path}: {k}", found[k], wanted[k])
        print(f"{len(lists)} files are read back")
        if len(lists) < 5:
            sys.exit("too few")


if sys.argv[1:2] == ["--check"]:
    check(os.path.abspath(sys.argv[2]))
else:
    make()
