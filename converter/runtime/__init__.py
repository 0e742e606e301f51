"""Decoders at work: onnxruntime around exported and converted graphs.

from converter.runtime import Decoder
for frames in Decoder("wan.json").stream(latent): ...
"""

from converter.runtime.decoder import Decoder

__all__ = ["Decoder"]
