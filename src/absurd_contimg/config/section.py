"""The base of all sections of settings."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

_SECONDS = {"_days": 86_400.0, "_hours": 3600.0, "_minutes": 60.0, "_seconds": 1.0}
_SECONDS_MAX = 20_000 * 86_400.0
"""54 years: longer times fit neither Postgres' integers nor Python's dates everywhere."""


class Section(BaseModel):
    """A section of settings: immutable; an unknown name and an infinite number are errors.

    The docstring of a setting is what ``contimg settings`` says of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _times_are_bounded(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            unit = _SECONDS.get(name[name.rfind("_") :])
            if unit and isinstance(value, int | float) and abs(value) > _SECONDS_MAX / unit:
                raise ValueError(
                    f"{name} is {value:g}, at most {_SECONDS_MAX / unit:g} is possible"
                )
        return self
