"""One training step of the codec: gradients of generator and critics, then both optimizers, each a CUDA graph on a GPU.

Between the two the caller averages `generator.reduced` and `critics.reduced` over the ranks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from snac import SNAC
from torch import Tensor, nn

from demo.train.codebooks import Broadcast, Codebooks
from demo.train.codec_loss import MelLoss, Quantised, adversarial_loss, discriminator_loss, feature_loss, quantise
from demo.train.discriminators import Discriminators
from demo.train.flat_params import FlatParams

MEL_WEIGHT, FEATURE_WEIGHT, COMMITMENT_WEIGHT = 15.0, 2.0, 0.25
CRITIC_RATE = 0.6  # of the generator's
STATS = ("mel", "codebook", "critics", "adversarial", "features")
WARM_UPS = 3


@dataclass(frozen=True)
class Plan:
    """Sizes of a step, and what it leaves alone."""

    batch: int
    crop: int
    freeze_encoder: bool = False
    small: bool = False


def capture(action: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """Runs `action` a few times, then records it; the result replays it."""
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            action()
    torch.cuda.synchronize()
    gc.collect()
    graph = torch.cuda.CUDAGraph()
    # Other threads (NCCL's, the audio pool's) may touch the device meanwhile: only this one is held to the rules.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        action()
    torch.cuda.synchronize()
    return graph.replay


class CodecStep:
    """`gradients[gan]()` and `update[gan]()` are one step on `audio`; sums of losses gather in `stats`."""

    def __init__(self, model: SNAC, plan: Plan, device: torch.device, broadcast: Broadcast) -> None:
        self.model, self.plan = model, plan
        self.discriminators = Discriminators(plan.small).to(device)
        self.mel = MelLoss().to(device)
        trained: nn.Module = model.decoder if plan.freeze_encoder else model
        statistics = model.n_codebooks * model.codebook_size
        self.generator = FlatParams(trained.parameters(), extra=statistics)
        self.critics = FlatParams(self.discriminators.parameters())
        steps = plan.crop // int(model.hop_length)
        tokens = [plan.batch * steps // stride for stride in model.vq_strides]
        self.codebooks = Codebooks(model.quantizer, self.generator, tokens, broadcast)
        self.audio = torch.zeros(plan.batch, 1, plan.crop, device=device)
        self.stats = torch.zeros(len(STATS), device=device)
        self.gradients = [lambda: self._gradients(False), lambda: self._gradients(True)]
        self.update = [lambda: self._update(False), lambda: self._update(True)]

    def _encode(self) -> Quantised:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.plan.freeze_encoder):
            return quantise(self.model.quantizer, self.model.encoder(self.audio))

    def _generate(self) -> tuple[Tensor, Quantised]:
        quantised = self._encode()
        self.codebooks.record(quantised.codes, quantised.latents)
        return self.model.decoder(quantised.z), quantised

    def _criticise(self, fake: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The critics' own gradients, and their slope at the generated audio; both with the weights before the step."""
        shown = fake.detach().requires_grad_()
        real_scores, real_features = self.discriminators(self.audio)
        fake_scores, fake_features = self.discriminators(shown)
        critics = discriminator_loss(real_scores, fake_scores)
        self.critics.collect(torch.autograd.grad(critics, self.critics.parameters, retain_graph=True))
        adversarial, features = adversarial_loss(fake_scores), feature_loss(real_features, fake_features)
        (slope,) = torch.autograd.grad(adversarial + FEATURE_WEIGHT * features, shown)
        return slope, [critics, adversarial, features]

    def _gradients(self, gan: bool) -> None:
        fake, quantised = self._generate()
        mel = self.mel(fake.squeeze(1), self.audio.squeeze(1))
        loss = MEL_WEIGHT * mel + quantised.codebook + COMMITMENT_WEIGHT * quantised.commitment
        losses = [mel, quantised.codebook]
        outputs, slopes = [loss], [torch.ones_like(loss)]
        if gan:
            slope, judged = self._criticise(fake)
            losses, outputs, slopes = losses + judged, [*outputs, fake], [*slopes, slope]
        # With a frozen encoder, parts of the quantiser have no gradient.
        found = torch.autograd.grad(outputs, self.generator.parameters, slopes, allow_unused=True)
        self.generator.collect(found)
        self.stats[: len(losses)] += torch.stack([loss.detach() for loss in losses])

    @torch.no_grad()
    def _update(self, gan: bool) -> None:
        self.codebooks.track()
        self.generator.step()
        if gan:
            self.critics.step()

    def capture(self, say: Callable[[str], None]) -> None:
        """Records all four on a GPU. Nothing may have run backward in this process before."""
        stream = torch.cuda.Stream()
        self.audio.normal_(std=0.1)
        self.gradients = [capture(action, stream) for action in self.gradients]
        say(f"gradients captured, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
        for flat in (self.generator, self.critics):
            flat.reduced.zero_()
        self.codebooks.counts.fill_(1)
        self.update = [capture(action, stream) for action in self.update]
        self.forget_warm_up()

    def forget_warm_up(self) -> None:
        self.generator.reset()
        self.critics.reset()
        self.stats.zero_()

    def set_rates(self, rate: float, critic_ramp: float, average_decay: float, code_memory: float) -> None:
        self.generator.rate.fill_(rate)
        self.critics.rate.fill_(rate * CRITIC_RATE * critic_ramp)
        self.generator.average_decay.fill_(average_decay)
        self.codebooks.learning.fill_(1 - code_memory)

    def weights(self) -> dict[str, Tensor]:
        """snac's state dict with the averaged weights, fp32 on the host."""
        named = {id(parameter): name for name, parameter in self.model.named_parameters()}
        state = self.model.state_dict()
        averages = self.generator.views(self.generator.average)
        state |= {named[id(p)]: view for p, view in zip(self.generator.parameters, averages, strict=True)}
        return {name: tensor.detach().float().cpu().clone() for name, tensor in state.items()}
