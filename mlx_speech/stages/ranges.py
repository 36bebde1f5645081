"""What the numbers of an options class may be, and the error that names the one that is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, NamedTuple

from mlx_speech.errors import OptionError


class Range(NamedTuple):
    """A range in words, what tests it, and whether its numbers are whole."""

    wanted: str
    valid: Callable[[float], bool]
    whole: bool = False


NUMBER = Range("a number", lambda x: not math.isnan(x))
COUNT = Range("a whole number from 1 on", lambda x: x >= 1, whole=True)
POSITIVE = Range("above 0, finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Range("0 or more, finite", lambda x: 0 <= x < math.inf)
SECONDS = Range("0 s or more, finite", lambda x: 0 <= x < math.inf)
SHARE = Range("0 to 1", lambda x: 0 <= x <= 1)


def check(options: Any, ranges: Mapping[str, Range], optional: Mapping[str, Range] | None = None) -> None:
    """Raise ``OptionError`` for the first field out of its range; the ``optional`` ones may be ``None``."""
    for name, (wanted, valid, whole) in {**ranges, **(optional or {})}.items():
        value = getattr(options, name)
        if value is None and optional and name in optional:
            continue
        kind = Integral if whole else Real
        if not isinstance(value, kind) or isinstance(value, bool) or not valid(float(value)):
            raise OptionError(f"{name} is {value!r}: it must be {wanted}")


def check_switches(options: Any) -> None:
    """Raise ``OptionError`` for the first field whose default is a switch and whose value is none."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(field.default, bool) and not isinstance(value, bool):
            raise OptionError(f"{field.name} is {value!r}: it must be True or False")
