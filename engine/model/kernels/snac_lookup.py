"""A frame's seven codes to its four latents: three table rows each, summed into the first layer's ring."""

# Triton's kernels are Python in form only.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.chain import begin, launched, wait
from engine.model.kernels.columns import locate
from engine.model.snac_layers import LATENTS_PER_FRAME
from engine.prompt import CODEBOOK_SLOTS, FRAME_TOKENS

# For each latent of a frame, which of the seven codes each codebook takes.
CODE_OF_LATENT = [
    [slots[latent * len(slots) // LATENTS_PER_FRAME] for slots in CODEBOOK_SLOTS] for latent in range(LATENTS_PER_FRAME)
]


@triton.jit(do_not_specialize=["rows", "target_columns"])
def _lookup(
    codes, code_of_latent, coarse, middle, fine, target, slots, starts, totals, rows, target_columns,
    LATENTS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    wait(EARLY)
    row = tl.program_id(0)
    slot, column, _ = locate(row, rows, slots, starts, totals, LATENTS)
    at = code_of_latent + row % LATENTS * 3
    frame = codes + row // LATENTS * TOKENS
    c = tl.arange(0, BLOCK)
    inside = c < WIDTH
    total = tl.load(coarse + tl.load(frame + tl.load(at)) * WIDTH + c, mask=inside)
    total += tl.load(middle + tl.load(frame + tl.load(at + 1)) * WIDTH + c, mask=inside)
    total += tl.load(fine + tl.load(frame + tl.load(at + 2)) * WIDTH + c, mask=inside)
    place = target + (slot * target_columns + column % target_columns) * WIDTH
    tl.store(place + c, total, mask=inside)


def lookup(
    codes: Tensor, code_of_latent: Tensor, tables: list[Tensor], target: Tensor,
    slots: Tensor, starts: Tensor, totals: Tensor, early: bool = False,
) -> None:  # fmt: skip
    """Codes int32 [B, 7], each within its table float32 [4096, latent], to the ring's next four columns."""
    rows = slots.shape[0] * LATENTS_PER_FRAME
    width = target.shape[2]
    _lookup[(rows,)](
        codes, code_of_latent, *tables, target, slots, starts, totals, rows, target.shape[1],
        LATENTS_PER_FRAME, FRAME_TOKENS, width, triton.next_power_of_2(width), early,
        **launched(early),
    )  # fmt: skip


def lookup_reference(codes: Tensor, tables: list[Tensor]) -> Tensor:
    """Float32 [B, 4, latent]."""
    picked = codes.long()[:, torch.tensor(CODE_OF_LATENT, device=codes.device)]
    return torch.stack([table[picked[..., book]] for book, table in enumerate(tables)]).sum(0)
