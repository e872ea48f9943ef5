"""Numbers from one type to another within a kernel, 8 bits among them."""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def cast(x, kind: tl.constexpr):
    """`x` as `kind`; what 8 bits cannot hold becomes their largest value."""
    if x.dtype == tl.float8e4nv and kind == tl.float16:
        x = x.to(kind)  # an instruction for two
    elif x.dtype != kind:
        # By way of float32: from 8 bits straight to bf16 is an instruction a number at a quarter of the speed.
        x = x.to(tl.float32).to(kind)
    return x


@triton.jit
def halves(x, kind: tl.constexpr, EARLY: tl.constexpr):
    """`cast` of 8 bits to float16, with EARLY (a device that has it) by an instruction that the compiler does not move.

    What it may move it brings to the matrix units' layout first, byte by byte where those want columns.
    """
    if EARLY and x.dtype == tl.float8e4nv and kind == tl.float16:
        x = tl.inline_asm_elementwise(
            "{ .reg .b16 a, b; mov.b32 {a, b}, $2; cvt.rn.f16x2.e4m3x2 $0, a; cvt.rn.f16x2.e4m3x2 $1, b; }",
            "=r,=r,r", [x], dtype=tl.float16, is_pure=False, pack=4,
        )  # fmt: skip
    return cast(x, kind)
