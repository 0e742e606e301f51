"""Conv3d as Conv2d in PyTorch itself, for pipelines that are not exported.

from converter.eager import replace_conv3d

replacement = replace_conv3d(pipe.vae)
print(replacement.count, replacement.refusals)
...
replacement.undo()

For launchers that cannot be edited, the environment does the same, see environment.py:

    PYTHONPATH=$(python -m converter.eager) CONVERT_VAE_CONV2D=1 launcher ...
"""

from __future__ import annotations

from converter.errors import UserError

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    message = "converter.eager needs PyTorch; install it with pip install 'convert-vae[export]'."
    raise UserError(message) from error

from converter.eager.environment import install_from_environment
from converter.eager.replacement import Replacement, replace_conv3d, restore_conv3d

__all__ = ["Replacement", "install_from_environment", "replace_conv3d", "restore_conv3d"]
