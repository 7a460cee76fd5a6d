"""Noise types, for benchmarks: one file each. True labels in, noisy labels out, with a protocol card."""

from lnl_core.noise.source import NoiseFunction
from lnl_core.registry import Registry

NOISE_TYPES: Registry[NoiseFunction] = Registry("noise type", "lnl_core.noise")
