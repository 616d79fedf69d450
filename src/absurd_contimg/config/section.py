"""The base of all sections of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
