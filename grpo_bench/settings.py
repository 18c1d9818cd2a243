"""What every table of settings is made of: the run's own sections, a method's, a reward's."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Settings(BaseModel):
    """A table of settings in which true and false are no numbers: `learning_rate = true` is not 1."""

    model_config = ConfigDict(allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        if _has_truth(value) and not _takes_truth(field.annotation):
            raise ValueError("true and false are no value of this setting; give a number or a text")
        return value


def _has_truth(value: object) -> bool:
    """Whether a value is true or false, or a list or table of such."""
    if isinstance(value, dict):
        return any(map(_has_truth, value.values()))
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_truth, value)))


def _takes_truth(annotation: object) -> bool:
    if annotation in (bool, object, Any) or isinstance(annotation, bool):
        return True
    inner = get_args(annotation)
    return any(map(_takes_truth, inner)) or (isinstance(annotation, type) and issubclass(annotation, BaseModel))
