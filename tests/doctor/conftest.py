"""Instances for the tests of `atenea doctor`."""

from system.conftest import new_instance

__all__ = ["new_instance"]
