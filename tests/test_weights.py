"""The rule engine: each key by one rule, each parameter filled once, and errors that name what is not."""

from __future__ import annotations

import re

import mlx_speech  # isort: skip  # noqa: F401  (first: it loads the BLAS)

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_speech.converters._table import families
from mlx_speech.converters.whisper import CTRANSLATE2, HUGGING_FACE, OPENAI
from mlx_speech.errors import CheckpointError
from mlx_speech.weights import Layout, Rule, add, conv, convert, find_layout, plan, split, squeeze

RULES = (
    Rule("model.layers.{i}.fc.weight", "blocks.{i}.fc.weight"),
    Rule("model.layers.{i}.fc.bias", "blocks.{i}.fc.bias"),
    Rule(("rnn.bias_ih", "rnn.bias_hh"), "lstm.bias", add),
    Rule("attn.qkv", ("attn.query", "attn.key", "attn.value"), split(3)),
    Rule("conv.weight", "conv.weight", conv),
    Rule("stft", "stft", squeeze(1)),
    Rule("counter", None),
    Rule("tied", None, required=False),
)
SOURCE = {
    "model.layers.0.fc.weight": mx.full((2, 3), 1.0),
    "model.layers.0.fc.bias": mx.full((2,), 2.0),
    "model.layers.12.fc.weight": mx.full((2, 3), 3.0),
    "model.layers.12.fc.bias": mx.full((2,), 4.0),
    "rnn.bias_ih": mx.array([1.0, 2.0]),
    "rnn.bias_hh": mx.array([10.0, 20.0]),
    "attn.qkv": mx.arange(12).reshape(6, 2),
    "conv.weight": mx.arange(24).reshape(2, 3, 4),
    "stft": mx.ones((5, 1, 4)),
    "counter": mx.array(7),
}
SHAPES = {
    "blocks.0.fc.weight": (2, 3),
    "blocks.0.fc.bias": (2,),
    "blocks.12.fc.weight": (2, 3),
    "blocks.12.fc.bias": (2,),
    "lstm.bias": (2,),
    "attn.query": (2, 2),
    "attn.key": (2, 2),
    "attn.value": (2, 2),
    "conv.weight": (2, 4, 3),
    "stft": (5, 4),
}


def run(source=SOURCE, rules=RULES, shapes=SHAPES) -> dict[str, mx.array]:
    return convert(plan(rules, source, "file.bin"), source, shapes, "file.bin")


def refuses(message: str, **given) -> str:
    with pytest.raises(CheckpointError, match=message) as caught:
        run(**given)
    assert str(caught.value).startswith("file.bin: ")
    return str(caught.value)


def without(*keys: str) -> dict[str, mx.array]:
    return {k: v for k, v in SOURCE.items() if k not in keys}


# --- what it does -----------------------------------------------------------------------------------------


def test_every_kind_of_rule():
    found = run()
    assert set(found) == set(SHAPES)
    assert (np.array(found["blocks.0.fc.weight"]) == 1).all()
    assert (np.array(found["blocks.12.fc.bias"]) == 4).all()
    assert found["lstm.bias"].tolist() == [11, 22]
    assert [found[f"attn.{n}"].tolist() for n in ("query", "key", "value")] == [
        [[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]],
    ]  # fmt: skip
    assert np.array_equal(found["conv.weight"], np.arange(24).reshape(2, 3, 4).transpose(0, 2, 1))


def test_plan_tells_what_it_fills_and_drops():
    found = plan(RULES, SOURCE)
    assert set(found.targets) == set(SHAPES)
    assert found.dropped == ("counter",)
    assert plan(RULES, [*SOURCE, "tied"]).dropped == ("counter", "tied")


def test_split_can_leave_parts_out():
    x = mx.arange(6)
    assert [p.tolist() for p in split(3)(x)] == [[0, 1], [2, 3], [4, 5]]
    assert [p.tolist() for p in split(3, drop=[1])(x)] == [[0, 1], [4, 5]]


def test_convolutions_of_any_rank():
    for rank in (1, 2, 3):
        shape = (5, 4, *range(1, rank + 1))
        found = conv(mx.zeros(shape))
        assert found.shape == (5, *range(1, rank + 1), 4)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=8, unique=True), st.randoms())
def test_any_layer_numbers_in_any_order(layers, random):
    rules = (Rule("a.{i}.x.{j}", "b.{j}.y.{i}"), Rule("a.{i}.twin.{i}", "c.{i}"))
    source = {f"a.{i}.x.{i + 1}": mx.array(i) for i in layers} | {
        f"a.{i}.twin.{i}": mx.array(-i) for i in layers
    }
    keys = list(source)
    random.shuffle(keys)
    shapes = {f"b.{i + 1}.y.{i}": () for i in layers} | {f"c.{i}": () for i in layers}
    found = convert(plan(rules, keys), source, shapes)
    assert {k: v.item() for k, v in found.items()} == (
        {f"b.{i + 1}.y.{i}": i for i in layers} | {f"c.{i}": -i for i in layers}
    )


def test_a_pattern_is_a_whole_literal_key():
    rules = (Rule("a.{i}.w", "a.{i}.w"),)
    for key in ("a.0.w.x", "x.a.0.w", "a.0xw", "a..w", "a.-1.w", "a.0.5.w", "a.0.w\n"):
        with pytest.raises(CheckpointError, match=re.escape(f"unexpected: {key}")):
            plan(rules, ["a.0.w", key])
    with pytest.raises(CheckpointError, match="unexpected"):  # both numbers must be the same
        plan((Rule("a.{i}.b.{i}", "c.{i}"),), ["a.1.b.1", "a.1.b.2"])


# --- what it refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [k for k in SOURCE if not k.startswith("model")])
def test_a_missing_key_is_named(key):
    refuses(rf"missing: .*{re.escape(key)}", source=without(key))


def test_a_missing_layer_is_named_by_what_it_does_not_fill():
    refuses(r"not filled: blocks\.12\.fc\.bias$", source=without("model.layers.12.fc.bias"))
    both = without("model.layers.0.fc.bias", "model.layers.12.fc.bias")
    refuses(r"missing: model\.layers\.\{i\}\.fc\.bias$", source=both)


def test_a_missing_companion_is_named_alone():
    message = refuses("missing", source=without("rnn.bias_hh"))
    assert message == "file.bin: missing: rnn.bias_hh"


@given(st.text(alphabet="abc.0{}i", min_size=1).filter(lambda k: k not in SOURCE))
def test_any_unexpected_key_is_named(key):
    refuses(re.escape(f"unexpected: {key}") + "$", source=SOURCE | {key: mx.zeros(1)})


def test_a_key_that_two_rules_claim_is_named():
    rules = (*RULES, Rule("model.layers.{i}.fc.{j}", None, required=False), Rule("conv.weight", "other"))
    refuses("claimed by two rules: conv.weight$", rules=rules)


def test_everything_wrong_is_told_at_once():
    source = without("stft", "rnn.bias_ih") | {"more": mx.zeros(1)}
    message = refuses("missing", source=source)
    assert message == "file.bin: missing: rnn.bias_ih, stft; unexpected: more"


def test_many_keys_are_counted():
    keys = {f"x{n:03d}": mx.zeros(1) for n in range(50)}
    assert "x000, x001" in refuses("unexpected", source=SOURCE | keys)
    assert "and 42 more" in refuses("unexpected", source=SOURCE | keys)


@pytest.mark.parametrize("key", SHAPES)
def test_a_wrong_shape_is_named(key):
    shapes = SHAPES | {key: (9, 9)}
    refuses(rf"wrong shape: {re.escape(key)} \(.*\), expected \(9, 9\)$", shapes=shapes)


@pytest.mark.parametrize("key", SHAPES)
def test_a_parameter_that_nothing_fills_is_named(key):
    refuses(rf"not filled: {re.escape(key)}_2$", shapes=SHAPES | {f"{key}_2": (1,)})
    refuses(rf"not in the model: {re.escape(key)}$", shapes={k: v for k, v in SHAPES.items() if k != key})


def test_a_parameter_filled_twice_is_named():
    rules = (*RULES[:-1], Rule("tied", "stft"))
    refuses("filled twice: stft$", rules=rules, source=SOURCE | {"tied": mx.zeros((5, 4))})


def test_an_operation_that_does_not_fit_is_named():
    refuses(
        r"unusable: attn\.qkv \(7 rows do not divide into 3", source=SOURCE | {"attn.qkv": mx.zeros((7, 2))}
    )
    refuses("unusable: stft", source=SOURCE | {"stft": mx.zeros((5, 2, 4))})
    for shape in ((3,), (1,), ()):  # not even where it could be broadcast
        refuses("unusable: rnn.bias_ih, rnn.bias_hh", source=SOURCE | {"rnn.bias_hh": mx.zeros(shape)})


def test_a_rule_of_the_wrong_arity_is_named():
    rules = tuple(
        Rule("attn.qkv", ("attn.query", "attn.key"), split(3)) if "qkv" in r.sources else r for r in RULES
    )
    shapes = {k: v for k, v in SHAPES.items() if k != "attn.value"}
    refuses("made 3 tensors for", rules=rules, shapes=shapes)


# --- layouts ----------------------------------------------------------------------------------------------


def test_the_layout_that_resolves_is_found():
    layouts = (Layout("a", (Rule("x", "x"),)), Layout("b", (Rule("x", "x"), Rule("y", "y"))))
    assert find_layout(layouts, ["x"]).name == "a"
    assert find_layout(layouts, ["y", "x"]).name == "b"


def test_no_layout_names_the_nearest_and_what_it_lacks():
    layouts = (Layout("a", (Rule("x", "x"),)), Layout("b", (Rule("y", "y"), Rule("z", "z"), Rule("w", "w"))))
    with pytest.raises(CheckpointError, match=r"here: missing: w .*nearest layout: b; "):
        find_layout(layouts, ["y", "z"], "here")


def test_two_layouts_that_both_fit_are_refused():
    layouts = (Layout("a", (Rule("x", "x"),)), Layout("b", (Rule("x", "y"),)))
    with pytest.raises(CheckpointError, match="several layouts: a, b"):
        find_layout(layouts, ["x"])


def test_layouts_of_all_families_have_names_of_their_own():
    layouts = [layout for family in families() for layout in family.layouts]
    names = [layout.name for layout in layouts]
    assert len(set(names)) == len(names)
    for a in (HUGGING_FACE, OPENAI, CTRANSLATE2):
        assert a.name in names
