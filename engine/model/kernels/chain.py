"""How one kernel follows another: launched early (programmatic dependent launch), it waits where it needs the results.

Every kernel of a decode step or of the codec calls `begin` first, and `wait` before it writes, and before it reads what
was not complete when its predecessor could first let it in. A kernel that skipped the wait would let its own successor
run before its predecessor has finished.
"""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def launches_early(device: torch.device) -> bool:
    """Whether the device can launch a kernel before the last one has finished (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def launched(early: bool) -> dict[str, bool]:
    """How a kernel is launched: with `early` before the last one has finished."""
    return {"launch_pdl": True} if early else {}


@triton.jit
def begin(EARLY: tl.constexpr):
    """Lets the next kernel start as soon as this one's programs all run."""
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def wait(EARLY: tl.constexpr):
    """Until everything before this kernel has been written."""
    if EARLY:
        gdc_wait()


@triton.jit
def begin_if(condition, EARLY: tl.constexpr):
    """`begin` where `condition` holds, without a branch: a loop that it stands in is still pipelined."""
    if EARLY:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $1, 0; @p griddepcontrol.launch_dependents; mov.b32 $0, 0; }",
            "=r,r", [condition.to(tl.int32)], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def prefetch(pointers):
    """Asks for the cache lines at `pointers` to be in L2; for what no kernel writes, so it may come before `wait`."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
        "=r,l",
        [pointers.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
