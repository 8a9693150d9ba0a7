"""The wav plugin."""

import pytest

from atenea import PermanentError
from atenea.media.audio import wav_info


def test_speech_becomes_wav(load_plugin, make_context, make_wav):
    plugin = load_plugin("wav")
    ctx = make_context(plugin)
    target = plugin.audio(make_wav(24_000), ctx)
    assert target.parent == ctx.workdir
    assert wav_info(target) == 24_000
    assert ctx.report == {"seconds": 1.5}


def test_longest_speech(load_plugin, make_context, make_wav):
    plugin = load_plugin("wav")
    with pytest.raises(PermanentError, match=r"speech\.wav is longer than 1 seconds"):
        plugin.audio(make_wav(24_000), make_context(plugin, max_seconds=1))
