"""The base of all sections of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

_SECONDS = {"_days": 86_400.0, "_hours": 3600.0, "_minutes": 60.0, "_seconds": 1.0}
_SECONDS_MAX = 20_000 * 86_400.0
"""54 years: longer times fit neither Postgres' integers nor Python's dates everywhere."""
_NUMBER_MAX = 2**53
"""Greater whole numbers are not held exactly by floats, and are no quantity of a pipeline."""


class Section(BaseModel):
    """A section of settings: immutable; an unknown name and an infinite number are errors.

    The docstring of a setting is what ``contimg settings`` says of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _flag_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise PydanticCustomError("flag", "it is no setting that is true or false")
        return value

    @field_validator("*")
    @classmethod
    def _number_is_bounded(cls, value: object, info: ValidationInfo) -> object:
        unit = _SECONDS.get(f"_{(info.field_name or '').rpartition('_')[2]}")
        greatest = _SECONDS_MAX / unit if unit else _NUMBER_MAX
        if isinstance(value, int | float) and abs(value) > greatest:
            raise ValueError(f"at most {greatest:g}")
        return value
