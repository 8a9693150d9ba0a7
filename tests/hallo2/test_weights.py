"""The published bundle is read strictly: what is missing, too much, misshapen or not finite is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden import load, seeded
from safetensors.torch import load_file, save_file
from tiny_networks import run, tiny_networks, tiny_vae
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hallo2 import Hallo2Pipeline
from hallo2.weights import WeightsError, load_networks, load_vae, load_wav2vec

NET = "hallo2/net.pth"
VAE = "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"
WAV2VEC = "wav2vec/wav2vec2-base-960h/model.safetensors"
BIAS = "denoising_unet.conv_in.bias"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle in the layout and with the key names of the published one."""
    (tmp_path / "hallo2").mkdir()
    torch.save(tiny_networks().state_dict(), tmp_path / NET)
    vae, recogniser = tiny_vae(), tiny_recogniser()
    vae.save_config(tmp_path / "sd-vae-ft-mse")
    save_file(old_attention_names(vae.state_dict()), tmp_path / VAE)
    recogniser.config.save_pretrained(tmp_path / "wav2vec/wav2vec2-base-960h")
    save_file(old_norm_names(recogniser.state_dict()), tmp_path / WAV2VEC)
    return tmp_path


def tiny_recogniser() -> Wav2Vec2ForCTC:
    config = {**load("wav2vec")[0]["config"], "hidden_size": 16, "num_attention_heads": 4}
    recogniser = Wav2Vec2ForCTC(Wav2Vec2Config(**config))
    seeded.fill(recogniser)
    return recogniser.eval()


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    if path.suffix == ".pth":
        torch.save(change(torch.load(path, weights_only=True)), path)
    else:
        save_file(change(load_file(path)), path)


def old_attention_names(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in names.items():
        stored = {key.replace(new, old): value for key, value in stored.items()}
    assert sum(".proj_attn." in key for key in stored) == 4
    return stored


def old_norm_names(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, old in names.items():
        assert any(key.endswith(new) for key in stored)
        stored = {key.replace(new, old): value for key, value in stored.items()}
    return stored


def test_a_bundle_becomes_a_pipeline(bundle: Path) -> None:
    pipeline = Hallo2Pipeline.from_pretrained(bundle, device="cpu", dtype=torch.float32)
    assert pipeline.networks.config == tiny_networks().config
    assert torch.equal(next(run(pipeline)).frames, next(run(Hallo2Pipeline(tiny_networks(), tiny_vae()))).frames)


def test_weights_keep_the_precision_of_the_file_or_take_that_asked_for(bundle: Path) -> None:
    rewrite(bundle / NET, lambda stored: {key: value.half() for key, value in stored.items()})
    assert {value.dtype for value in load_networks(bundle).state_dict().values()} == {torch.float16}
    pipeline = Hallo2Pipeline.from_pretrained(bundle, device="cpu", dtype=torch.bfloat16)
    assert {value.dtype for value in pipeline.networks.state_dict().values()} == {torch.bfloat16}
    assert {value.dtype for value in pipeline.vae.state_dict().values()} == {torch.bfloat16}


def test_the_speech_encoder_is_that_of_the_recogniser(bundle: Path) -> None:
    model = load_wav2vec(bundle)
    assert not model.training
    waveform = seeded.seeded_tensor("waveform", (1, 8000))
    expected = tiny_recogniser().wav2vec2(waveform)
    assert torch.equal(model(waveform).last_hidden_state, expected.last_hidden_state)


def without(key: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda stored: {name: value for name, value in stored.items() if name != key}


def with_value(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda stored: {**stored, key: value}


MISTAKES = [
    (NET, without(BIAS), f"lacks {BIAS}"),
    (NET, with_value("foo", torch.zeros(1)), "has weights that the network does not know: foo"),
    (NET, with_value(BIAS, torch.zeros(3)), f"has {BIAS} in the shape (3,), not (32,)"),
    (NET, with_value(BIAS, torch.full((32,), torch.nan)), f"has numbers that are not finite in {BIAS}"),
    (NET, with_value(BIAS, torch.full((32,), torch.inf)), f"has numbers that are not finite in {BIAS}"),
    (VAE, without("quant_conv.bias"), "lacks quant_conv.bias"),
    (VAE, with_value("foo", torch.zeros(1)), "has weights that the network does not know: foo"),
    (
        VAE,
        with_value("quant_conv.bias", torch.full((8,), torch.nan)),
        "has numbers that are not finite in quant_conv.bias",
    ),
    (WAV2VEC, without("wav2vec2.encoder.layer_norm.bias"), "lacks encoder.layer_norm.bias"),
    (WAV2VEC, with_value("foo", torch.zeros(1)), "has weights that the network does not know: foo"),
]


@pytest.mark.parametrize(("file", "change", "mistake"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_name_the_key(
    bundle: Path, file: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], mistake: str
) -> None:
    rewrite(bundle / file, change)
    with pytest.raises(WeightsError) as caught:
        load_bundle(bundle)
    assert str(caught.value) == f"{bundle / file} {mistake}"


def load_bundle(bundle: Path) -> None:
    load_networks(bundle)
    load_vae(bundle)
    load_wav2vec(bundle)


@pytest.mark.parametrize(
    "file",
    [NET, VAE, WAV2VEC, "sd-vae-ft-mse/config.json", "wav2vec/wav2vec2-base-960h/config.json"],
)
def test_a_missing_file_is_named_with_its_cure(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    with pytest.raises(WeightsError) as caught:
        load_bundle(bundle)
    assert str(caught.value) == f"{bundle / file} is missing: `atenea models download` fetches it"


@pytest.mark.parametrize("file", [NET, VAE, WAV2VEC])
def test_a_file_that_was_cut_off_is_damaged(bundle: Path, file: str) -> None:
    data = (bundle / file).read_bytes()
    (bundle / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError) as caught:
        load_bundle(bundle)
    assert str(caught.value).startswith(f"{bundle / file} is damaged: ")
    assert "\n" not in str(caught.value)


class Trap:
    """What a hostile checkpoint would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(bundle: Path) -> None:
    sprung = bundle / "sprung"
    torch.save({"weight": Trap(sprung)}, bundle / NET)
    with pytest.raises(WeightsError, match="is no checkpoint of tensors alone, and nothing else is read"):
        load_networks(bundle)
    (bundle / NET).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(WeightsError):
        load_networks(bundle)
    assert not sprung.exists()


def test_weights_of_another_model_are_refused(bundle: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, bundle / NET)
    with pytest.raises(WeightsError, match="is not Hallo2's"):
        load_networks(bundle)
    torch.save([torch.zeros(3)], bundle / NET)
    with pytest.raises(WeightsError, match="is no checkpoint of tensors"):
        load_networks(bundle)


def test_the_number_of_audio_layers_is_the_encoders(bundle: Path) -> None:
    config = bundle / "wav2vec/wav2vec2-base-960h/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 6}))
    assert load_networks(bundle).config.audio_blocks == 6
