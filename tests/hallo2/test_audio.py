"""Speech features: the golden cases, the pieces of a long speech, and the windows that each frame hears."""

import wave
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from golden import load, relative_error, seeded
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from hallo2.audio import SpeechFeatures, WavSamples, clip_windows, frame_count, wav2vec_features

MINUTE = 60 * 16000


def small_model():
    settings, _ = load("wav2vec")
    model = Wav2Vec2Model(Wav2Vec2Config(**settings["config"]))
    seeded.fill(model, prefix="wav2vec.", salt=settings["salt"])
    return model


@pytest.fixture(scope="module")
def model():
    return small_model()


def noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.fixture(scope="module")
def long_speech():
    """130 s."""
    speech = noise(2 * MINUTE + 160_000)
    speech[MINUTE : 2 * MINUTE] = speech[MINUTE : 2 * MINUTE] * 3 + 0.2
    return speech


@pytest.fixture(scope="module")
def long_features(model, long_speech):
    return wav2vec_features(model, long_speech)


class Counted:
    """Sound that notes what is read of it."""

    def __init__(self, samples):
        self.samples = samples
        self.read = []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, span):
        self.read.append(span.start)
        return self.samples[span]


def write_wav(path, samples, rate=16000, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(samples))
    return path


@pytest.mark.parametrize("samples", load("wav2vec")[0]["lengths"])
def test_golden(model, samples):
    settings, results = load("wav2vec")
    waveform = 0.1 * seeded.seeded_tensor(f"waveform.{samples}", (samples,), settings["salt"])
    features, frames = wav2vec_features(model, waveform, clip_frames=settings["clip_frames"])
    assert frames == int(results[f"frames.{samples}"])
    assert features.dtype == torch.float32
    assert relative_error(features, results[f"features.{samples}"]) < 2e-6


@pytest.mark.parametrize(
    ("samples", "fps", "frames"),
    [(0, 25, 0), (1, 25, 1), (640, 25, 1), (641, 25, 2), (16001, 25, 26), (533, 30, 1), (534, 30, 2), (667, 24, 2)],
)
def test_frame_count(samples, fps, frames):
    assert frame_count(samples, fps) == frames


def test_frame_count_is_exact_for_hours():
    assert all(frame_count(640 * frames) == frames for frames in range(0, 1_000_000, 997))
    assert all(frame_count(640 * frames + 1) == frames + 1 for frames in range(0, 1_000_000, 997))


@pytest.mark.parametrize("fps", [24, 25, 30, 50])
def test_last_layer_at_any_rate(model, fps):
    speech = noise(16 * 16000 // fps - 3)
    features, frames = wav2vec_features(model, speech, fps)
    assert (len(features), frames) == (16, 16)
    values = Wav2Vec2FeatureExtractor()(speech.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        sound = F.interpolate(model.feature_extractor(values), size=16, mode="linear", align_corners=True)
        hidden, _ = model.feature_projection(sound.transpose(1, 2))
        last = model.encoder(hidden).last_hidden_state[0]
    assert relative_error(features[:, -1], last) < 2e-6


@pytest.mark.parametrize("fps", [24, 25, 30, 50])
@pytest.mark.parametrize("samples", [1, 399, 401, 641, 16001, MINUTE, MINUTE + 1])
def test_padded_to_whole_clips(model, samples, fps):
    features = SpeechFeatures(model, noise(samples), fps)
    assert features.frames == -(-samples * fps // 16000)
    assert len(features) == -(-features.frames // 16) * 16
    last = features[-16:]
    assert last.shape == (16, 3, 32)
    assert last.isfinite().all()


def test_one_sample_without_padding(model):
    features, frames = wav2vec_features(model, torch.ones(1), clip_frames=1)
    assert (features.shape, frames) == ((1, 3, 32), 1)
    assert features.isfinite().all()


def test_silence(model):
    assert wav2vec_features(model, torch.zeros(5000))[0].isfinite().all()


def test_model_is_put_into_evaluation_mode(model):
    other = small_model().train()
    speech = noise(20_000)
    assert torch.equal(wav2vec_features(other, speech)[0], wav2vec_features(model, speech)[0])


def test_model_is_left_without_hooks(model):
    wav2vec_features(model, noise(5000))
    assert not any(module._forward_hooks for module in model.modules())


def test_model_stays_where_it_is_when_another_device_encodes(model):
    # Nothing can be read back from the meta device, so it was there that the features were computed.
    with pytest.raises(NotImplementedError, match="meta tensor"):
        SpeechFeatures(model, noise(5000), device=torch.device("meta"))[:]
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_features_of_a_bfloat16_model(model):
    speech = noise(20_000)
    features, _ = wav2vec_features(small_model().to(torch.bfloat16), speech)
    assert features.dtype == torch.float32
    assert relative_error(features, wav2vec_features(model, speech)[0]) < 0.05


def test_pieces_are_encoded_by_themselves(model, long_speech, long_features):
    features, frames = long_features
    assert (len(features), frames) == (3264, 3250)
    assert torch.equal(features[:1500], wav2vec_features(model, long_speech[:MINUTE], clip_frames=1)[0])
    assert torch.equal(features[1500:3000], wav2vec_features(model, long_speech[MINUTE : 2 * MINUTE], clip_frames=1)[0])
    # 250 frames by themselves are padded to 264 too.
    assert torch.equal(features[3000:], wav2vec_features(model, long_speech[2 * MINUTE :], clip_frames=132)[0])


@pytest.mark.parametrize("fps", [24, 30])
def test_pieces_at_other_rates(model, long_speech, fps):
    features, frames = wav2vec_features(model, long_speech, fps, clip_frames=10 * fps)
    assert (len(features), frames) == (130 * fps, 130 * fps)
    for piece in range(3):
        part = long_speech[piece * MINUTE : (piece + 1) * MINUTE]
        alone, _ = wav2vec_features(model, part, fps, clip_frames=1)
        assert torch.equal(features[piece * 60 * fps :][: 60 * fps], alone)


def test_slices_equal_the_whole(model, long_speech, long_features):
    features = SpeechFeatures(model, long_speech)
    assert (features.frames, len(features)) == (3250, 3264)
    spans = [(1498, 1503), (2998, 3018), (0, 3), (3260, None), (None, None), (5, 5), (4000, 5000), (-20, -4), (9, 3)]
    for start, stop in spans:
        assert torch.equal(features[start:stop], long_features[0][start:stop])


def test_going_forward_reads_each_piece_once(model, long_speech, long_features):
    source = Counted(long_speech)
    features = SpeechFeatures(model, source)
    windows = list(clip_windows(features))
    assert source.read == [0, MINUTE, 2 * MINUTE]
    assert torch.equal(torch.cat(windows)[:, 2], long_features[0])


def test_two_pieces_are_kept(model, long_speech):
    source = Counted(long_speech)
    features = SpeechFeatures(model, source)
    for frame in (10, 1510, 20, 3010, 30, 1520):
        _ = features[frame : frame + 1]
    assert source.read == [0, MINUTE, 2 * MINUTE, MINUTE]


def test_starting_anywhere_reads_only_what_is_there(model, long_speech, long_features):
    source = Counted(long_speech)
    windows = clip_windows(SpeechFeatures(model, source), first_clip=190)
    assert torch.equal(next(windows)[:, 2], long_features[0][3040:3056])
    assert source.read == [2 * MINUTE]


def test_slices_hold_no_piece(model, long_speech):
    part = SpeechFeatures(model, long_speech)[:16]
    assert part.untyped_storage().nbytes() == part.nbytes


def test_wav_file(model, tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 30_011).astype("<i2")
    path = write_wav(tmp_path / "speech.wav", samples.tobytes())
    waveform = torch.from_numpy(samples.astype(np.float32) / 32768)
    assert torch.equal(WavSamples(path)[:], waveform)
    assert torch.equal(WavSamples(path)[-5:40_000], waveform[-5:])
    assert torch.equal(SpeechFeatures(model, path)[3:20], wav2vec_features(model, waveform)[0][3:20])
    assert SpeechFeatures(model, str(path)).frames == 47


def test_wrong_wav_files_are_named(model, tmp_path):
    stereo = write_wav(tmp_path / "stereo.wav", 4000, 44100, 2)
    with pytest.raises(ValueError, match=r"stereo\.wav is a WAV file with 44100 Hz, 2 channels and 16 bits"):
        SpeechFeatures(model, stereo)
    cut = write_wav(tmp_path / "cut.wav", 4000)
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.wav ends too early: its header promises 2000 samples"):
        SpeechFeatures(model, cut)
    (tmp_path / "text.wav").write_text("no sound at all, just some words")
    with pytest.raises(ValueError, match=r"text\.wav is no WAV file"):
        SpeechFeatures(model, tmp_path / "text.wav")
    (tmp_path / "empty.wav").touch()
    with pytest.raises(ValueError, match=r"empty\.wav is no WAV file with plain samples: it ends too early"):
        SpeechFeatures(model, tmp_path / "empty.wav")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        SpeechFeatures(model, tmp_path / "missing.wav")


def test_wrong_waveforms_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="not one sample"):
        wav2vec_features(model, torch.zeros(0))
    with pytest.raises(ValueError, match="not one sample"):
        SpeechFeatures(model, write_wav(tmp_path / "none.wav", 0))
    with pytest.raises(ValueError, match=r"shape \(1, 16000\)"):
        wav2vec_features(model, torch.zeros(1, 16000))
    with pytest.raises(ValueError, match="step of 2"):
        _ = SpeechFeatures(model, torch.zeros(5000))[::2]


def frame_by_frame(features, window):
    last = len(features) - 1
    around = range(-(window // 2), window // 2 + 1)
    return torch.stack(
        [torch.stack([features[min(max(i + j, 0), last)] for j in around]) for i in range(len(features))]
    )


def in_pieces(features, size):
    return (features[first : first + size] for first in range(0, len(features), size))


@pytest.mark.parametrize("window", [1, 5, 35])
@pytest.mark.parametrize("clips", [1, 2, 5])
def test_windows_are_clamped_at_the_ends(window, clips):
    features = torch.randn(clips * 16, 3, 4)
    expected = frame_by_frame(features, window)
    for source in (
        features,
        Counted(features),
        [features],
        *(in_pieces(features, size) for size in (1, 7, 16, 33, 999)),
    ):
        windows = list(clip_windows(source, window))
        assert [part.shape for part in windows] == [(16, window, 3, 4)] * clips
        assert torch.equal(torch.cat(windows), expected)


@pytest.mark.parametrize("first_clip", [0, 1, 3, 4, 6])
def test_windows_from_any_clip(first_clip):
    features = torch.randn(40, 3, 4)
    expected = frame_by_frame(features, 5)[first_clip * 10 :]
    for source in (features, *(in_pieces(features, size) for size in (1, 9, 40))):
        windows = list(clip_windows(source, clip_frames=10, first_clip=first_clip))
        assert torch.equal(torch.cat([torch.empty(0, 5, 3, 4), *windows]), expected)


def test_empty_pieces_count_for_nothing():
    features = torch.randn(16, 3, 4)
    pieces = [features[:0], features[:9], features[:0], features[9:], features[:0]]
    assert torch.equal(torch.cat(list(clip_windows(pieces))), frame_by_frame(features, 5))
    assert list(clip_windows([])) == []


@pytest.mark.parametrize("frames", [1, 17, 31, 33])
def test_parts_of_clips_are_refused(frames):
    features = torch.randn(frames, 3, 4)
    says = f"{frames} frames of features are no whole number of clips: pad them to a multiple of 16"
    with pytest.raises(ValueError, match=says):
        clip_windows(features)
    windows = clip_windows(in_pieces(features, 5))
    for _ in range(frames // 16):
        next(windows)
    with pytest.raises(ValueError, match=says):
        next(windows)


def test_even_windows_are_refused():
    with pytest.raises(ValueError, match="odd number"):
        clip_windows(torch.randn(16, 3, 4), window=4)


@pytest.mark.parametrize("size", [1, 7, 16, 50])
def test_passed_pieces_are_dropped(size):
    alive = weakref.WeakSet()

    def pieces():
        for _ in range(0, 1600, size):
            piece = torch.zeros(size, 3, 4)
            alive.add(piece)
            yield piece

    for _ in zip(range(1600 // 16), clip_windows(pieces()), strict=False):
        assert sum(len(piece) for piece in alive) <= 16 + 4 + 2 * size
