"""Kokoro-82M v1.0 (StyleTTS 2 with an iSTFT vocoder) in plain torch, for many utterances at a time on one GPU.

There are no masks: a batch of the first half (`Kokoro.plan`) holds utterances with the same number of phonemes, a batch
of the second (`Kokoro.speak`) ones with the same number of frames, 25 ms each. Module names are the checkpoint's.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demo.train.kokoro_weights import read_weights

RATE = 24_000
FRAME = 600  # samples a frame
MAX_PHONEMES = 510
STYLE = 128  # half of a style row is for the decoder, the other half for the prosody
N_FFT, HOP = 20, 5


class AlbertAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.dense = (nn.Linear(width, width) for _ in range(4))
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.LayerNorm(x + self.dense(mixed))


class AlbertLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = AlbertAttention(width, heads)
        self.ffn, self.ffn_output = nn.Linear(width, inner), nn.Linear(inner, width)
        self.full_layer_layer_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return self.full_layer_layer_norm(x + self.ffn_output(F.gelu(self.ffn(x), approximate="tanh")))


class Albert(nn.Module):
    """One layer used twelve times over."""

    def __init__(self, symbols: int, width: int = 768) -> None:
        super().__init__()
        tables = {"word": symbols, "position": 512, "token_type": 2}
        self.embeddings = nn.ModuleDict({f"{name}_embeddings": nn.Embedding(n, 128) for name, n in tables.items()})
        self.embeddings["LayerNorm"] = nn.LayerNorm(128, eps=1e-12)
        group = nn.ModuleDict({"albert_layers": nn.ModuleList([AlbertLayer(width, 12, 2048)])})
        self.encoder = nn.ModuleDict({"embedding_hidden_mapping_in": nn.Linear(128, width)})
        self.encoder["albert_layer_groups"] = nn.ModuleList([group])

    def forward(self, ids: Tensor) -> Tensor:
        tables = self.embeddings
        x = tables["word_embeddings"](ids) + tables["position_embeddings"].weight[: ids.shape[1]]
        x = self.encoder["embedding_hidden_mapping_in"](
            tables["LayerNorm"](x + tables["token_type_embeddings"].weight[0])
        )
        for _ in range(12):
            x = self.encoder["albert_layer_groups"][0]["albert_layers"][0](x)
        return x


class AdaIN(nn.Module):
    """Instance norm over time, then a scale and a shift that the style sets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(STYLE, channels * 2)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gamma, beta = self.fc(style).unsqueeze(-1).chunk(2, 1)
        var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        scale = (1 + gamma) * torch.rsqrt(var + 1e-5)
        return torch.addcmul(beta - mean * scale, x, scale)


class AdaLayerNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(STYLE, channels * 2)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gamma, beta = self.fc(style).unsqueeze(1).chunk(2, -1)
        return torch.addcmul(beta, F.layer_norm(x, x.shape[-1:]), 1 + gamma)


class AdaBlock(nn.Module):
    """Two convolutions beside a shortcut; may double the rate."""

    def __init__(self, inside: int, outside: int, *, double: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = AdaIN(inside), AdaIN(outside)
        self.conv1 = nn.Conv1d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv1d(outside, outside, 3, padding=1)
        self.pool = nn.ConvTranspose1d(inside, inside, 3, 2, 1, 1, groups=inside) if double else None
        self.conv1x1 = nn.Conv1d(inside, outside, 1, bias=False) if inside != outside else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        y = F.leaky_relu_(self.norm1(x, style), 0.2)
        if self.pool is not None:
            y, x = self.pool(y), x.repeat_interleave(2, -1)
        y = self.conv2(F.leaky_relu_(self.norm2(self.conv1(y), style), 0.2))
        return (y + (x if self.conv1x1 is None else self.conv1x1(x))) * 0.5**0.5


class SnakeBlock(nn.Module):
    """Three pairs of convolutions, the first of each dilated, with snake activations."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.adain1, self.adain2 = (nn.ModuleList(AdaIN(channels) for _ in range(3)) for _ in range(2))
        self.alpha1, self.alpha2 = (
            nn.ParameterList(nn.Parameter(torch.ones(1, channels, 1)) for _ in range(3)) for _ in range(2)
        )
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2) for d in (1, 3, 5)
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in range(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        for n in range(3):
            y = self.convs1[n](snake(self.adain1[n](x, style), self.alpha1[n]))
            x = x + self.convs2[n](snake(self.adain2[n](y, style), self.alpha2[n]))
        return x


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.addcmul(x, (x * alpha).sin_().square_(), alpha.reciprocal())


class DurationEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        pairs = [(lstm(512 + STYLE), AdaLayerNorm(512)) for _ in range(3)]
        self.lstms = nn.ModuleList(layer for pair in pairs for layer in pair)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        spread = style.unsqueeze(1).expand(-1, x.shape[1], -1)
        x = torch.cat([x, spread], -1)
        for rnn, norm in zip(self.lstms[::2], self.lstms[1::2], strict=True):
            x = torch.cat([norm(rnn(x)[0], style), spread], -1)
        return x


def lstm(inside: int) -> nn.LSTM:
    return nn.LSTM(inside, 256, batch_first=True, bidirectional=True)


class Prosody(nn.Module):
    """Durations of the phonemes, then the pitch and the energy of the frames (two values a frame)."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = DurationEncoder()
        self.lstm, self.shared = lstm(512 + STYLE), lstm(512 + STYLE)
        self.duration_proj = nn.ModuleDict({"linear_layer": nn.Linear(512, 50)})
        self.F0, self.N = (
            nn.ModuleList([AdaBlock(512, 512), AdaBlock(512, 256, double=True), AdaBlock(256, 256)]) for _ in range(2)
        )
        self.F0_proj, self.N_proj = nn.Conv1d(256, 1, 1), nn.Conv1d(256, 1, 1)

    def durations(self, encoded: Tensor, speed: float) -> Tensor:
        logits = self.duration_proj["linear_layer"](self.lstm(encoded)[0])
        return (logits.sigmoid().sum(-1) / speed).round().clamp(min=1).long()

    def curves(self, frames: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        pitch = energy = self.shared(frames)[0].transpose(1, 2)
        for pitch_block, energy_block in zip(self.F0, self.N, strict=True):
            pitch, energy = pitch_block(pitch, style), energy_block(energy, style)
        return self.F0_proj(pitch), self.N_proj(energy)


class ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta).transpose(1, 2)


class TextEncoder(nn.Module):
    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 512)
        self.cnn = nn.ModuleList(
            nn.Sequential(nn.Conv1d(512, 512, 5, padding=2), ChannelNorm(512), nn.LeakyReLU(0.2)) for _ in range(3)
        )
        self.lstm = lstm(512)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).transpose(1, 2)
        for block in self.cnn:
            x = block(x)
        return self.lstm(x.transpose(1, 2))[0]


class Source(nn.Module):
    """The voice's excitation: nine harmonics of the pitch where it is voiced, noise elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(9, 1)

    def forward(self, pitch: Tensor) -> Tensor:
        harmonics = torch.arange(1, 10, device=pitch.device).view(1, 9, 1)
        step = (pitch * harmonics / RATE) % 1  # turns a sample, at two values a frame
        phase = step.cumsum(-1) * (2 * torch.pi * (FRAME // 2))
        voiced = (pitch > 10).float().repeat_interleave(FRAME // 2, -1)
        sines = F.interpolate(phase, scale_factor=FRAME // 2, mode="linear").sin_() * (0.1 * voiced)
        sines += torch.randn_like(sines) * torch.where(voiced > 0, 0.003, 0.1 / 3)
        return self.l_linear(sines.transpose(1, 2)).tanh().squeeze(-1)


class Generator(nn.Module):
    """Two upsamplings (10 and 6 times), then an inverse STFT of hop 5."""

    def __init__(self) -> None:
        super().__init__()
        self.m_source = Source()
        self.noise_convs = nn.ModuleList([nn.Conv1d(22, 256, 12, 6, 3), nn.Conv1d(22, 128, 1)])
        self.noise_res = nn.ModuleList([SnakeBlock(256, 7), SnakeBlock(128, 11)])
        self.ups = nn.ModuleList([nn.ConvTranspose1d(512, 256, 20, 10, 5), nn.ConvTranspose1d(256, 128, 12, 6, 3)])
        self.resblocks = nn.ModuleList(SnakeBlock(width, k) for width in (256, 128) for k in (3, 7, 11))
        self.conv_post = nn.Conv1d(128, N_FFT + 2, 7, padding=3)

    def forward(self, x: Tensor, style: Tensor, pitch: Tensor) -> Tensor:
        window = torch.hann_window(N_FFT, device=x.device)
        spectrum = torch.stft(self.m_source(pitch), N_FFT, HOP, window=window, return_complex=True)
        source = torch.cat([spectrum.abs(), spectrum.angle()], 1)
        for n, (up, noise_conv, noise_res) in enumerate(zip(self.ups, self.noise_convs, self.noise_res, strict=True)):
            x = up(F.leaky_relu_(x, 0.1))
            if n == 1:
                x = F.pad(x, (1, 0), "reflect")
            x = x + noise_res(noise_conv(source), style)
            x = sum(block(x, style) for block in self.resblocks[3 * n : 3 * n + 3]) / 3
        size, phase = self.conv_post(F.leaky_relu_(x, 0.01)).chunk(2, 1)
        return torch.istft(torch.polar(size.exp(), phase.sin()), N_FFT, HOP, window=window)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = AdaBlock(512 + 2, 1024)
        widths = (1024, 1024, 1024, 1024, 512)
        self.decode = nn.ModuleList(
            AdaBlock(before + 66, after, double=after == 512) for before, after in pairwise(widths)
        )
        self.F0_conv, self.N_conv = (nn.Conv1d(1, 1, 3, 2, 1) for _ in range(2))
        self.asr_res = nn.Sequential(nn.Conv1d(512, 64, 1))
        self.generator = Generator()

    def forward(self, text: Tensor, pitch: Tensor, energy: Tensor, style: Tensor) -> Tensor:
        curves = [self.F0_conv(pitch), self.N_conv(energy)]
        x = self.encode(torch.cat([text, *curves], 1), style)
        beside = [self.asr_res(text), *curves]
        for block in self.decode:
            x = block(torch.cat([x, *beside], 1), style)
        return self.generator(x, style, pitch)


class Kokoro(nn.Module):
    def __init__(self, symbols: int = 178) -> None:
        super().__init__()
        self.bert, self.bert_encoder = Albert(symbols), nn.Linear(768, 512)
        self.predictor, self.text_encoder, self.decoder = Prosody(), TextEncoder(symbols), Decoder()

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> Kokoro:
        with torch.device("meta"):
            model = cls()
        model.load_state_dict(read_weights(path), assign=True)
        return model.eval().requires_grad_(False).to(device)

    def plan(self, ids: Tensor, style: Tensor, speed: float = 1.0) -> tuple[Tensor, Tensor]:
        """ids [B, T] with the 0 at both ends, style [B, 256] -> (a row of features a phoneme [B, T, 1152], frames)."""
        encoded = self.predictor.text_encoder(self.bert_encoder(self.bert(ids)), style[:, STYLE:])
        return torch.cat([encoded, self.text_encoder(ids)], -1), self.predictor.durations(encoded, speed)

    def speak(self, frames: Tensor, style: Tensor) -> Tensor:
        """frames [B, F, 1152]: each phoneme's row of `plan`, repeated for its frames -> audio [B, F x 600]."""
        encoded, text = frames.split([512 + STYLE, 512], -1)
        pitch, energy = self.predictor.curves(encoded, style[:, STYLE:])
        return self.decoder(text.transpose(1, 2), pitch, energy, style[:, :STYLE])
