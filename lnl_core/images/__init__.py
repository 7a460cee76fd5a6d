"""Encoded images to tensors: decoding with reasons, stores that fit in memory or do not, batched augmentation."""
