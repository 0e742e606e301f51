"""What export-vae refuses, by the command: one line on stderr, exit code 2, nothing written."""

import json
import resource
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from converter.cli.export_vae import main
from tests.patience import PATIENCE
from tests.small_decoders import WAN_2_1, wan
from tests.small_families import LTX2_VIDEO


def refused(tmp_path, source, *options):
    out = tmp_path / "out"
    out.mkdir()
    run = CliRunner().invoke(main, [str(source), str(out / "o.onnx"), *map(str, options)])
    assert run.exit_code == 2
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert not list(out.iterdir())
    return run.stderr


def folder(tmp_path, config):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    return source


WAN = WAN_2_1 | {"_class_name": "AutoencoderKLWan"}


def test_an_unknown_class(tmp_path):
    source = folder(tmp_path, {"_class_name": "AutoencoderKLNobody"})
    assert "of class AutoencoderKLNobody, which is no autoencoder" in refused(tmp_path, source)


def test_a_config_without_weights(tmp_path):
    sentence = refused(tmp_path, folder(tmp_path, WAN))
    assert "has a config.json but no" in sentence
    assert "--seed 0" in sentence


def test_all_missing_and_misshapen_weights_are_listed(tmp_path):
    source = folder(tmp_path, WAN)
    weights = {name: w.contiguous() for name, w in wan(WAN_2_1).state_dict().items()}
    del weights["decoder.conv_in.bias"], weights["decoder.norm_out.gamma"]
    weights["post_quant_conv.bias"] = torch.zeros(7)
    save_file(weights, source / "diffusion_pytorch_model.safetensors")
    sentence = refused(tmp_path, source)
    assert "in 3 tensors" in sentence
    assert "decoder.conv_in.bias is missing" in sentence
    assert "decoder.norm_out.gamma is missing" in sentence
    assert "post_quant_conv.bias is 7 where 4 is needed" in sentence


def test_a_shard_that_is_not_there(tmp_path):
    source = folder(tmp_path, WAN)
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    path = source / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    sentence = refused(tmp_path, source)
    assert "one.safetensors" in sentence
    assert "two.safetensors" in sentence


@pytest.mark.parametrize(
    ("latent", "reason"),
    [
        ("1x4x0x4x4", "T is 0, but must be at least 1"),
        ("1x5x1x4x4", "C is 5, but this decoder's latents have 4 channels"),
        ("1x4x1x1x4", "H is 1, but must be at least 2"),
        ("1x4x1x4", "has 4 sizes; give five"),
        ("big", "is not a shape"),
    ],
)
def test_a_latent_that_the_family_cannot_take(tmp_path, latent, reason):
    source = folder(tmp_path, LTX2_VIDEO | {"_class_name": "AutoencoderKLLTX2Video"})
    assert reason in refused(tmp_path, source, "--seed", 0, "--latent", latent)


def test_a_pickle(tmp_path):
    torch.save({"a": print}, tmp_path / "a.pth")
    assert "would run code of the file: it is refused" in refused(tmp_path, tmp_path / "a.pth")


def test_a_text_named_as_weights(tmp_path):
    (tmp_path / "a.pth").write_text("hello")
    assert "a.pth is no file of PyTorch weights" in refused(tmp_path, tmp_path / "a.pth")


def test_exhausted_memory(tmp_path):
    limit = 2 << 30  # Of addresses. The weights alone need 3.5 GB.
    command = [sys.executable, "-m", "converter.cli.export_vae", "hunyuan-video-1.5"]
    run = subprocess.run(
        [*command, str(tmp_path / "o.onnx"), "--seed", "0"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert run.returncode == 2
    assert run.stderr == "error: out of memory; nothing was written.\n"
    assert not list(tmp_path.iterdir())
