"""The rule engine: how a foreign checkpoint's tensors become a model's parameters.

A layout of a checkpoint is a tuple of :class:`Rule`: data, not code. The engine is exhaustive. Every
source key must match exactly one rule, every required rule must match, every parameter of the model must
be filled once, and shapes must agree; otherwise :class:`~mlx_speech.errors.CheckpointError` names the keys.
There is no non-strict switch.

A pattern is a literal key in which ``{i}``, ``{j}`` … stand for a layer number::

    Rule("model.layers.{i}.fc1.weight", "blocks.{i}.fc1.weight")
    Rule(("rnn.bias_ih", "rnn.bias_hh"), "lstm.bias", add)             # many to one
    Rule("attn.in_proj", ("attn.query", "attn.key"), split(2))          # one to many
    Rule("num_batches_tracked", None)                                   # dropped on purpose
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx

from mlx_speech.errors import CheckpointError

Op = Callable[..., "mx.array | Sequence[mx.array]"]

_HOLE = re.compile(r"\{(\w+)\}")
_SHOWN = 8


def keep(x: mx.array) -> mx.array:
    """The tensor as it is."""
    return x


def conv(x: mx.array) -> mx.array:
    """PyTorch's convolution weight (out, in, *kernel) to MLX's (out, *kernel, in)."""
    return x.transpose(0, *range(2, x.ndim), 1)


def add(a: mx.array, b: mx.array) -> mx.array:
    """The sum of two tensors: the two biases of a PyTorch LSTM in the one that MLX has."""
    if a.shape != b.shape:  # they would be broadcast
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a + b


def squeeze(axis: int) -> Op:
    """Drop an axis of length 1."""
    return lambda x: x.squeeze(axis)


def split(parts: int, drop: Iterable[int] = ()) -> Op:
    """Cut a fused projection into equal parts along its first axis, less the parts numbered in ``drop``."""
    dropped = frozenset(drop)

    def op(x: mx.array) -> list[mx.array]:
        if x.shape[0] % parts:
            raise ValueError(f"{x.shape[0]} rows do not divide into {parts} equal parts")
        return [p for n, p in enumerate(mx.split(x, parts, axis=0)) if n not in dropped]

    return op


@dataclass(frozen=True)
class Rule:
    """One line of a key map.

    Args:
        sources: one key pattern, or several that are read together (many to one).
        targets: one parameter pattern, several (one to many), or ``None`` to drop the key on purpose.
        op: from the source tensors to the target tensor or tensors.
        required: whether a checkpoint without these keys is incomplete.
    """

    sources: str | tuple[str, ...]
    targets: str | tuple[str, ...] | None
    op: Op = keep
    required: bool = True

    @cached_property
    def source_patterns(self) -> tuple[str, ...]:
        """``sources`` as a tuple."""
        return (self.sources,) if isinstance(self.sources, str) else self.sources

    @cached_property
    def target_patterns(self) -> tuple[str, ...]:
        """``targets`` as a tuple, empty where the key is dropped."""
        if self.targets is None:
            return ()
        return (self.targets,) if isinstance(self.targets, str) else self.targets


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of keys as a regular expression; equal holes match equal numbers."""
    seen: set[str] = set()

    def group(name: str) -> str:
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return rf"(?P<{name}>\d+)"

    parts = _HOLE.split(pattern)
    text = "".join(group(p) if n % 2 else re.escape(p) for n, p in enumerate(parts))
    return re.compile(text)


@dataclass(frozen=True)
class Step:
    """One planned transfer: these source keys, through ``op``, to these parameters."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    op: Op


@dataclass(frozen=True)
class Plan:
    """A complete assignment of source keys to parameters, not yet carried out."""

    steps: tuple[Step, ...]
    dropped: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Every parameter the plan fills."""
        return tuple(t for s in self.steps for t in s.targets)


@dataclass(frozen=True)
class Layout:
    """A foreign checkpoint layout: its name and the rules that read it."""

    name: str
    rules: tuple[Rule, ...] = field(repr=False)


class _Problems:
    """Collects what is wrong, so that one error can name all of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, title: str, keys: Iterable[str]) -> None:
        found = sorted(keys)
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            self.lines.append(f"{title}: {', '.join(found[:_SHOWN])}{more}")

    def raise_if_any(self, where: str) -> None:
        if self.lines:
            raise CheckpointError(f"{where}: " + "; ".join(self.lines))


def plan(rules: Sequence[Rule], keys: Iterable[str], where: str = "checkpoint") -> Plan:
    """Assign every key of a checkpoint by exactly one rule.

    Args:
        rules: the layout's rules.
        keys: the checkpoint's tensor names.
        where: what to call the checkpoint in an error.

    Raises:
        CheckpointError: keys without a rule, keys that two rules claim, rules without a key, or a rule
            whose companion keys are missing. All of them are named at once.
    """
    return _plan(rules, _Keys(keys), where)


class _Keys:
    """A checkpoint's keys by their outline, so that a pattern meets only those that it may match."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.all = dict.fromkeys(keys)
        self._alike: dict[str, list[str]] = {}
        for key in self.all:
            self._alike.setdefault(_DIGITS.sub("#", key), []).append(key)

    def matching(self, pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
        """The keys that a pattern matches, and what stands in its holes."""
        if "{" not in pattern:
            if pattern in self.all:
                yield pattern, {}
            return
        alike = self._alike.get(_HOLES_OR_DIGITS.sub("#", pattern))
        if alike:
            regex = compile_pattern(pattern)
            for key in alike:
                if match := regex.fullmatch(key):
                    yield key, match.groupdict()


_DIGITS = re.compile(r"\d+")
_HOLES_OR_DIGITS = re.compile(r"(?:\{\w+\}|\d)+")


def _plan(rules: Sequence[Rule], keys: _Keys, where: str) -> Plan:
    claims: dict[str, int] = dict.fromkeys(keys.all, 0)
    steps: list[Step] = []
    dropped: list[str] = []
    problems = _Problems()
    missing: list[str] = []
    for rule in rules:
        found = _instances(rule, keys)
        if rule.required and not found:
            missing.extend(rule.source_patterns)
        for holes in found:
            sources = tuple(_fill(p, holes) for p in rule.source_patterns)
            missing.extend(s for s in sources if s not in claims)
            for s in sources:
                if s in claims:
                    claims[s] += 1
            if rule.target_patterns:
                targets = tuple(_fill(p, holes) for p in rule.target_patterns)
                steps.append(Step(sources, targets, rule.op))
            else:
                dropped.extend(sources)
    problems.add("missing", missing)
    problems.add("unexpected", (k for k, n in claims.items() if n == 0))
    problems.add("claimed by two rules", (k for k, n in claims.items() if n > 1))
    problems.raise_if_any(where)
    return Plan(tuple(steps), tuple(dropped))


def _instances(rule: Rule, keys: _Keys) -> list[dict[str, str]]:
    """Every distinct set of layer numbers for which some source key of the rule is there."""
    found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for pattern in rule.source_patterns:
        for _, holes in keys.matching(pattern):
            found.setdefault(tuple(sorted(holes.items())), holes)
    return list(found.values())


def _fill(pattern: str, holes: Mapping[str, str]) -> str:
    return _HOLE.sub(lambda m: holes[m[1]], pattern)


def find_layout(layouts: Sequence[Layout], keys: Iterable[str], where: str = "checkpoint") -> Layout:
    """The one layout whose rules resolve the keys fully; shapes are never guessed from.

    Raises:
        CheckpointError: none resolves (the message tells the nearest one's problems), or two do.
    """
    grouped = _Keys(keys)
    fits, reasons = [], []
    for layout in layouts:
        try:
            _plan(layout.rules, grouped, where)
            fits.append(layout)
        except CheckpointError as error:
            reasons.append((-_overlap(layout, grouped), layout.name, str(error)))
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise CheckpointError(f"{where} fits several layouts: {', '.join(f.name for f in fits)}")
    overlap, name, reason = min(reasons)
    if not overlap:
        raise CheckpointError(
            f"{where}: none of its {len(grouped.all)} keys is known ({', '.join(list(grouped.all)[:4])} …); "
            "'mlx-convert list' shows what is read"
        )
    raise CheckpointError(f"{reason} (nearest layout: {name}; 'mlx-convert list' shows all)")


def _overlap(layout: Layout, keys: _Keys) -> int:
    patterns = (p for rule in layout.rules for p in rule.source_patterns)
    return len({key for pattern in patterns for key, _ in keys.matching(pattern)})


def convert(
    plan: Plan,
    source: Mapping[str, mx.array],
    shapes: Mapping[str, tuple[int, ...]],
    where: str = "checkpoint",
) -> dict[str, mx.array]:
    """Carry a plan out and check the result against the model's parameters.

    Args:
        plan: from :func:`plan`.
        source: the checkpoint's tensors by key; read one step at a time.
        shapes: every parameter of the model and its shape.
        where: what to call the checkpoint in an error.

    Returns:
        The model's parameters by name, lazily where ``source`` is lazy.

    Raises:
        CheckpointError: a parameter is not filled, filled twice or unknown, or has another shape.
    """
    _check_targets(plan.targets, shapes, where)
    out: dict[str, mx.array] = {}
    problems = _Problems()
    for step in plan.steps:
        try:
            out.update(_carry_out(step, source, where))
        except ValueError as error:
            problems.add("unusable", [f"{', '.join(step.sources)} ({error})"])
    problems.add(
        "wrong shape",
        (
            f"{k} {tuple(v.shape)}, expected {tuple(shapes[k])}"
            for k, v in out.items()
            if tuple(v.shape) != tuple(shapes[k])
        ),
    )
    problems.raise_if_any(where)
    return out


def stream(
    plan: Plan, source: Mapping[str, mx.array], where: str = "checkpoint"
) -> Iterator[tuple[str, mx.array]]:
    """Carry out a plan that :func:`convert` found good, one step at a time: each parameter and its tensor.

    Nothing is held that was given out, so that a checkpoint larger than memory can pass through.
    """
    for step in plan.steps:
        yield from _carry_out(step, source, where)


def _carry_out(step: Step, source: Mapping[str, mx.array], where: str) -> Iterable[tuple[str, mx.array]]:
    made = step.op(*(source[k] for k in step.sources))
    tensors = [made] if isinstance(made, mx.array) else list(made)
    if len(tensors) != len(step.targets):
        raise CheckpointError(
            f"{where}: a rule for {step.sources} made {len(tensors)} tensors for {step.targets}"
        )
    return zip(step.targets, tensors, strict=True)


def _check_targets(targets: Sequence[str], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    problems = _Problems()
    unique = set(targets)
    problems.add("not filled", (k for k in shapes if k not in unique))
    problems.add("not in the model", (t for t in unique if t not in shapes))
    problems.add(
        "filled twice", (t for t in unique if targets.count(t) > 1) if len(unique) != len(targets) else ()
    )
    problems.raise_if_any(where)
