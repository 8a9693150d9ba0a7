"""`python -m atenea` is the command `atenea`."""

from atenea.cli import main

main()
