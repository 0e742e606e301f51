import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file

from converter.errors import UserError
from models import source
from models.source import open_source
from tests.small_decoders import WAN_2_1, decode, latent, wan

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    wan(WAN_2_1).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def decoded(source, seed=None):
    with torch.inference_mode():
        return open_source(str(source), seed).decoder.reference(latent(1, 4, 2, 3, 4))


def refusal(source, seed=None):
    with pytest.raises(UserError) as error:
        open_source(str(source), seed)
    return str(error.value)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_gives_the_saved_weights(folder):
    opened = open_source(str(folder), None)
    assert opened.family.name == "Wan"
    assert opened.seed is None
    assert torch.equal(decoded(folder), decode(wan(WAN_2_1), latent(1, 4, 2, 3, 4)))


def test_a_pipeline_folder_gives_its_vae(folder):
    assert torch.equal(decoded(folder.parent), decoded(folder))


def test_sharded_weights(folder, tmp_path):
    wan(WAN_2_1).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(decoded(tmp_path / "sharded"), decoded(folder))


def test_half_precision_weights_are_read_as_fp32(folder, tmp_path):
    half = wan(WAN_2_1).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    expected = decode(half.to(torch.float32), latent(1, 4, 2, 3, 4))
    assert torch.equal(decoded(tmp_path / "half"), expected)


def test_a_seed_fills_a_configuration_without_weights(folder):
    (folder / WEIGHTS).unlink()
    before = torch.get_rng_state()
    opened = open_source(str(folder), 3)
    assert opened.seed == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(decoded(folder, 3), decoded(folder, 3))
    assert not torch.equal(decoded(folder, 3), decoded(folder, 4))


def test_seeded_weights_hide_nothing(folder):
    (folder / WEIGHTS).unlink()
    clip = open_source(str(folder), 0).decoder.clip(dynamic=False)
    for name, weight in clip.named_parameters():
        assert weight.detach().std() > 0.01, name
    gamma = clip.get_parameter("decoder.norm_out.weight").detach() / 4**0.5
    assert gamma.mean() == pytest.approx(1, abs=0.2)
    # Upstream's bound is 1 / sqrt(fan in), of 4 channels and 27 taps.
    last = clip.get_parameter("decoder.conv_out.weight").detach()
    assert last.abs().max() == pytest.approx(0.5 * (4 * 27) ** -0.5, rel=0.05)
    video = decoded(folder, 0)
    assert 0.05 < video.std() < 0.5
    assert video.abs().max() < 1


def test_a_preset_needs_a_seed():
    assert "wan2.1 is a published configuration without weights: give --seed 0" in refusal("wan2.1")


def test_an_unknown_name_lists_the_presets():
    sentence = refusal("wan3")
    assert "wan3 is no folder, no weights file" in sentence
    assert "wan2.1, wan2.2-ti2v" in sentence


def test_a_folder_without_config(tmp_path):
    assert "config.json does not exist" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "does not name its class under _class_name; known are AutoencoderKLWan"),
        ('{"_class_name": "Unknown"}', "is of class Unknown, which is no autoencoder of diffusers"),
    ],
)
def test_a_config_that_is_none(tmp_path, content, complaint):
    (tmp_path / "config.json").write_text(content)
    sentence = refusal(tmp_path)
    assert complaint in sentence
    assert str(tmp_path / "config.json") in sentence


def test_a_config_that_upstream_refuses(folder):
    edit_config(folder, dim_mult="wide")
    assert "config.json does not describe an AutoencoderKLWan: TypeError" in refusal(folder)


def test_a_config_without_weights_offers_a_seed(folder):
    (folder / WEIGHTS).unlink()
    sentence = refusal(folder)
    assert f"no {WEIGHTS}" in sentence
    assert "--seed 0" in sentence


def test_weights_and_a_seed_contradict(folder):
    assert "has weights: leave out --seed" in refusal(folder, 0)


def test_every_missing_or_misshaped_tensor_is_listed(folder):
    edit_config(folder, z_dim=6, base_dim=8)
    with torch.device("meta"):
        needed = AutoencoderKLWan(**WAN_2_1 | {"z_dim": 6, "base_dim": 8}).state_dict()
    stored = wan(WAN_2_1).state_dict()
    wrong = [name for name, tensor in needed.items() if tensor.shape != stored[name].shape]
    sentence = refusal(folder)
    assert (
        f"do not fit AutoencoderKLWan as its config.json describes it, in {len(wrong)}" in sentence
    )
    assert "decoder.conv_in.weight is 8x4x3x3x3 where 16x6x3x3x3 is needed" in sentence
    assert [line.split()[0] for line in sentence.splitlines()[1:]] == wrong


def test_missing_tensors_are_listed(folder):
    edit_config(folder, num_res_blocks=1)
    sentence = refusal(folder)
    assert "decoder.up_blocks.0.resnets.1.conv1.bias is missing (8)" in sentence
    assert sentence.count("is missing") > 10


def test_truncated_weights(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])
    assert f"{WEIGHTS} is not a safetensors file, or is truncated" in refusal(folder)


def test_an_index_whose_shards_are_gone(folder, tmp_path):
    wan(WAN_2_1).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    gone = sorted((tmp_path / "sharded").glob("*.safetensors"))[:2]
    for shard in gone:
        shard.unlink()
    sentence = refusal(tmp_path / "sharded")
    assert all(str(shard) in sentence for shard in gone)


def test_an_index_without_a_map(folder):
    (folder / WEIGHTS).rename(folder / "other.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text("{}")
    assert "index.json has no weight_map" in refusal(folder)


def test_the_small_trained_decoder_shows_its_clip():
    """The frames are those that its training measured: of a clip, not of noise."""
    folder = Path(source.__file__).with_name("tiny_wan")
    opened = open_source("tiny-wan", None)
    assert opened.seed is None
    latent = load_file(folder / "latent.safetensors")["latent"][:, :, :2].float()
    with torch.inference_mode():
        video = opened.decoder.reference(latent)
    assert video.shape == (1, 3, 5, 176, 320)
    sky, grass = video[0, :, :, :60, 250:].mean((1, 2, 3)), video[0, :, :, 140:].mean((1, 2, 3))
    assert sky[2] > sky[0] + 0.05  # blue
    assert grass[1] > grass[0] > grass[2] + 0.3  # yellowish green
    files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in files) < 5e6
    with pytest.raises(UserError, match="leave out --seed"):
        open_source("tiny-wan", 0)
