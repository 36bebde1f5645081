"""Options of one kind, given to a command as one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any


def takes(
    parameter: str, choices: Mapping[str, tuple[Any, Any]], build: Callable[[dict[str, Any]], Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command options, which it gets as one value.

    Args:
        parameter: the command's own, for that value.
        choices: each option's annotation and default, by the name that it has in ``build``'s values.
        build: makes the value of the options' values.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for name, p in signature.parameters.items() if name != parameter]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in choices.items()
        ]

        @wraps(command)
        def with_options(**given: Any) -> Any:
            value = build({name: given.pop(name) for name in choices})
            return command(**given, **{parameter: value})

        with_options.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return with_options

    return decorate
