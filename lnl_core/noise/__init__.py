"""Noise types, for benchmarks: one file each. True labels in, noisy labels out, with a protocol card."""

from lnl_core.noise.source import NoiseConfig, NoiseFunction
from lnl_core.registry import NOISE_TYPE, Registry

NOISE_TYPES: Registry[NoiseFunction] = Registry(NOISE_TYPE, NoiseConfig)
