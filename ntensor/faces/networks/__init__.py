"""Encoder, decoders, discriminators, the light CNN for verification, and whole models."""

from .decoder import Decoder, UnpoolingDecoder
from .discriminator import CodeDiscriminator, Discriminator
from .encoder import ConvolutionalStack, Encoder

__all__ = [
    "CodeDiscriminator",
    "ConvolutionalStack",
    "Decoder",
    "Discriminator",
    "Encoder",
    "UnpoolingDecoder",
]
