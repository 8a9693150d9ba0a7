"""Subtitles: words with their times become cues, and these become files and a track of the video."""
