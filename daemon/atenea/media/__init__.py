"""Sound and pictures: what worker processes do to files with PyAV, Pillow and NumPy. The daemon imports none of it."""
