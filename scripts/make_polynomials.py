#!/usr/bin/env python3
"""Coefficients of the polynomials of src/backend/prelude/: near-minimax fits of the relative error of the function that a polynomial
serves, with coefficients rounded to float32 one after another from the lowest and the rest fitted again. Prints C hexadecimal floats.
Needs mpmath and numpy."""
import mpmath as mp
import numpy as np

mp.mp.dps = 40


def hexf(v):
    return float(np.float32(v)).hex().replace("0000000p", "p") + "f"


def fit(name, target, weight, low, high, count, split=False):
    """target(z) ~ sum c[i] z^i on [low, high]; the error that is made small is |sum - target| * weight.
    split: c[0] is a sum of two floats."""
    points = 600
    z = [(high + low) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mp.mpf(1) / 2) / points) for i in range(points)]
    t = np.array([float(target(v)) for v in z])
    w = np.array([float(weight(v)) for v in z])
    x = np.array([float(v) for v in z])
    fixed = []
    for k in range(count + 1):
        rest = t - sum(c * x**i for i, c in enumerate(fixed)) if fixed else t.copy()
        if k == count:
            break
        basis = np.stack([x**i for i in range(k, count)], axis=1)
        lawson = np.ones(points)
        best, coefficients = None, None
        for _ in range(200):
            scale = w * np.sqrt(lawson)
            c, *_ = np.linalg.lstsq(basis * scale[:, None], rest * scale, rcond=None)
            error = np.abs(basis @ c - rest) * w
            if best is None or error.max() < best:
                best, coefficients = error.max(), c
            lawson = lawson * error
            lawson = lawson / lawson.sum() + 1e-30
        first = float(np.float32(coefficients[0]))
        if split and k == 0:
            first += float(np.float32(coefficients[0] - first))
        fixed.append(first)
    error = (np.abs(rest) * w).max()
    print(f"{name}: relative error {error:.3g} = {error * 2**24:.3f} * 2^-24")
    print("  " + (hexf(fixed[0] - float(np.float32(fixed[0]))) + " + " if split else "") + ", ".join(hexf(c) for c in fixed))


half_ln2 = mp.log(2) / 2
root = lambda f: lambda z: f(mp.sqrt(z)) if z > 0 else f(mp.mpf("1e-15"))
odd = lambda f: root(lambda r: (f(r) - r) / r**3)  # f(r) = r + r^3 P(r^2)
odd_weight = lambda f: root(lambda r: r**3 / f(r))


def main():
    q = mp.pi / 4 + mp.mpf("0.002")
    fit("exp2: 2^r = 1 + r P(r)", lambda r: (mp.power(2, r) - 1) / r, lambda r: abs(r) / mp.power(2, r), -0.501, 0.501, 6)
    fit("expm1: e^r - 1 = r + r^2 P(r)", lambda r: (mp.expm1(r) - r) / r**2, lambda r: abs(r**2 / mp.expm1(r)), -half_ln2, half_ln2, 6)
    fit("sin: r + r^3 P(r^2)", odd(mp.sin), odd_weight(mp.sin), 0, q * q, 4)
    fit("cos: 1 - r^2 / 2 + r^4 P(r^2)", root(lambda r: (mp.cos(r) - 1 + r * r / 2) / r**4), root(lambda r: r**4 / mp.cos(r)), 0, q * q, 4)
    fit("tan: r + r^3 P(r^2)", odd(mp.tan), odd_weight(mp.tan), 0, q * q, 7)
    fit("asin: x + x^3 P(x^2)", odd(mp.asin), odd_weight(mp.asin), 0, 0.2505, 6)
    fit("atan: x + x^3 P(x^2)", odd(mp.atan), odd_weight(mp.atan), 0, mp.mpf("0.1718"), 5)
    fit("sinh: x + x^3 P(x^2)", odd(mp.sinh), odd_weight(mp.sinh), 0, 1, 4)
    log_odd = lambda s: mp.atanh(s)
    fit("log: 2 atanh(s) = 2 (s + s^3 P(s^2))", odd(log_odd), odd_weight(log_odd), 0, mp.mpf("0.02946"), 4)
    fit("log1p: z + z^2 P(z), of softplus", lambda z: (mp.log1p(z) - z) / z**2 if z > mp.mpf("1e-9") else mp.mpf(-1) / 2,
        lambda z: abs(z**2 / mp.log1p(z)), 0, 1, 9)
    fit("erf: x + x P(x^2)", root(lambda x: mp.erf(x) / x - 1), root(lambda x: x / mp.erf(x)), 0, mp.mpf("0.8465"), 7)
    fit("erf: 1 - exp(-a - a P(a))", lambda a: -mp.log(mp.erfc(a)) / a - 1, lambda a: a * mp.erfc(a) / mp.erf(a), mp.mpf("0.92"),
        mp.mpf("4.0"), 8)
    inverse = lambda t: mp.erfinv(mp.sqrt(1 - mp.exp(-t))) / mp.sqrt(1 - mp.exp(-t))  # t = -log(1 - x^2)
    small = lambda t: inverse(t + mp.mpf("2.5") + mp.mpf("1e-12"))
    large = lambda s: inverse((s + 3) ** 2)
    fit("erfinv: x P(t - 2.5), t < 5", small, lambda t: 1 / small(t), -2.5, 2.51, 10, True)
    fit("erfinv: x P(sqrt t - 3), t >= 5", large, lambda s: 1 / large(s), mp.sqrt(5) - mp.mpf("3.01"), 1.0, 10, True)


main()
