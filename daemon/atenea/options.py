"""The base class of a plugin's options."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PluginOptions(BaseModel):
    """Options of a plugin: subclass it as `Options` in the plugin's module.

    Fields are validated when the job is taken in, before any paid or slow work; unknown keys are refused.

    Attributes:
        configuration_only: names of options that a job file must not set, because they name programs, folders or
            devices of the machine; the configuration and its presets may.
    """

    configuration_only: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SquareVideoOptions(PluginOptions):
    """Options of a render plugin whose videos are square.

    Attributes:
        width: of the video; the same as the height, a multiple of 64.
        height: of the video.
    """

    width: int = Field(512, ge=64, le=2048, multiple_of=64)
    height: int = Field(512, ge=64, le=2048, multiple_of=64)

    @model_validator(mode="after")
    def _square(self) -> Self:
        if self.width != self.height:
            raise ValueError(f"width and height must be equal, not {self.width} and {self.height}")
        return self
