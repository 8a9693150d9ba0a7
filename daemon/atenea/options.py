"""The base class of a plugin's options."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PluginOptions(BaseModel):
    """Options of a plugin: subclass it as `Options` in the plugin's module.

    Fields are validated when the job is taken in, before any paid or slow work; unknown keys are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
