"""The plugin, run by atenea's own code: `atenea_stage` and `atenea_job` come with it."""

import pytest

from atenea.errors import Cancelled
from atenea.testing import check_plugin, find_mistakes


def test_what_every_plugin_must_pass():
    check_plugin("morse", text="SOS, SOS!")


def test_words_are_timed(atenea_stage):
    result = atenea_stage("morse", "tts", text="SOS it is", options={"words_per_minute": 12})
    assert [(piece.text, round(piece.start, 3), round(piece.end, 3)) for piece in result.timing] == [
        ("SOS", 0.0, 2.7),
        ("it", 3.4, 4.3),
        ("is", 5.0, 6.1),
    ]
    assert result.report == {"signs": 17}
    assert [text for _, text in result.progress] == ["SOS", "it", "is"]


def test_it_stops_when_it_is_cancelled(atenea_stage):
    with pytest.raises(Cancelled):
        atenea_stage("morse", "tts", text="one two three", cancel_at=2)


@pytest.mark.parametrize("options", [{"words_per_minute": 4}, {"pitch": 99_999}, {"speed": 2}])
def test_impossible_options(tmp_path, options):
    [mistake] = find_mistakes("morse", "tts", folder=tmp_path, options=options)
    assert mistake.startswith(f"tts.{next(iter(options))}: ")


def test_a_text_that_it_cannot_speak(tmp_path):
    [mistake] = find_mistakes("morse", "tts", folder=tmp_path, text="数字")
    assert mistake == "plugin 'morse': there is nothing in the text that Morse code has a sign for"


def test_a_whole_video(atenea_job):
    done = atenea_job("morse", text="Hi.")
    assert done.error is None
    assert done.report["stages"][0]["version"] == "0.1.0"
    assert done.video.stat().st_size > 0
