"""The codec's Triton kernels against snac's own modules: values and gradients. Needs a GPU, or TRITON_INTERPRET=1."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
layers = pytest.importorskip("snac.layers")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no GPU, Triton not interpreted"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
FULL = not INTERPRETED  # the interpreter is slow: smaller shapes
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def plain_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """References in full fp32; the interpreter cannot multiply bf16 matrices, so there they are read as fp32."""
    import triton.language as tl

    from demo.train import pointwise_kernels

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if INTERPRETED:
        monkeypatch.setitem(pointwise_kernels.DOT_TYPES, torch.bfloat16, tl.float32)


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.detach().float() - theirs.detach().float()).norm() / theirs.detach().float().norm())


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """Random everything: a forgotten bias or alpha must show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.dim() == 3 else 0.0))
    return module.to(DEVICE)


def compare(run, module: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype) -> None:
    """`run(x)` against module(x), and the gradients of x and of every parameter."""
    torch.manual_seed(5)
    ours = run(x)
    torch.manual_seed(5)
    theirs = module(x)
    slope = torch.randn_like(theirs)
    wanted = [x, *module.parameters()]
    ours_grads = torch.autograd.grad(ours, wanted, slope.to(ours.dtype))
    their_grads = torch.autograd.grad(theirs, wanted, slope)
    assert error(ours, theirs) < TOLERANCE[dtype]
    for mine, other in zip(ours_grads, their_grads, strict=True):
        assert error(mine, other) < TOLERANCE[dtype]


def sound(channels: int, time: int, batch: int = 2) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(batch, channels, time, device=DEVICE, requires_grad=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_snake(dtype: torch.dtype) -> None:
    from demo.train import codec_layers

    module = filled(layers.Snake1d(3))
    compare(lambda x: codec_layers._snake(module, dtype, x), module, sound(3, 4100 if FULL else 45), dtype)


@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_depthwise(dilation: int, dtype: torch.dtype) -> None:
    from demo.train import codec_layers

    module = filled(layers.WNConv1d(3, 3, 7, padding=3 * dilation, dilation=dilation, groups=3))
    compare(lambda x: codec_layers._depthwise(module, dtype, x), module, sound(3, 4100 if FULL else 45), dtype)


@pytest.mark.parametrize(("dtype", "dilation"), [(torch.float32, 1), (torch.float32, 9), (torch.bfloat16, 3)])
@pytest.mark.parametrize("channels", [24, 128] if FULL else [24])
def test_residual_unit(channels: int, dtype: torch.dtype, dilation: int) -> None:
    from demo.train import codec_layers

    module = filled(layers.ResidualUnit(channels, dilation, groups=channels))
    numbers = codec_layers.Numbers(dtype, "ieee")
    x = sound(channels, 2500 if FULL else 40)
    compare(lambda x: codec_layers._residual_unit(module, numbers, x), module, x, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_block(dtype: torch.dtype) -> None:
    from demo.train import codec_layers

    module = filled(layers.NoiseBlock(32 if FULL else 16))
    numbers = codec_layers.Numbers(dtype, "ieee")
    x = sound(32 if FULL else 16, 2500 if FULL else 40)
    compare(lambda x: codec_layers._noise_block(module, numbers, x), module, x, dtype)


@pytest.mark.skipif(not FULL, reason="minutes in the interpreter")
def test_a_whole_codec_keeps_its_waveform() -> None:
    import snac

    from demo.train import codec_layers
    from demo.train.codec import SHAPE

    torch.manual_seed(0)
    plain = snac.SNAC(**SHAPE).cuda()
    torch.manual_seed(0)
    fast = codec_layers.accelerate(snac.SNAC(**SHAPE).cuda(), codec_layers.Numbers(torch.float32, "tf32x3"))
    x = torch.randn(2, 1, 16384, device=DEVICE) * 0.1
    z = plain.encoder(x)
    assert error(fast.encoder(x), z) < 1e-4
    torch.manual_seed(1)
    heard = plain.decoder(z)
    torch.manual_seed(1)
    assert error(fast.decoder(z), heard) < 1e-4
