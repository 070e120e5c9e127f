"""The architecture file: a round trip for any architecture, a refusal for anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pas.architecture import Architecture
from pas.errors import PasError

axis = st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1)))
architectures = st.dictionaries(st.text(min_size=1, max_size=9), axis, min_size=1, max_size=6).map(
    lambda axes: Architecture(
        {k: n for k, (n, _) in axes.items()}, {k: tuple(sorted(kept)) for k, (_, kept) in axes.items()}
    )
)


@given(architectures)
def test_round_trip(architecture: Architecture) -> None:
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert list(again.sizes) == list(architecture.sizes)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_other_json_is_refused_in_one_line(value: object) -> None:
    with pytest.raises(PasError) as refusal:
        Architecture.from_json(json.dumps(value))
    assert "\n" not in str(refusal.value)


@given(st.text())
def test_text_is_refused(text: str) -> None:
    with pytest.raises(PasError):
        Architecture.from_json(text)


@given(architectures, st.data())
def test_damaged_files_are_refused_or_equal(architecture: Architecture, data: st.DataObject) -> None:
    """Any byte changed: refused, or still an architecture with legal channels; never another exception."""
    text = architecture.to_json()
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.characters()) + text[at + 1 :]
    try:
        found = Architecture.from_json(damaged)
    except PasError:
        return
    for name, kept in found.kept.items():
        assert 0 <= kept[0] <= kept[-1] < found.sizes[name]


def test_keep() -> None:
    dense = Architecture({"a": 4, "b": 2}, {"a": (0, 1, 2, 3), "b": (0, 1)})
    assert dense.keep("a", [2, 0]).kept == {"a": (0, 2), "b": (0, 1)}
    assert dense.kept["a"] == (0, 1, 2, 3)
    assert dense.keep("b", [1]).widths() == {"a": 4, "b": 1}


@pytest.mark.parametrize(
    ("axis", "kept", "words"),
    [
        ("a", [], "last channel"),
        ("a", [4], "channels 0 to 3"),
        ("a", [-1], "channels 0 to 3"),
        ("aa", [0], "near: a"),
        ("a", [1, 1], "twice"),
    ],
)
def test_illegal_channels(axis: str, kept: list[int], words: str) -> None:
    with pytest.raises(PasError, match=words):
        Architecture({"a": 4}, {"a": (0, 1, 2, 3)}).keep(axis, kept)


def test_newer_files_are_refused() -> None:
    with pytest.raises(PasError, match="newer"):
        Architecture.from_json('{"schema": 2, "axes": {}}')


@pytest.mark.parametrize(
    ("indices", "told"),
    [
        ([True, False], "this is a mask; channels are listed: numpy.flatnonzero(mask)"),
        (np.array([True] * 4), "this is a mask"),
        (torch.arange(4) < 2, "this is a mask"),
        ([1.0, 2.0], "channels are whole numbers, not 1.0"),
        (["1"], "channels are whole numbers, not '1'"),
        (slice(0, 2), "channels are listed, such as range(0, 8), not slice(0, 2, None)"),
        (2, "channels are listed, such as range(2) for the first 2"),
        ([0, 0], "an index is listed twice"),
    ],
)
def test_channels_that_are_no_list_of_indices_are_refused(indices: object, told: str) -> None:
    with pytest.raises(PasError, match=re.escape(told)):
        Architecture({"a": 4}, {"a": (0, 1, 2, 3)}).keep("a", indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("indices", [[1, 2], range(1, 3), np.array([2, 1]), torch.tensor([1, 2]), {1, 2}, (i for i in (1, 2))])
def test_channels_of_any_kind_of_whole_numbers(indices: Iterable[int]) -> None:
    assert Architecture({"a": 4}, {"a": (0, 1, 2, 3)}).keep("a", indices).kept == {"a": (1, 2)}
