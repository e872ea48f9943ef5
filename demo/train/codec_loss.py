"""What the codec is trained to reduce: log-mel distance at six resolutions, code distances, adversarial terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from snac.vq import ResidualVectorQuantize, VectorQuantize
from torch import Tensor, nn
from torch.nn import functional

RATE = 24_000
RESOLUTIONS = ((64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # window, mel bands
FLOOR = 1e-5
SPEECH_BAND = 8_000.0  # Hz; what lies above carries no words and counts half


def spectrum(x: Tensor, window: Tensor) -> Tensor:
    """Complex STFT [batch, frames, bins] of x [batch, time], hop a quarter of the window, mirrored edges."""
    hop = len(window) // 4
    padded = functional.pad(x.unsqueeze(1), (2 * hop, 2 * hop), mode="reflect").squeeze(1)
    hops = padded.unflatten(1, (-1, hop))
    frames = torch.cat([hops[:, i : hops.shape[1] - 3 + i] for i in range(4)], dim=2)
    return torch.fft.rfft(frames * window)


def _mel(hz: Tensor) -> Tensor:
    """Slaney's scale: linear to 1 kHz, logarithmic above."""
    return torch.where(hz < 1000, hz * 3 / 200, 15 + torch.log(hz.clamp(min=1) / 1000) * (27 / torch.tensor(6.4).log()))


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * (torch.tensor(6.4).log() / 27)))


def mel_bands(window: int, bands: int) -> tuple[Tensor, Tensor]:
    """Triangles [bins, bands] of equal area, and their centres in Hz."""
    edges = _hertz(torch.linspace(0, float(_mel(torch.tensor(RATE / 2.0))), bands + 2, dtype=torch.float64))
    bins = torch.linspace(0, RATE / 2, window // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    area = 2 / (edges[2:] - edges[:-2])
    return (torch.minimum(rising, falling).clamp(min=0) * area).float(), edges[1:-1].float()


class MelLoss(nn.Module):
    """Sum over resolutions of the mean distance of log10 mel magnitudes."""

    def __init__(self, resolutions: tuple[tuple[int, int], ...] = RESOLUTIONS) -> None:
        super().__init__()
        self.sizes = [window for window, _ in resolutions]
        for window, bands in resolutions:
            triangles, centres = mel_bands(window, bands)
            weights = torch.where(centres > SPEECH_BAND, 0.5, 1.0)
            self.register_buffer(f"window{window}", torch.hann_window(window))
            self.register_buffer(f"bands{window}", triangles)
            self.register_buffer(f"weights{window}", weights / weights.mean())

    def log_mel(self, x: Tensor, size: int) -> Tensor:
        magnitude = spectrum(x, getattr(self, f"window{size}")).abs()
        return (magnitude @ getattr(self, f"bands{size}")).clamp(min=FLOOR).log10()

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """fake and real [batch, time]."""
        total = fake.new_zeros(())
        for size in self.sizes:
            distance = (self.log_mel(fake, size) - self.log_mel(real, size)).abs()
            total = total + (distance * getattr(self, f"weights{size}")).mean()
        return total


@dataclass(frozen=True)
class Quantised:
    """What the quantisers made of a batch of latents."""

    z: Tensor  # [batch, channels, time], with a straight-through gradient
    codes: list[Tensor]  # by codebook, [tokens]
    latents: list[Tensor]  # by codebook, [tokens, 8], before rounding to a code
    commitment: Tensor  # pulls latents towards their codes
    codebook: Tensor  # pulls codes towards their latents


def nearest(latents: Tensor, codebook: Tensor) -> Tensor:
    """The code [tokens] whose direction is nearest to each latent's."""
    return (functional.normalize(latents) @ functional.normalize(codebook).t()).argmax(1)


def stretch(x: Tensor, times: int) -> Tensor:
    """repeat_interleave over time that never asks the device for a size."""
    return x if times == 1 else x.unsqueeze(-1).expand(-1, -1, -1, times).flatten(2)


def _quantise_one(level: VectorQuantize, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    pooled = functional.avg_pool1d(z, level.stride, level.stride) if level.stride > 1 else z
    encoded = level.in_proj(pooled)
    latents = encoded.transpose(1, 2).flatten(0, 1)
    codes = nearest(latents.detach(), level.codebook.weight.detach())
    rounded = functional.embedding(codes, level.codebook.weight)
    through = encoded + (rounded.unflatten(0, (len(z), -1)).transpose(1, 2) - encoded).detach()
    commitment = functional.mse_loss(latents, rounded.detach())
    codebook = functional.mse_loss(latents.detach(), rounded)
    return stretch(level.out_proj(through), level.stride), codes, latents, commitment, codebook


def quantise(quantizer: ResidualVectorQuantize, z: Tensor) -> Quantised:
    """snac's residual quantisation, with the two losses that snac leaves out."""
    total, codes, latents = torch.zeros_like(z), [], []
    commitment, codebook = z.new_zeros(()), z.new_zeros(())
    for level in quantizer.quantizers:
        part, code, latent, committed, drawn = _quantise_one(level, z - total)
        total, commitment, codebook = total + part, commitment + committed, codebook + drawn
        codes.append(code)
        latents.append(latent)
    return Quantised(total, codes, latents, commitment, codebook)


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Least squares: real towards one, fake towards zero; summed over the discriminators' scores."""
    return sum((1 - r.float()).square().mean() + f.float().square().mean() for r, f in zip(real, fake, strict=True))


def adversarial_loss(fake: list[Tensor]) -> Tensor:
    return sum((1 - f.float()).square().mean() for f in fake)


def feature_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean distance of the discriminators' features, summed over layers."""
    return sum((f - r.detach()).abs().mean(dtype=torch.float32) for r, f in zip(real, fake, strict=True))
