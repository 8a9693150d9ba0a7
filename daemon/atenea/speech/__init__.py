"""What text-to-speech plugins for long texts share; each module stands alone.

`sentences` cuts a text into pieces. `cache` keeps the sound of each, so that nothing is paid for twice. `patience`
tries again what failed for a while. `sound` decodes and judges what a server sent, `wording` whether it says the text,
`joining` makes one WAV file of the pieces, and `retirement` knows when models end.
"""
