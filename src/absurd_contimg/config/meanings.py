"""What each setting means: its docstring, for commands that explain settings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise

from pydantic import BaseModel

from absurd_contimg.config import PipelineConfig


def setting_meanings() -> dict[str, str]:
    """What each pipeline setting means, by dotted name, on one line."""
    return {
        f"{section}.{name}": meaning
        for section, values in PipelineConfig.model_fields.items()
        if section != "paths" and isinstance(values.annotation, type)
        for name, meaning in field_meanings(values.annotation).items()
    }


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
