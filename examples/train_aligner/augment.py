"""Recording conditions made on the GPU, from clean speech."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

RATE = 16000


def uniform(x: Tensor, low: float, high: float) -> Tensor:
    """(B, 1) random numbers, a row each."""
    return torch.empty(len(x), 1, device=x.device).uniform_(low, high)


def sometimes(x: Tensor, chance: float) -> Tensor:
    """(B, 1) booleans."""
    return torch.rand(len(x), 1, device=x.device) < chance


def resampled(x: Tensor, samples: int) -> Tensor:
    """(B, S) played faster or slower, to (B, samples), through its spectrum."""
    spectrum = torch.fft.rfft(x) * (samples / x.shape[1])
    size = samples // 2 + 1
    spectrum = (
        spectrum[:, :size]
        if spectrum.shape[1] >= size
        else functional.pad(spectrum, (0, size - spectrum.shape[1]))
    )
    return torch.fft.irfft(spectrum, n=samples)


def colouring(x: Tensor, hertz: Tensor) -> Tensor:
    """(B, F) gains: a random equaliser, a tilt, sometimes a low pass or a telephone's band."""
    bands = torch.randn(len(x), 1, 9, device=x.device) * uniform(x, 0, 5)[..., None]
    decibels = functional.interpolate(bands, size=len(hertz), mode="linear", align_corners=True)[:, 0]
    decibels = decibels + uniform(x, -6, 6) * torch.linspace(-1, 1, len(hertz), device=x.device)
    gain = 10 ** (decibels / 20)
    high = torch.where(sometimes(x, 0.2), uniform(x, 3200, 8000), 9000.0)
    gain = gain * torch.sigmoid((high - hertz) / 120)
    telephone = torch.sigmoid((hertz - 300) / 30) * torch.sigmoid((3400 - hertz) / 60)
    return torch.where(sometimes(x, 0.08), gain * telephone, gain)


def room(x: Tensor) -> Tensor:
    """(B, 9600) impulse responses: the direct sound, in two of five rooms with a decaying noise behind it."""
    t = torch.arange(9600, device=x.device) / RATE
    tail = (
        torch.randn(len(x), 9600, device=x.device) * torch.exp(-6.9 * t / uniform(x, 0.08, 0.6)) * (t > 0.002)
    )
    tail = tail / tail.pow(2).sum(1, keepdim=True).sqrt()
    tail = tail * torch.where(sometimes(x, 0.4), 10 ** (uniform(x, -22, 0) / 20), 0.0)
    tail[:, 0] = 1
    return tail


def augment(clean: Tensor) -> Tensor:
    """(B, S) speech → the same as heard in some room, over some line, beside some noise, at some level."""
    samples = clean.shape[1]
    spectrum = torch.fft.rfft(clean)
    hertz = torch.linspace(0, RATE / 2, spectrum.shape[1], device=clean.device)
    spectrum = spectrum * colouring(clean, hertz) * torch.fft.rfft(room(clean), n=samples)
    power = spectrum.abs().pow(2).mean(1, keepdim=True)
    noise = torch.view_as_complex(torch.randn(*spectrum.shape, 2, device=clean.device))
    noise = noise * (hertz.clamp(min=40) / 1000) ** -uniform(clean, 0, 1.3)
    ratio = torch.where(sometimes(clean, 0.7), uniform(clean, 6, 45), 55.0)
    spectrum = (
        spectrum + noise * (power / noise.abs().pow(2).mean(1, keepdim=True) / 10 ** (ratio / 10)).sqrt()
    )
    y = torch.fft.irfft(spectrum, n=samples)
    if len(clean) > 3:  # other people in the background
        others = (
            clean.roll(1, 0) + clean.roll(2, 0).roll(samples // 3, 1) + clean.roll(3, 0).roll(samples // 2, 1)
        )
        share = y.pow(2).mean(1, keepdim=True) / (others.pow(2).mean(1, keepdim=True) + 1e-9)
        others = others * (share / 10 ** (uniform(clean, 9, 25) / 10)).sqrt()
        y = torch.where(sometimes(clean, 0.12), y + others, y)
    limit = uniform(clean, 1.5, 4) * y.std(1, keepdim=True)
    y = torch.where(sometimes(clean, 0.06), y.clamp(-limit, limit), y)
    return y / (y.std(1, keepdim=True) + 1e-7) * 10 ** (uniform(clean, -38, -14) / 20)
