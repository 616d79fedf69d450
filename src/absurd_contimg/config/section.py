"""The base of all sections of settings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of settings: immutable; an unknown name and an infinite number are errors.

    The docstring of a setting is what ``contimg settings`` says of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def field_meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring of each field of a model, on one line; empty where it has none.

    Pydantic can do this when it makes the class, which costs every process 0.08 s at its start.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    meanings = dict.fromkeys(model.model_fields, "")
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for field, following in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            meanings[field.target.id] = " ".join(str(following.value.value).split())
    return meanings
