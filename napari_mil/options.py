"""Configurations as frozen dataclasses whose fields carry their bounds and their help: one source for checks
and forms.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

from napari_mil.errors import MILError, ModelError

C = TypeVar("C")


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] = (),
    heard: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """A dataclass field with bounds (both inclusive) or choices, and the sentence a form shows. `heard` names
    the values {option: values} of others without which it has no effect.
    """
    about = {"help": help, "low": low, "high": high, "choices": tuple(choices), "heard": heard or {}}
    return dataclasses.field(default=default, metadata=about)


#: type of a field's default -> the type that its values must have, and what to call it
_KINDS: dict[type, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
}


def expect(
    name: str, value: Any, kind: type | tuple[type, ...], called: str = "", error: type[MILError] = ModelError
) -> None:
    """Raise `error` unless `value` is a `kind`, with what it is and what it must be: `called`, or the words
    for bool, int, float and str, which take numbers of numpy as well.
    """
    kind, words = (kind, called) if isinstance(kind, tuple) else _KINDS.get(kind, (kind, called))
    if not isinstance(value, kind) or (kind in {Integral, Real} and isinstance(value, bool)):
        raise error(f"{name} is {reprlib.repr(value)}; it must be {called or words}.")


def one_of(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ModelError unless `value` is among the `choices`."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ModelError(f"{name} is {reprlib.repr(value)}; it must be one of {known}.")


def check(config: Any, owner: str) -> None:
    """Raise ModelError naming the first field of `config` of a wrong type, outside its bounds or choices."""
    for f in dataclasses.fields(config):
        value, meta = getattr(config, f.name), f.metadata
        expect(f"{owner}: {f.name}", value, type(f.default) if type(f.default) in _KINDS else object)
        if meta.get("choices"):
            one_of(f"{owner}: {f.name}", value, meta["choices"])
        low, high = meta.get("low"), meta.get("high")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise ModelError(
                f"{owner}: {f.name} is {value}; it must lie in "
                f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]."
            )


def check_heard(config: Any, given: Mapping[str, Any], owner: str) -> None:
    """Raise ModelError when a person gave an option another value than it has anyway, of which the others
    make that it has no effect: nobody shall think that it had.
    """
    for f in dataclasses.fields(config):
        for other, values in f.metadata.get("heard", {}).items():
            told = f.name in given and getattr(config, f.name) != f.default
            if told and getattr(config, other) not in values:
                known = " or ".join(map(str, values))
                raise ModelError(
                    f"{owner}: {f.name} has no effect with {other} {getattr(config, other)}; "
                    f"leave it out, or give {other} {known}."
                )


def unknown_option(owner: str, key: object, known: Sequence[str]) -> ModelError:
    """The error about an option that `owner` does not have; it names those that it has."""
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f" (perhaps {near[0]!r} is meant)" if near else ""
    return ModelError(f"{owner} has no option {key!r}{hint}; it knows {', '.join(known)}.")


def build(kind: type[C], values: Mapping[str, Any] | C | None, owner: str) -> C:
    """A checked `kind` from a mapping (an unknown key is an error naming the known ones), an instance, or
    None.
    """
    if values is None:
        made = kind()
    elif isinstance(values, kind):
        made = values
    elif isinstance(values, Mapping):
        known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                raise unknown_option(owner, key, known)
        made = kind(**values)
    else:
        raise ModelError(
            f"{owner}: options must be a mapping or {kind.__name__}, not {type(values).__name__}."
        )
    check(made, owner)
    return made
