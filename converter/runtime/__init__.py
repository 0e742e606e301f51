"""Decoders at work: onnxruntime around exported and converted graphs.

from converter.runtime import Decoder
for frames in Decoder("wan.json").stream(latent): ...
pipe.vae = DiffusersVAE("wan.json")
"""

from typing import Any

from converter.runtime.decoder import Decoder

__all__ = ["Decoder", "DiffusersVAE"]


def __getattr__(name: str) -> Any:
    """`DiffusersVAE` where it is asked for: it alone needs PyTorch and diffusers."""
    if name != "DiffusersVAE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from converter.runtime.diffusers_vae import DiffusersVAE

    return DiffusersVAE
