"""Single files of weights: under the original project's names, under diffusers', and bad ones."""

import pickle
import re
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo
from safetensors.torch import save_file

from converter.errors import UserError
from models.ltx_video import LTX_VIDEO
from models.source import open_source
from models.wan import WAN
from tests.small_decoders import decode, latent, wan

CONFIG = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}
"""The layers of Wan 2.1, by whose numbers diffusers renames its weights, with fewer channels."""

IN_BLOCK = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3"}
IN_BLOCK |= {"conv2": "residual.6", "conv_shortcut": "shortcut"}
ELSEWHERE = {"mid_block.attentions.0": "middle.1", "norm_out": "head.0", "conv_out": "head.2"}
ELSEWHERE |= {"conv_in": "conv1", "mid_block.resnets.0": "middle.0"}
ELSEWHERE |= {"mid_block.resnets.1": "middle.2", "down_blocks": "downsamples"}


def original_name(name):
    """As the weights published by Wan's authors are named."""
    if name.startswith(("quant_conv", "post_quant_conv")):
        return name.replace("post_quant_conv", "conv2").replace("quant_conv", "conv1")
    name = re.sub(
        r"up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)",
        lambda m: f"upsamples.{4 * int(m[1]) + int(m[3] or 3)}",
        name,
    )
    for ours, theirs in ELSEWHERE.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    for ours, theirs in IN_BLOCK.items():
        if "samples." in name or re.search(r"middle\.[02]", name):
            name = name.replace(f".{ours}.", f".{theirs}.")
    return name


LTX_CHANNELS = {"latent_channels": 4, "block_out_channels": [4, 8, 16, 16]}
LTX_CONFIG = LTX_VIDEO.presets["ltx-video"] | LTX_CHANNELS
LTX_CONFIG |= {"decoder_block_out_channels": LTX_CHANNELS["block_out_channels"]}
LTX_BLOCKS = {
    "encoder.down_blocks": "0 0.downsamplers.0 0.conv_out 1 1.downsamplers.0 1.conv_out "
    "2 2.downsamplers.0 3",
    "decoder.up_blocks": "- 0 1.upsamplers.0 1 2.conv_in 2.upsamplers.0 2 3.conv_in "
    "3.upsamplers.0 3",
}
"""The blocks of diffusers in the order in which LTX-Video's authors count theirs."""


def original_ltx_name(name):
    """As in the authors' file, which holds the video transformer, too."""
    for blocks, order in LTX_BLOCKS.items():
        found = {part: number for number, part in enumerate(order.split())}
        match = re.fullmatch(
            blocks + r"\.(\d(?:\.(?:(?:down|up)samplers\.0|conv_in|conv_out))?)(.*)", name
        )
        if match and match[1] in found:
            name = f"{blocks}.{found[match[1]]}{match[2]}"
    name = name.replace("encoder.mid_block", "encoder.down_blocks.9")
    name = name.replace("decoder.mid_block", "decoder.up_blocks.0")
    name = name.replace("conv_shortcut.conv", "conv_shortcut").replace("resnets", "res_blocks")
    name = name.replace("norm3.", "norm3.norm.")
    statistics = {"latents_mean": "mean-of-means", "latents_std": "std-of-means"}
    return f"vae.per_channel_statistics.{statistics[name]}" if name in statistics else f"vae.{name}"


@pytest.fixture(autouse=True)
def small_preset(monkeypatch):
    monkeypatch.setattr("models.source.FAMILIES", (replace(WAN, presets={"small": CONFIG}),))


@pytest.fixture
def vae():
    return wan(CONFIG)


def refusal(path, seed=None):
    with pytest.raises(UserError) as error:
        open_source(str(path), seed)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("original", [True, False])
def test_a_file_that_fits_a_preset(vae, tmp_path, suffix, original):
    rename = original_name if original else str
    tensors = {rename(n): w.contiguous() for n, w in vae.state_dict().items()}
    path = tmp_path / f"Wan_VAE{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    opened = open_source(str(path), None)
    z = latent(1, 4, 3, 2, 2)
    with torch.inference_mode():
        torch.testing.assert_close(opened.decoder.reference(z), decode(vae, z), rtol=0, atol=0)
    assert opened.seed is None
    assert "leave out --seed" in refusal(path, seed=1)


def test_the_autoencoder_in_the_file_of_ltx_video(tmp_path, monkeypatch):
    small = replace(LTX_VIDEO, presets={"small": LTX_CONFIG})
    monkeypatch.setattr("models.source.FAMILIES", (replace(WAN, presets={"other": CONFIG}), small))
    vae = AutoencoderKLLTXVideo(**LTX_CONFIG).eval()
    tensors = {original_ltx_name(n): w.contiguous() for n, w in vae.state_dict().items()}
    assert "vae.decoder.up_blocks.5.conv.conv.weight" in tensors
    tensors["model.diffusion_model.proj_out.weight"] = torch.zeros(4)
    save_file(tensors, tmp_path / "ltx-video.safetensors")
    opened = open_source(str(tmp_path / "ltx-video.safetensors"), None)
    assert opened.family.name == "LTX-Video"
    loaded = opened.vae.state_dict()
    assert loaded.keys() == vae.state_dict().keys()
    assert all(torch.equal(loaded[n], w) for n, w in vae.state_dict().items())


def test_half_precision_weights_below_a_key(vae, tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": vae.half().state_dict(), "epoch": 1}, path)
    assert open_source(str(path), None).vae.dtype == torch.float32


def test_a_file_that_fits_none_names_the_nearest(vae, tmp_path):
    tensors = vae.state_dict()
    del tensors["decoder.conv_in.bias"]
    torch.save(tensors, tmp_path / "a.pt")
    sentence = refusal(tmp_path / "a.pt")
    assert "fits no preset" in sentence
    assert "small lacks 1, such as decoder.conv_in.bias" in sentence


class Harmful:
    """A pickle of it would run code."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_that_would_run_code(tmp_path, capsys):
    torch.save({"a": Harmful()}, tmp_path / "a.pth")
    assert "would run code of the file: it is refused" in refusal(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Harmful()))
    assert "it is refused" in refusal(tmp_path / "b.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file(vae, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    tensors = {n: w.contiguous() for n, w in vae.state_dict().items()}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:1000])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02.", bytes(range(256)) * 4])
def test_a_file_that_is_no_pickle(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    assert re.search("is no file of PyTorch weights|is refused", refusal(tmp_path / "a.pth"))


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}])
def test_a_file_of_other_things(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert "dictionary of" in refusal(tmp_path / "a.pth")
