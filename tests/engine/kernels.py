"""Triton kernels in tests: on a GPU where there is one, else on the CPU in Triton's interpreter (tests/conftest.py)."""

from __future__ import annotations

import builtins
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# bf16 is the GPU's: the interpreter multiplies its bit patterns.
DTYPES = [torch.float32, torch.bfloat16] if DEVICE.type == "cuda" else [torch.float32]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
EPS = 1e-5


def prepare() -> None:
    """Before the first import of a kernel: skips where Triton is not installed."""
    pytest.importorskip("triton")
    if DEVICE.type == "cpu":
        _mend_the_interpreter()


@cache
def _mend_the_interpreter() -> None:
    _allow_tensor_bounds()
    _round_to_fp8()
    _remember_names()


def _allow_tensor_bounds() -> None:
    """Triton 3.6's interpreter gives `range` its own tensors, of one element each, which numpy 2.4 does not convert."""
    import triton.runtime.interpreter as interpreter

    def whole(*bounds: object) -> range:
        return builtins.range(*(int(b.handle.data.item()) if hasattr(b, "handle") else int(b) for b in bounds))  # type: ignore[attr-defined, call-overload]

    interpreter.range = whole  # type: ignore[attr-defined]


def _round_to_fp8() -> None:
    """Triton's interpreter loses what rounding carries into an exponent; the hardware also saturates."""
    import triton.language as tl
    import triton.runtime.interpreter as interpreter

    convert = interpreter._convert_float  # type: ignore[attr-defined]

    def rounded(array: Any, source: object, target: object, mode: object) -> Any:
        if (source, target) != (tl.float32, tl.float8e4nv):
            return convert(array, source, target, mode)
        values = torch.from_numpy(array.view("float32").copy()).clamp(-448, 448)
        return values.to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    interpreter._convert_float = rounded  # type: ignore[attr-defined]


def _remember_names() -> None:
    """A third of the interpreter's time goes into looking through its whole language at each call of a function."""
    import triton.runtime.interpreter as interpreter
    from triton.language.core import is_builtin

    @cache
    def names(part: object) -> list[str]:
        return [name for name in dir(part) if is_builtin(getattr(part, name, None))]

    def patch(part: object, *rest: object) -> None:
        for name in names(part):
            member = getattr(part, name)
            if is_builtin(member):  # not yet replaced by a function around this one
                interpreter._patch_attr(part, name, member, *rest)  # type: ignore[attr-defined]

    interpreter._patch_builtin = patch  # type: ignore[attr-defined]


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """To rounding of the actual tensor's type, relative to the largest values."""
    error = (actual.float() - expected.float()).norm() / expected.float().norm()
    assert error < TOLERANCE[actual.dtype]


def scale_of(x: Tensor) -> Tensor:
    """One over each row's root mean square, float32 [M, 1]."""
    return torch.rsqrt(x.float().square().mean(-1, keepdim=True) + EPS)


def norm_reference(x: Tensor) -> Tensor:
    return x.float() * scale_of(x)
