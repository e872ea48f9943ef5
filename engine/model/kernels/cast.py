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
