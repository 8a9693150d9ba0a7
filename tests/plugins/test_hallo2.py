"""The hallo2 plugin with a tiny bundle on a CPU: exact frames, renders gone on with, memory that is used up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
import torch
from face_networks import astronaut
from onnx import TensorProto, helper
from PIL import Image
from structlog.testing import capture_logs
from tiny_bundle import make_tiny_bundle

from atenea import PermanentError, TransientError
from atenea.errors import Cancelled, MistakesError
from atenea.executor import Task
from atenea.failures import failure_event
from atenea.media.audio import frame_count
from atenea.media.mux import check_video
from atenea.models.lockfile import Lock, LockedFile, write_lock
from atenea.plugin_manager import PluginManager, blaming

PLUGINS = Path(__file__).parents[2] / "plugins"
CLIP = 16 * 640
"""Samples."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def hallo2(load_plugin):
    return load_plugin("hallo2")


@pytest.fixture
def avatar(tmp_path):
    path = tmp_path / "ana.png"
    astronaut().save(path)
    return path


@pytest.fixture
def context(hallo2, make_context, bundle):
    def make(**given):
        quick = {"width": 64, "height": 64, "num_inference_steps": 1, "guidance_scale": 1.0, "device": "cpu"}
        ctx = make_context(hallo2, **{**quick, **given})
        ctx.models = bundle
        return ctx

    return make


@pytest.fixture
def render(hallo2, context, make_job, avatar):
    """Render; the video, and the context."""

    def run(wav, picture=avatar, audio_file=None, **given):
        ctx = context(**given)
        job = make_job(None if audio_file else "Hello.", avatar=picture, audio_file=audio_file)
        return hallo2.render(job, wav, ctx), ctx

    return run


class Watched:
    """Notes the progress, and cancels at a text."""

    def __init__(self, cancel_at=None):
        self.cancel_at = cancel_at
        self.told = []

    def __call__(self, fraction, text):
        self.told.append((fraction, text))
        if self.cancel_at and text.startswith(self.cancel_at):
            raise Cancelled

    @property
    def clips(self):
        """The clips that were computed."""
        found = (re.match(r"clip (\d+) of", text) for _, text in self.told)
        return sorted({int(match[1]) for match in found if match})


def shown(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(("samples", "fps"), [(1, 25), (CLIP, 25), (CLIP + 1, 25), (9_000, 30)])
def test_exact_frames(render, make_wav, samples, fps):
    video, _ = render(make_wav(samples), fps=fps)
    check_video(video, samples)
    assert shown(video) == frame_count(samples, fps)


def test_size(render, make_wav):
    video, _ = render(make_wav(1), width=128, height=128)
    with av.open(str(video)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 128)


def test_report(render, make_wav, bundle):
    _, ctx = render(make_wav(CLIP + 1), seed=7, crop=[150, 50, 135])
    seconds = ctx.report.pop("seconds_per_clip")
    assert ctx.report.pop("load_seconds") >= 0
    assert ctx.report.pop("first_clip_seconds") > 0
    model = ctx.report.pop("model")
    (warning,) = ctx.report.pop("warnings")
    assert ctx.report == {
        "seed": 7,
        "clips": 2,
        "peak_memory_gib": None,
        "fused": False,
        "fps": 25,
        "dtype": "float32",
        "device": f"{os.uname().machine} CPU",
    }
    assert seconds > 0
    assert warning == "the face takes 78% of the side of what is animated of ana.png: 50% to 70% is best"
    assert model["commit"] is None
    assert model["bytes"]["hallo2/net.pth"] == (bundle / "hallo2/net.pth").stat().st_size


def test_report_names_what_was_downloaded(render, make_wav, bundle):
    digest = "ab" * 32
    write_lock(bundle, Lock(repository="r", commit="c", files={"hallo2/net.pth": LockedFile(size=1, sha256=digest)}))
    try:
        _, ctx = render(make_wav(1))
    finally:
        (bundle / "models.lock.json").unlink()
    assert ctx.report["model"] == {"commit": "c", "sha256": {"hallo2/net.pth": digest}}


def test_libx264_takes_the_place_of_an_encoder_that_is_not_there(render, make_wav, capsys):
    path, _ = render(make_wav(10), encoder="h264_nvenc")
    assert "this GPU or its driver has no such encoder; libx264 takes its place" in capsys.readouterr().out
    with av.open(path) as video:
        assert video.streams.video[0].codec_context.name == "h264"


def test_progress_with_each_step(render, make_wav):
    watched = Watched()
    render(make_wav(CLIP + 1), num_inference_steps=2, on_progress=watched)
    steps = [(fraction, text) for fraction, text in watched.told if text.startswith("clip")]
    assert [fraction for fraction, _ in steps] == [0.25, 0.5, 0.75, 1.0]
    assert steps[2][1] == "clip 2 of 2, step 1 of 2"


# What is refused


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"width": 128}, "render: width and height must be equal, not 128 and 512"),
        ({"device": "gpu"}, 'render.device: should be "cuda", "cuda:1" for the second GPU, or "cpu", but is \'gpu\''),
        ({"models": "models"}, "render.models: should be an absolute path, but is 'models'"),
        ({"guidance": 2}, "render.guidance: unknown key; did you mean 'guidance_scale'?"),
        ({"crop": "middle"}, 'render.crop: should be "face", "none", or left, top and side of a square'),
        ({"crop": [1, 2]}, 'render.crop: should be "face", "none", or left, top and side of a square'),
        ({"crop": [0, 0, 0]}, 'render.crop: should be "face", "none", or left, top and side of a square'),
        ({"face_box": [1, 2, 3]}, "render.face_box.3: is missing"),
        ({"face_box": [9, 2, 3, 4]}, "render: face_box must be left, top, right and bottom of a face"),
        ({"fps": 25.5}, "render.fps: should be a valid integer"),
        ({"decode_batch_size": 17}, "render.decode_batch_size: should be less than or equal to 16"),
    ],
)
def test_impossible_options(given, mistake):
    with pytest.raises(MistakesError) as failed:
        PluginManager(PLUGINS).options("hallo2", given, prefix="render")
    assert len(failed.value.mistakes) == 1
    assert failed.value.mistakes[0].startswith(mistake)


@pytest.mark.parametrize("crop", ["face", "none", [160, 40, 128]])
def test_possible_crops(crop):
    options = PluginManager(PLUGINS).options("hallo2", {"crop": crop, "face_box": [1, 2.5, 3, 4]})
    assert options.model_dump(mode="json")["crop"] == crop


def test_no_avatar(hallo2, context, make_job):
    assert hallo2.check(make_job("x"), context()) == [
        "an avatar is needed: set avatar, or put a picture of the same name beside the text"
    ]


def test_places_outside_of_the_picture(hallo2, context, make_job, tmp_path):
    picture = Image.new("RGB", (300, 200))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "tall.jpg", exif=exif)
    job = make_job("x", avatar=tmp_path / "tall.jpg")
    assert hallo2.check(job, context(crop=[0, 100, 200], face_box=[0, 0, 200, 300])) == []
    assert hallo2.check(job, context(crop=[0, 101, 200])) == [
        "crop ends at 200, 301, and tall.jpg has but 200 x 300 pixels"
    ]
    assert hallo2.check(job, context(face_box=[0, 0, 200.5, 300])) == [
        "face_box ends at 200.5, 300, and tall.jpg has but 200 x 300 pixels"
    ]
    (tmp_path / "tall.jpg").write_bytes(b"no picture")  # which intake says itself
    assert hallo2.check(job, context(crop=[0, 101, 200])) == []


def test_no_models(hallo2, context, make_job, tmp_path, bundle, avatar):
    ctx = context(models=tmp_path / "models")
    assert hallo2.check(make_job("x", avatar=avatar), ctx) == [
        f"the models are not there: {tmp_path / 'models'} lacks hallo2/net.pth and 8 more; run atenea models download"
    ]
    with pytest.raises(PermanentError, match="run atenea models download$"):
        hallo2.render(make_job("x", avatar=avatar), tmp_path / "speech.wav", ctx)
    job = make_job(avatar=avatar, audio_file=tmp_path / "voice.wav")
    assert hallo2.check(job, context()) == []
    (sentence,) = hallo2.check(job, context(separate_vocals=True))
    assert sentence.endswith("lacks audio_separator/Kim_Vocal_2.onnx; run atenea models download --vocals")
    assert hallo2.check(make_job("x", avatar=avatar), context(separate_vocals=True)) == []


def test_no_engine(hallo2, context, make_job, avatar, monkeypatch):
    monkeypatch.setattr(hallo2, "find_spec", lambda name: None if name in {"torch", "cv2"} else object())
    assert hallo2.check(make_job("x", avatar=avatar), context()) == [
        "the Hallo2 engine needs Python packages that are missing (torch, opencv-python-headless); "
        f"run: {sys.executable} -m pip install 'atenea[hallo2]'"
    ]


def test_intake_does_not_pay_for_the_engine(bundle, avatar):
    code = f"""
import sys
from pathlib import Path
from atenea import Job, StageSettings
from atenea.plugin_manager import PluginManager
plugins = PluginManager(Path({str(PLUGINS)!r}), models=Path({str(bundle)!r}))
settings = StageSettings(plugin="hallo2")
job = Job(id="1", name="a", text="x", avatar={str(avatar)!r}, audio=settings, render=settings)
assert plugins.mistakes(plugins.load("hallo2"), "render", {{}}, job) == []
heavy = {{"torch", "hallo2", "diffusers", "transformers", "onnxruntime", "cv2", "safetensors"}}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_picture_without_a_face(render, make_wav, tmp_path):
    Image.new("RGB", (512, 512), (90, 120, 150)).save(tmp_path / "wall.png")
    with pytest.raises(PermanentError, match=r"^avatar: the face at .* in wall\.png is not clear enough"):
        render(make_wav(CLIP), tmp_path / "wall.png")


def test_no_gpu(render, make_wav, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PermanentError, match=r"^device: torch sees 0 NVIDIA GPUs here, so 'cuda:1' cannot be used"):
        render(make_wav(CLIP), device="cuda:1")


def test_damaged_models(render, make_wav, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "models")
    (tmp_path / "models/hallo2/net.pth").write_bytes(b"<html>")
    with pytest.raises(PermanentError, match=r"^the models cannot be loaded: .*net\.pth is damaged"):
        render(make_wav(CLIP), models=tmp_path / "models")


# Loading once, going on


def test_other_settings_do_not_load_the_models_again(hallo2, render, make_wav, bundle, tmp_path):
    render(make_wav(1))
    engine = hallo2._resident[0]
    with capture_logs() as logs:
        render(make_wav(1), seed=3, width=128, height=128, fps=20, num_inference_steps=2)
        assert hallo2._resident == [engine]
        assert [entry for entry in logs if entry["event"] == "the models are loaded"] == []
        os.utime(bundle / "hallo2/net.pth")
        render(make_wav(1))
    assert hallo2._resident != [engine]
    (entry,) = (entry for entry in logs if entry["event"] == "the models are loaded")
    assert entry.items() >= {"device": "cpu", "dtype": "float32"}.items()


def test_goes_on_after_the_last_finished_clip(render, make_wav):
    wav = make_wav(3 * CLIP + 1)
    whole, _ = render(wav, stage="whole")
    with pytest.raises(Cancelled):
        render(wav, on_progress=Watched("clip 3 of 4"))
    watched = Watched()
    with capture_logs() as logs:
        video, ctx = render(wav, on_progress=watched)
    assert watched.clips == [3, 4]
    assert [entry["clips"] for entry in logs if entry["event"] == "an earlier attempt is continued"] == [2]
    assert ctx.report["clips"] == 4
    assert video.read_bytes() == whole.read_bytes()


def test_starts_over_when_something_changed(hallo2, render, make_wav, avatar, bundle):
    def clips(wav, **given):
        watched = Watched()
        render(wav, on_progress=watched, **given)
        return watched.clips

    wav = make_wav(1)
    assert clips(wav) == [1]
    assert clips(wav) == []
    assert clips(wav, decode_batch_size=2) == []
    assert clips(wav, seed=1) == [1]
    wav = make_wav(2)
    assert clips(wav, seed=1) == [1]
    astronaut().crop((0, 0, 512, 511)).save(avatar)
    assert clips(wav, seed=1) == [1]
    os.utime(bundle / "hallo2/net.pth")
    assert clips(wav, seed=1) == [1]
    assert clips(wav, seed=1, dtype="float16") == [1]


# Memory of the GPU


def test_waits_for_free_memory(hallo2, context, monkeypatch):
    gib = 1 << 30
    held = {"free": 4 * gib, "reserved": 3 * gib, "allocated": 2 * gib}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (held["free"], 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held["allocated"])
    options = hallo2.Options()
    sentence = r"^the GPU has 5\.0 GiB of memory free, and this render needs about 7\.0 GiB \(it has 24\.0 GiB in all\)"
    with pytest.raises(TransientError, match=sentence):
        hallo2._check_memory(options, torch.device("cuda", 0), loaded=False)
    hallo2._check_memory(options, torch.device("cuda", 0), loaded=True)
    held["free"] = 6 * gib
    hallo2._check_memory(options, torch.device("cuda", 0), loaded=False)


def test_needed_memory_grows_with_pixels_and_precision(hallo2):
    small, large = hallo2.Options(), hallo2.Options(width=1024, height=1024)
    assert hallo2.needed_gib(small, loaded=False) == pytest.approx(7.0)
    assert hallo2.needed_gib(large, loaded=True) == pytest.approx(8.0)
    assert hallo2.needed_gib(hallo2.Options(dtype="float32"), loaded=True) == pytest.approx(4.0)


@pytest.fixture
def decoder(hallo2, render, make_wav, monkeypatch):
    """Runs out of memory above so many frames; the batches that it was asked for."""
    render(make_wav(1), stage="warm")
    vae = hallo2._resident[0].pipeline.vae
    decode, asked = vae.decode, []

    def limit(most):
        def limited(latents):
            asked.append(len(latents))
            if len(latents) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has. If reserved")
            return decode(latents)

        monkeypatch.setattr(vae, "decode", limited)
        # Each attempt has a worker of its own then, which loads the models anew; here it finds these.
        monkeypatch.setattr(hallo2, "_loaded", lambda key, *_: hallo2._Engine(key, *parts))
        return asked

    engine = hallo2._resident[0]
    parts = engine.pipeline, engine.wav2vec, engine.faces, engine.load_seconds
    return limit


def failure(run):
    with pytest.raises(BaseException) as failed, blaming("render", "hallo2"):
        run()
    task = Task(kind="stage", needs=frozenset({"gpu"}), stage="render", plugin="hallo2")
    return failure_event(failed.value, task)


def test_used_up_memory_is_answered_with_smaller_batches(render, make_wav, decoder):
    wav = make_wav(CLIP)
    whole, _ = render(wav, decode_batch_size=1, stage="whole")
    asked = decoder(1)
    for smaller in ("2 at once", "one by one"):
        event = failure(lambda: render(wav, decode_batch_size=4))
        assert (event["transient"], event["poisoned"]) == (True, True)
        assert event["error"].startswith(
            "render plugin 'hallo2': the GPU ran out of memory: a video of 64 x 64 needs about 10.1 GiB; "
            f"from now on frames are decoded {smaller} (CUDA out of memory. Tried to allocate 2.00 GiB."
        )
    video, _ = render(wav, decode_batch_size=4)
    assert asked == [4, 2] + [1] * 16
    assert video.read_bytes() == whole.read_bytes()


def test_used_up_memory_in_the_end(render, make_wav, decoder):
    decoder(0)
    event = failure(lambda: render(make_wav(CLIP), decode_batch_size=1))
    assert (event["transient"], event["poisoned"]) == (False, True)
    assert "even with frames decoded one by one: a video of 64 x 64 needs about 10.1 GiB; choose" in event["error"]


# Vocals


def make_separator(path):
    """A network of Kim_Vocal_2's shape that lets everything pass."""
    shape = ("batch_size", 4, 3072, 256)
    sides = [helper.make_tensor_value_info(side, TensorProto.FLOAT, shape) for side in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "all", sides[:1], sides[1:])
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.fixture
def with_separator(bundle):
    make_separator(bundle / "audio_separator/Kim_Vocal_2.onnx")
    yield
    shutil.rmtree(bundle / "audio_separator")


def recording(path, seconds, rate=44_100):
    time = np.arange(round(seconds * rate)) / rate
    sound = 9000 * np.sin(2 * np.pi * 300 * time)
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, rate, 0, "NONE", ""))
        file.writeframes(np.stack([sound, sound], 1).astype("<i2").tobytes())
    return path


def heard(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(-1), "<i2").astype(float)


def test_vocals_are_what_the_networks_hear(render, with_separator, make_wav, tmp_path):
    voice = recording(tmp_path / "voice.wav", 0.5)
    wav = make_wav(8_000)
    video, ctx = render(wav, audio_file=voice, separate_vocals=True)
    (vocals,) = ctx.workdir.glob("vocals-*")
    sound = heard(vocals)
    expected = 1.009 * 9000 * np.sin(2 * np.pi * 300 * np.arange(8_000) / 16_000)
    assert len(sound) == 8_000
    assert np.abs(sound - expected)[500:-500].max() < 30
    check_video(video, 8_000)

    made = vocals.stat().st_mtime_ns
    watched = Watched()
    again, _ = render(wav, audio_file=voice, separate_vocals=True, on_progress=watched)
    assert vocals.stat().st_mtime_ns == made
    assert watched.clips == []
    without, _ = render(wav, audio_file=voice, stage="without")
    assert again.read_bytes() != without.read_bytes()


def test_vocals_of_the_wav_when_the_recording_has_another_length(render, with_separator, make_wav, tmp_path):
    wav = make_wav(8_000)
    _, ctx = render(wav, audio_file=recording(tmp_path / "voice.wav", 1), separate_vocals=True)
    (vocals,) = ctx.workdir.glob("vocals-*")
    assert np.abs(heard(vocals) - 1.009 * heard(wav))[500:-500].max() < 100


def test_synthesised_speech_is_left_as_it_is(render, make_wav):
    _, ctx = render(make_wav(1), separate_vocals=True)
    assert list(ctx.workdir.glob("vocals-*")) == []
