"""Which arithmetic the PTX of a bitwise kernel may ask for."""

from __future__ import annotations

import re
from collections import Counter

_OPCODE = re.compile(r"^\s*(?:@!?%\w+\s+)?([a-z][\w]*(?:\.[\w:]+)*)(?=[\s;])", re.M)
_FLOAT = re.compile(r"^(?:f16|f32|f64|f16x2|f32x2|bf16|bf16x2|tf32|e4m3x2|e5m2x2|e2m1x2)$")
_ROUNDED = {"add", "sub", "mul", "div", "sqrt", "rcp"}  # rcp.rn is 1/x correctly rounded: what nvcc makes of 1.0f / x
_EXACT = {
    *("neg", "abs", "min", "max", "setp", "set", "selp", "slct", "copysign", "testp"),
    *("mov", "ld", "ldu", "st", "shfl", "cvt", "cvta", "prefetch"),
}
_FORBIDDEN = {"approx", "full", "ftz", "sat", "relu", "rm", "rp", "rz"}  # a cvt may round as it likes
_APPROXIMATE = {"ex2", "lg2", "sin", "cos", "tanh", "rsqrt", "fma", "mad", "mma", "wgmma"}


def complaint(opcode: str) -> str | None:
    """Why an opcode has no place in a bitwise kernel, or None."""
    base, *modifiers = opcode.split(".")
    if base in _APPROXIMATE and (base != "mad" or any(map(_FLOAT.match, modifiers))):
        return "contracted or approximate"
    if not any(map(_FLOAT.match, modifiers)):
        return None
    if base == "redux" and {"min", "max"} & set(modifiers):  # of a warp, on sm_100: exact in any order
        return None
    if base in ("atom", "red"):
        return None if {"min", "max", "exch", "cas"} & set(modifiers) else "depends on the order of arrival"
    if base in _EXACT:
        return "flushes subnormals" if "ftz" in modifiers else None
    if base not in _ROUNDED:
        return "is not on the list of allowed arithmetic"
    if bad := _FORBIDDEN & set(modifiers):
        return f"has .{', .'.join(sorted(bad))}"
    return None if "rn" in modifiers else "has no .rn and may be contracted"


def violations(ptx: str) -> list[str]:
    counts = Counter(_OPCODE.findall(re.sub(r"//.*", "", ptx)))
    return [f"PTX {opcode} ({n} times) {why}" for opcode, n in sorted(counts.items()) if (why := complaint(opcode))]
