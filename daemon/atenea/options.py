"""The base class of a plugin's options."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class PluginOptions(BaseModel):
    """Options of a plugin: subclass it as `Options` in the plugin's module.

    Fields are validated when the job is taken in, before any paid or slow work; unknown keys are refused.

    Attributes:
        configuration_only: names of options that a job file must not set, because they name programs, folders or
            devices of the machine; the configuration and its presets may.
    """

    configuration_only: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
