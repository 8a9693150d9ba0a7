"""Vocal separation: transform, chunks and blending, with small networks in the place of Kim_Vocal_2."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hallo2.vocals import VocalSeparator

CHUNK = 261_120
STEP = 195_840


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Saves networks with Kim_Vocal_2's shapes; gives their paths."""
    folder = tmp_path_factory.mktemp("networks")

    def save(name, nodes, initializers=(), shape=("batch_size", 4, 3072, 256)):
        sides = [helper.make_tensor_value_info(side, TensorProto.FLOAT, shape) for side in ("input", "output")]
        graph = helper.make_graph(nodes, name, sides[:1], sides[1:], list(initializers))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
        return folder / f"{name}.onnx"

    return save


@pytest.fixture(scope="module")
def identity(networks):
    return VocalSeparator(networks("identity", [helper.make_node("Identity", ["input"], ["output"])]))


@pytest.fixture(scope="module")
def low_pass(networks):
    mask = (np.arange(3072) < 1536).astype(np.float32).reshape(1, 1, 3072, 1)
    node = helper.make_node("Mul", ["input", "mask"], ["output"])
    return VocalSeparator(networks("low_pass", [node], [numpy_helper.from_array(mask, "mask")]))


@pytest.fixture(scope="module")
def bent(networks):
    """A network that is not linear, and treats the four channels differently."""
    gain = np.array([0.5, 1, 2, 4], np.float32).reshape(1, 4, 1, 1)
    nodes = [helper.make_node("Mul", ["input", "gain"], ["loud"]), helper.make_node("Tanh", ["loud"], ["output"])]
    return VocalSeparator(networks("bent", nodes, [numpy_helper.from_array(gain, "gain")]))


def tones(samples, *frequencies):
    """Two channels of tones that fade in and out over half a second, so that they have no other frequencies."""
    time = torch.arange(samples, dtype=torch.float64)
    left, right = (sum(torch.sin(time * f * shift / 44100 * math.tau) for f in frequencies) for shift in (1, 1.01))
    edge = torch.minimum(time, samples - time).clamp(max=22050) / 22050
    return (0.3 * torch.stack([left, -0.5 * right]) * torch.sin(edge * math.pi / 2) ** 4).float()


def hiss(samples):
    return 0.2 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("samples", [100_000, CHUNK, 3 * STEP + 1, 600_000])
def test_identity_gives_the_sound_back(identity, samples):
    mix = tones(samples, 110, 440, 3000, 12_000)
    vocals = identity(mix)
    assert vocals.shape == mix.shape
    assert vocals.dtype == torch.float32
    assert (vocals / 1.009 - mix).abs().max() < 1e-4


def test_upper_half_is_filtered_out(low_pass):
    # The middle of 3072 bins lies at 8.82 kHz.
    low, high = tones(300_000, 300, 5000, 8500), tones(300_000, 9200, 15_000)
    assert (low_pass(low + high) / 1.009 - low).abs().max() < 1e-4


def test_above_the_bins_nothing_is_left(identity):
    assert identity(tones(300_000, 18_500, 20_000)).abs().max() < 1e-4


@pytest.mark.parametrize("samples", [1, 1000, 300_000])
def test_silence_stays_silence(identity, samples):
    assert torch.equal(identity(torch.zeros(2, samples)), torch.zeros(2, samples))


def test_one_sample(identity):
    # Of a click, what lies in the 3069 bins that the network sees is left.
    expected = 1.009 * 2 * 3069 / 7680 * torch.tensor([[0.5], [-0.25]])
    assert torch.allclose(identity(torch.tensor([[0.5], [-0.25]])), expected, atol=1e-6)


def test_no_samples(identity):
    assert identity(torch.zeros(2, 0)).shape == (2, 0)


def separated_as_a_whole(separator, mix):
    """The published procedure, with everything in memory."""
    trim, samples = 3840, mix.shape[1]
    usable = CHUNK - 2 * trim
    mixture = np.pad(mix.numpy(), ((0, 0), (trim, usable + trim - samples % usable)))
    result, weights = np.zeros(mixture.shape), np.zeros(mixture.shape[1])
    for start in range(0, mixture.shape[1], STEP):
        part = mixture[:, start : start + CHUNK]
        length = part.shape[1]
        padded = torch.from_numpy(np.pad(part, ((0, 0), (0, CHUNK - length))))
        result[:, start : start + length] += separator._vocals(padded).numpy()[:, :length] * np.hanning(length)
        weights[start : start + length] += np.hanning(length)
    return 1.009 * result[:, trim : trim + samples] / weights[trim : trim + samples]


LENGTHS = [1, 1000, STEP - 3840, STEP, CHUNK - 3840, CHUNK - 3839, CHUNK, 2 * 253_440, 3 * STEP + CHUNK + 1]


@pytest.mark.parametrize("samples", LENGTHS)
def test_chunks_are_blended_as_published(bent, samples):
    mix = hiss(samples)
    vocals = bent(mix)
    assert vocals.shape == mix.shape
    assert np.abs(vocals.numpy() - separated_as_a_whole(bent, mix)).max() < 1e-5


@pytest.mark.parametrize("size", [10_007, CHUNK, 400_000])
def test_stream_equals_the_whole(bent, size):
    mix = hiss(3 * STEP + 5)
    pieces = (mix[:, first : first + size] for first in range(0, mix.shape[1], size))
    assert torch.equal(torch.cat(list(bent.stream(pieces)), dim=1), bent(mix))


def test_stream_gives_vocals_as_soon_as_it_can(identity):
    asked = []

    def pieces():
        for number in range(40):
            asked.append(number)
            yield torch.zeros(2, 20_000)

    vocals = identity.stream(pieces())
    assert next(vocals).shape == (2, STEP - 3840)
    assert len(asked) == math.ceil((CHUNK - 3840) / 20_000)
    assert next(vocals).shape == (2, STEP)
    assert len(asked) == math.ceil((CHUNK + STEP - 3840) / 20_000)


def test_mono_is_refused(identity):
    for wrong in (torch.zeros(1, 1000), torch.zeros(1000), torch.zeros(1000, 2)):
        with pytest.raises(ValueError, match=r"where \(2, samples\) is needed"):
            identity(wrong)


def test_wrong_model_files_are_named(networks, tmp_path, capfd):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx is missing"):
        VocalSeparator(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("no network at all")
    with pytest.raises(ValueError, match=r"text\.onnx is no ONNX network"):
        VocalSeparator(tmp_path / "text.onnx")
    nodes = [helper.make_node("Identity", ["input"], ["output"])]
    with pytest.raises(ValueError, match=r"other\.onnx is not Kim_Vocal_2\.onnx: it takes tensors of \[\[4, 2048, 256"):
        VocalSeparator(networks("other", nodes, shape=(1, 4, 2048, 256)))
    with pytest.raises(ValueError, match="onnxruntime has no NoSuchProvider here, only"):
        VocalSeparator(networks("good", nodes), providers=["NoSuchProvider"])
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_cannot_be_loaded_is_not_replaced_by_the_cpu(networks, monkeypatch):
    available = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    file = networks("sound", [helper.make_node("Identity", ["input"], ["output"])])
    with (
        pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available"),
        pytest.raises(ValueError, match="onnxruntime cannot load CUDAExecutionProvider here: install"),
    ):
        VocalSeparator(file, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
