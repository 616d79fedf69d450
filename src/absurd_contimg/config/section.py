"""The base of all sections of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

_SECONDS = {"_days": 86_400.0, "_hours": 3600.0, "_minutes": 60.0, "_seconds": 1.0}
_SECONDS_MAX = 20_000 * 86_400.0
"""54 years: longer times fit neither Postgres' integers nor Python's dates everywhere."""


class Section(BaseModel):
    """A section of settings: immutable; an unknown name and an infinite number are errors.

    The docstring of a setting is what ``contimg settings`` says of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _time_is_bounded(cls, value: object, info: ValidationInfo) -> object:
        unit = _SECONDS.get(f"_{(info.field_name or '').rpartition('_')[2]}")
        if unit and isinstance(value, int | float) and abs(value) > _SECONDS_MAX / unit:
            raise ValueError(f"at most {_SECONDS_MAX / unit:g} is possible")
        return value
