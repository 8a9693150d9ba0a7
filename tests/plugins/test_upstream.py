"""The upstream plugin, with a checkout whose script does what the published one does as far as others can see it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import av
import numpy as np
import pytest
import structlog
from PIL import Image
from pydantic import ValidationError

from atenea import PermanentError, TransientError
from atenea.errors import Cancelled
from atenea.media.mux import check_video
from atenea.plugin_manager import PluginManager

PUBLISHED_KEYS = {
    *("source_image", "driving_audio", "weight_dtype", "inference_steps", "cfg_scale", "use_mask", "mask_rate"),
    *("use_cut", "audio_ckpt_dir", "save_path", "cache_path", "base_model_path", "motion_module_path"),
    *("face_expand_ratio", "pose_weight", "face_weight", "lip_weight", "enable_zero_snr", "sampler"),
    *("face_analysis.model_path", "wav2vec.model_path", "wav2vec.features", "audio_separator.model_path"),
    *("vae.model_path", "data.n_motion_frames", "data.n_sample_frames", "data.source_image.width"),
    *("data.source_image.height", "data.driving_audio.sample_rate", "data.export_video.fps"),
    "unet_additional_kwargs.use_inflated_groupnorm",
    "unet_additional_kwargs.unet_use_cross_frame_attention",
    "unet_additional_kwargs.unet_use_temporal_attention",
    "unet_additional_kwargs.use_motion_module",
    "unet_additional_kwargs.use_audio_module",
    "unet_additional_kwargs.motion_module_resolutions",
    "unet_additional_kwargs.motion_module_mid_block",
    "unet_additional_kwargs.motion_module_decoder_only",
    "unet_additional_kwargs.motion_module_type",
    "unet_additional_kwargs.motion_module_kwargs.num_attention_heads",
    "unet_additional_kwargs.motion_module_kwargs.num_transformer_block",
    "unet_additional_kwargs.motion_module_kwargs.attention_block_types",
    "unet_additional_kwargs.motion_module_kwargs.temporal_position_encoding",
    "unet_additional_kwargs.motion_module_kwargs.temporal_position_encoding_max_len",
    "unet_additional_kwargs.motion_module_kwargs.temporal_attention_dim_div",
    "unet_additional_kwargs.audio_attention_dim",
    "unet_additional_kwargs.stack_enable_blocks_name",
    "unet_additional_kwargs.stack_enable_blocks_depth",
    *("noise_scheduler_kwargs.beta_start", "noise_scheduler_kwargs.beta_end", "noise_scheduler_kwargs.beta_schedule"),
    *("noise_scheduler_kwargs.clip_sample", "noise_scheduler_kwargs.steps_offset"),
    *("noise_scheduler_kwargs.prediction_type", "noise_scheduler_kwargs.rescale_betas_zero_snr"),
    "noise_scheduler_kwargs.timestep_spacing",
}

BEGINNING = """
    import argparse, json, os, signal, subprocess, sys, time
    from pathlib import Path

    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config", required=True)
    config = json.loads(Path(parser.parse_args().config).read_text())
    name = Path(config["source_image"]).stem
    output = Path(config["save_path"]) / name
    os.makedirs(output / "seg_video", exist_ok=True)


    def write_video(frames):
        import av
        import numpy as np

        with av.open(str(output / "merge_video.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for number in range(frames):
                picture = np.full((64, 64, 3), (200, 8 * number, 40), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))


    def hang(*signals, line="working"):
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # which the child inherits
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path("pids.new").write_text(f"{os.getpid()} {child.pid}")
        os.rename("pids.new", "pids")
        print(line, flush=True)
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def upstream(load_plugin):
    return load_plugin("upstream")


@pytest.fixture
def checkout(tmp_path, upstream):
    """Makes a checkout with all models, whose script does what `body` says."""

    def make(body: str = "write_video(25)") -> Path:
        folder = tmp_path / "my checkout"
        for name in upstream._MODELS:
            (folder / "pretrained_models" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "pretrained_models" / name).touch()
        (folder / "scripts").mkdir(exist_ok=True)
        script = textwrap.dedent(BEGINNING) + "\n\n" + textwrap.dedent(body)
        (folder / "scripts/inference_long.py").write_text(script)
        return folder

    return make


@pytest.fixture
def avatar(tmp_path):
    path = tmp_path / "a b.c.jpg"
    Image.new("RGB", (90, 80), (20, 160, 60)).save(path)
    return path


@pytest.fixture
def render(upstream, checkout, avatar, make_context, make_job, make_wav):
    """Renders one second with a script; where its video is, and the context."""

    def run(body="write_video(25)", *, samples=16_000, **options):
        folder = checkout(body)
        ctx = make_context(upstream, **{"checkout": folder, "python": sys.executable, **options})
        return upstream.render(make_job(avatar=avatar), make_wav(samples), ctx), ctx

    return run


def dotted(table, prefix=""):
    for key, value in table.items():
        yield from dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def colours(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24")[32, 32].astype(int) for frame in container.decode(video=0)]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def started(workdir):
    """The processes of `hang()`."""
    pids = workdir / "upstream/pids"
    return [int(pid) for pid in pids.read_text().split()] if pids.exists() else []


def test_the_configuration_that_it_gets(render, checkout):
    body = """
        from PIL import Image
        import wave

        assert Path("pretrained_models/face_analysis/models/face_landmarker_v2_with_blendshapes.task").is_file()
        with Image.open(config["source_image"]) as picture:
            assert picture.size == (90, 80)
        with wave.open(config["driving_audio"]) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (16000, 1, 16000)
        write_video(25)
    """
    options = {"num_inference_steps": 12, "guidance_scale": 2.5, "weight_dtype": "bf16", "width": 256, "height": 256}
    weights = {"pose_weight": 0.5, "face_weight": 1.5, "lip_weight": 2.0, "face_expand_ratio": 1.4, "mask_rate": 0.1}
    video, ctx = render(body, **options, **weights)
    text = (ctx.workdir / "upstream/long.yaml").read_text()
    config = json.loads(text)
    if importlib.util.find_spec("yaml"):
        import yaml

        assert yaml.safe_load(text) == config
    assert set(dotted(config)) == PUBLISHED_KEYS
    assert (config["inference_steps"], config["cfg_scale"], config["weight_dtype"]) == (12, 2.5, "bf16")
    assert config["data"]["source_image"] == {"width": 256, "height": 256}
    assert {key: config[key] for key in weights} == weights
    models = ctx.options.checkout / "pretrained_models"
    assert config["audio_ckpt_dir"] == str(models / "hallo2")
    assert config["audio_separator"] == {"model_path": str(models / "audio_separator/Kim_Vocal_2.onnx")}
    own = [config[key] for key in ("source_image", "driving_audio", "save_path", "cache_path")]
    assert all(Path(path).is_relative_to(ctx.workdir) for path in own)
    assert video == ctx.workdir / "upstream/output/avatar/merge_video.mp4"


def test_models_in_another_folder(render, checkout, tmp_path):
    (checkout() / "pretrained_models").rename(tmp_path / "models")
    body = """
        assert os.path.samefile("pretrained_models", Path(config["audio_ckpt_dir"]).parent)
        write_video(25)
    """
    checkout_again = checkout()
    (checkout_again / "pretrained_models").rename(tmp_path / "unused")
    _, ctx = render(body, models=tmp_path / "models")
    config = json.loads((ctx.workdir / "upstream/long.yaml").read_text())
    assert config["face_analysis"] == {"model_path": str(tmp_path / "models/face_analysis")}


def test_nothing_is_written_into_the_checkout_or_left_from_an_earlier_attempt(render, checkout, tmp_path):
    stale = tmp_path / "stage/upstream/output/avatar/seg_video/avatar-000060.mp4"
    stale.parent.mkdir(parents=True)
    stale.touch()
    body = """
        sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        import hallo

        assert not os.listdir(output / "seg_video")
        Path("temporary").touch()
        write_video(25)
    """
    folder = checkout()
    (folder / "hallo.py").touch()
    before = sorted(folder.rglob("*"))
    video, _ = render(body)
    assert sorted(folder.rglob("*")) == before
    check_video(video, 16_000)


def test_progress_and_log(render, upstream, capsys):
    body = r"""
        print("save path: ", output)
        for clip in (1, 2):
            print(f"[{clip}/2]")
            for step in range(5):
                sys.stderr.write(f"\r {25 * step}%|####      | {step}/4 [00:0{step}<00:01,  4.00it/s]")
            sys.stderr.write("\n\r100%|####| 16/16 [00:00<00:00, 50.00it/s]\n")
            sys.stderr.write("\033[38;5;247mic\033[0m| pipeline_output.videos.shape\n")
        print("Moviepy - Building video x.mp4.")
        sys.stderr.write("\rt:  50%|##   | 4/4 [00:00<00:00, 99.00it/s, now=None]\r\n")
        write_video(25)
        print("last words", end="")
    """
    heard = []
    render(body, num_inference_steps=4, on_progress=lambda *said: heard.append(said))
    fractions = [fraction for fraction, _ in heard]
    assert fractions == sorted(fractions)
    assert heard[-1] == (1.0, "writing the video")
    logged = capsys.readouterr().out
    assert "last words" in logged and "ic| pipeline_output.videos.shape" in logged
    assert "it/s" not in logged and "\x1b[38" not in logged


def test_progress_bars_are_understood(upstream):
    account = upstream._Account(4, structlog.get_logger())
    told = []
    for line in ["Loading", "[1/2]", "0%| | 0/4 [", "50%|## | 2/4 [", "100%|## | 16/16 [", "t: 1%| | 3/4 [", "[2/2]"]:
        account.hear(line)
        told.append((account.fraction, account.text))
    loading, one, two = "loading the models", "clip 1 of 2", "clip 2 of 2"
    assert told == [(0.0, loading), (0.0, one), (0.0, one), (0.25, one), (0.25, one), (0.25, one), (0.5, two)]
    assert list(account.tail) == ["Loading", "[1/2]", "[2/2]"]


@pytest.mark.parametrize(("made", "repeated"), [(27, 0), (22, 3)])
def test_frames_that_are_too_many_or_missing(render, made, repeated):
    video, ctx = render(f"write_video({made})")
    check_video(video, 16_000)
    assert ctx.report == {"frames_repeated_at_the_end": repeated}
    shown = colours(video)
    expected = [(200, 8 * min(number, made - 1), 40) for number in range(25)]
    assert np.abs(np.array(shown) - expected).max() <= 6


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("sys.exit('torch.cuda.OutOfMemoryError: CUDA out of memory. Tried')", TransientError, "graphics memory"),
        ("raise RuntimeError('CUDA error: out of memory')", TransientError, "graphics memory"),
        ("os.kill(os.getpid(), signal.SIGKILL)", TransientError, r"killed by signal 9 \(out of memory\?\)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", TransientError, r"killed by signal 11 \(Segmentation fault\)"),
        ("import no_such_thing.x", PermanentError, f"{sys.executable} has no module 'no_such_thing'"),
        ("open('/no/such/net.pth')", PermanentError, "misses /no/such/net.pth"),
        ("print('one'); sys.exit('two')", PermanentError, r"ended with exit code 1; its last lines: one \| two"),
        ("print('ModuleNotFoundError: No module named \\'x\\''); {}['key']", PermanentError, r"\| KeyError: 'key'"),
        ("print('Failed to allocate memory for'); sys.exit(1)", TransientError, "graphics memory"),
        ("sys.exit(3)", PermanentError, "exit code 3; its last lines: nothing"),
        ("pass", PermanentError, "without its video merge_video.mp4"),
        ("write_video(0)", PermanentError, "merge_video.mp4"),
        ("(output / 'merge_video.mp4').write_text('none')", PermanentError, "merge_video.mp4 is no sound or video"),
        ("hang(line='No faces detected in the image. Using')", PermanentError, "finds no face in the avatar"),
        ("hang(line='#face is invalid: 0')", PermanentError, "finds no face in the avatar"),
    ],
)
def test_errors(render, tmp_path, body, kind, says):
    with pytest.raises(kind, match=says):
        render(body)
    pids = started(tmp_path / "stage")
    assert len(pids) == (2 if "hang" in body else 0)
    wait_until(lambda: not any(map(is_running, pids)))


def test_one_that_hangs(render, upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "SILENCE_SECONDS", 1.0)
    with pytest.raises(TransientError, match="said nothing for 1 seconds"):
        render("hang()")
    wait_until(lambda: not any(map(is_running, started(tmp_path / "stage"))))


@pytest.mark.parametrize("ignored", ["", "signal.SIGTERM, signal.SIGINT, signal.SIGHUP"])
def test_cancel(render, upstream, tmp_path, monkeypatch, ignored):
    monkeypatch.setattr(upstream, "END_SECONDS", 0.2 if ignored else 60.0)

    def cancel(fraction, text):
        if started(tmp_path / "stage"):
            raise Cancelled

    with pytest.raises(Cancelled):
        render(f"hang({ignored})", on_progress=cancel)
    pids = started(tmp_path / "stage")
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))


def test_what_it_leaves_behind_ends_with_it(render, tmp_path):
    body = """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path("pids").write_text(str(child.pid))
        write_video(25)
    """
    render(body)
    pids = started(tmp_path / "stage")
    assert len(pids) == 1
    wait_until(lambda: not any(map(is_running, pids)))


def test_it_ends_with_the_worker(upstream, checkout, avatar, make_wav, tmp_path):
    """The worker is killed, so that nothing of it can clean up."""
    code = """
        import sys
        from pathlib import Path
        import structlog
        from atenea import Context, Job, StageSettings
        from atenea.plugin_manager import PluginManager

        plugins, checkout, avatar, wav, workdir = map(Path, sys.argv[1:])
        manager = PluginManager(plugins)
        options = manager.options("upstream", {"checkout": str(checkout), "python": sys.executable})
        job = Job(id="1", name="job", avatar=avatar, audio=StageSettings(plugin="wav"),
                  render=StageSettings(plugin="upstream"))
        ctx = Context(workdir=workdir, cache=workdir, options=options, log=structlog.get_logger(),
                      on_progress=lambda fraction, text: None)
        manager.call("render", "upstream", job=job, ctx=ctx, wav=wav)
    """
    plugins = Path(upstream.__file__).parent
    folder, wav = checkout("hang(signal.SIGTERM)"), make_wav(16_000)
    arguments = [str(path) for path in (plugins, folder, avatar, wav, tmp_path)]
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    )
    with worker:
        try:
            wait_until(lambda: started(tmp_path) or worker.poll() is not None)
            pids = started(tmp_path)
            groups = {os.getpgid(pid) for pid in pids}
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
    assert len(pids) == 2 and len(groups) == 1
    wait_until(lambda: not any(map(is_running, [*pids, *groups])))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fps": 30}, "fps must be 25, not 30"),
        ({"seed": 1}, "seed must be 42, not 1"),
        ({"width": 256}, "width and height must be equal"),
        ({"width": 500, "height": 500}, "multiple of 64"),
        ({"guidance_scale": 1.0}, "greater than 1"),
        ({"num_inference_steps": 1001}, "less than or equal to 1000"),
        ({"mask_rate": 1.5}, "less than or equal to 1"),
        ({"weight_dtype": "fp8"}, "'fp16', 'bf16' or 'fp32'"),
        ({"checkout": "hallo2"}, "should be an absolute path, but is 'hallo2'"),
        ({"crf": 1}, "Extra inputs"),
    ],
)
def test_impossible_options(upstream, options, says):
    with pytest.raises(ValidationError, match=says):
        upstream.Options(**options)


def test_home_folders(upstream, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ana")
    assert upstream.Options(checkout="~/hallo2").checkout == Path("/home/ana/hallo2")


def test_check(upstream, checkout, avatar, make_context, make_job):
    folder = checkout()
    with_picture, without = make_job(avatar=avatar), make_job("text")

    def mistakes(job=with_picture, **options):
        return upstream.check(job, make_context(upstream, **{"checkout": folder, **options}))

    assert mistakes() == []
    assert [said[:31] for said in mistakes(without)] == ["the published code needs a pict"]
    assert len(mistakes(without, checkout=None)) == 2
    assert mistakes(checkout=None) == [
        "checkout is not set: name the folder of your checkout of the published Hallo2 code in the configuration,"
        " under [render.upstream]"
    ]
    assert "has no scripts/inference_long.py" in mistakes(checkout=folder / "scripts")[0]
    assert "there is no program 'no-such-python'" in mistakes(python="no-such-python")[0]
    (folder / "pretrained_models/hallo2/net.pth").unlink()
    assert f"{folder}/pretrained_models/hallo2/net.pth is missing" in mistakes()[0]


def test_an_interpreter_that_cannot_be_started(render, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(PermanentError, match="python: .* cannot be started: No such file"):
        render(python=str(script))


def test_diagnose(upstream, checkout, make_context, tmp_path, monkeypatch):
    folder, programs = checkout(), tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def found(**options):
        ctx = make_context(upstream, **{"checkout": folder, "python": sys.executable, **options})
        return {finding.check: (finding.status, finding.text) for finding in upstream.diagnose(ctx)}

    models = folder / "pretrained_models"
    right = {
        "checkout": ("ok", f"{folder}/scripts/inference_long.py is there"),
        "python": ("ok", f"{sys.executable} has torch"),
        "models": ("ok", f"all that the published code loads is in {models}"),
    }
    assert found() == {"ffmpeg": ("problem", "the published code needs ffmpeg, which is missing"), **right}
    (programs / "ffmpeg").touch(0o755)
    assert found() == right

    without = programs / "python"
    without.write_text("#!/bin/sh\nexit 1\n")
    without.chmod(0o755)
    assert found(python=str(without))["python"] == ("problem", f"{without} has no torch")
    without.write_text("#!/no/such/interpreter\n")
    assert found(python=str(without))["python"][1].startswith(f"{without} cannot be started: ")
    (models / "hallo2/net.pth").unlink()
    assert found()["checkout"][1].startswith(f"models: {models}/hallo2/net.pth is missing")
    ((status, text),) = found(checkout=None).values()
    assert (status, text[:19]) == ("problem", "checkout is not set")


def test_it_is_a_render_plugin_for_the_gpu(upstream):
    plugin = PluginManager(Path(upstream.__file__).parent).load("upstream")
    assert (plugin.stages, plugin.needs, plugin.has_check) == (("render",), frozenset({"gpu"}), True)
