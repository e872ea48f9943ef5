"""The critics of the codec: multi-period (HiFi-GAN) and complex-STFT (EnCodec, DAC) discriminators.

Each maps audio [batch, 1, time] to (score, features); every layer runs channels-last on at least 8 channels, so that
bf16 convolutions use the matrix units and need no transposing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from demo.train.codec_loss import spectrum

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (2048, 1024, 512)
LEAST_CHANNELS = 8
Judgement = tuple[list[Tensor], list[Tensor]]
Pair = tuple[int, int]


def conv(into: int, out: int, kernel: Pair, stride: Pair = (1, 1), dilation: int = 1) -> nn.Module:
    padding = (dilation * (kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    return weight_norm(nn.Conv2d(into, out, kernel, stride, padding, (dilation, 1)))


def widen(x: Tensor) -> Tensor:
    """[batch, rows, columns, channels] -> [batch, 8, rows, columns] in channels-last memory, the new channels zero."""
    return functional.pad(x, (0, LEAST_CHANNELS - x.shape[3])).permute(0, 3, 1, 2)


class Critic(nn.Module):
    """Convolutions with leaky steps between; the last one gives the score. `first` is the first layer's convolution."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def judge(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for at, layer in enumerate(self.layers[:-1]):
            x = layer(x) if at else self.first(layer, x)
            x = functional.leaky_relu(x.contiguous(memory_format=torch.channels_last), SLOPE)
            features.append(x)
        return self.layers[-1](x), features


class PeriodCritic(Critic):
    """Sees every period-th sample as one row."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        sizes = (1, *channels)
        strides = [3] * (len(channels) - 1) + [1]
        layers = [conv(a, b, (5, 1), (s, 1)) for a, b, s in zip(sizes, channels, strides, strict=False)]
        super().__init__(*layers, conv(channels[-1], 1, (3, 1)))
        self.period = period

    @staticmethod
    def first(layer: nn.Conv2d, x: Tensor) -> Tensor:
        """The five taps as channels of a pointwise convolution."""
        taps = functional.pad(x, (0, 0, 2, 2)).squeeze(1).unfold(1, 5, layer.stride[0])
        weight = functional.pad(layer.weight.flatten(1), (0, LEAST_CHANNELS - 5))
        return functional.conv2d(widen(taps), weight[:, :, None, None], layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = functional.pad(x, (0, -x.shape[2] % self.period), mode="reflect")
        return self.judge(x.unflatten(2, (-1, self.period)))


class SpectrumCritic(Critic):
    """Sees the complex spectrum, its magnitudes square-rooted so that weak consonants count beside strong vowels."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__(
            conv(2, channels, (3, 9), (1, 2)),
            conv(channels, channels, (3, 9), (1, 2)),
            conv(channels, channels, (3, 9), (1, 2), dilation=2),
            conv(channels, channels, (3, 9), (1, 2), dilation=4),
            conv(channels, channels, (3, 3)),
            conv(channels, 1, (3, 3)),
        )
        self.register_buffer("window", torch.hann_window(window) * (16 / window), persistent=False)

    @staticmethod
    def first(layer: nn.Conv2d, x: Tensor) -> Tensor:
        weight = functional.pad(layer.weight, (0, 0, 0, 0, 0, LEAST_CHANNELS - layer.weight.shape[1]))
        return functional.conv2d(widen(x), weight, layer.bias, layer.stride, layer.padding, layer.dilation)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        parts = torch.view_as_real(spectrum(x.squeeze(1).float(), self.window))
        power = parts.square().sum(-1, keepdim=True)
        return self.judge(parts * (power + 1e-4).pow(-0.25))


class Discriminators(nn.Module):
    """All critics. `small` is a toy for tests."""

    def __init__(self, small: bool = False) -> None:
        super().__init__()
        periods, windows = (PERIODS[:1], WINDOWS[-1:]) if small else (PERIODS, WINDOWS)
        channels = (8, 8) if small else (32, 64, 128, 256, 256)
        self.critics = nn.ModuleList(
            [PeriodCritic(period, channels) for period in periods]
            + [SpectrumCritic(window, 8 if small else 32) for window in windows]
        )

    def forward(self, x: Tensor) -> Judgement:
        """Scores and features of audio [batch, 1, time]; bf16 convolutions on a GPU."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda, cache_enabled=False):
            judged = [critic(x) for critic in self.critics]
        return [score for score, _ in judged], [feature for _, features in judged for feature in features]
