"""Convolutional parts of the face models: encoder, decoders, discriminators, verification."""

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
