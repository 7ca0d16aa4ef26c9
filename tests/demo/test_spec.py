"""Methods with arguments, as they are written on the command line."""

from __future__ import annotations

import pytest

from mtl_ops import methods
from mtl_ops.demo.config import Run
from mtl_ops.demo.spec import make_method, parse, split_methods


def test_commas_separate_methods_and_their_arguments() -> None:
    assert split_methods(["sum, cagrad:c=0.2, rescale=1,pcgrad", "sum"]) == (
        "sum",
        "cagrad:c=0.2,rescale=1",
        "pcgrad",
    )
    assert split_methods(["constant:weights=[1,2],mean"]) == ("constant:weights=[1,2]", "mean")


def test_arguments_are_literals_or_words() -> None:
    assert parse("a:x=1e-3,y=[1,2],z=None,w=word") == (
        "a",
        {"x": 1e-3, "y": [1, 2], "z": None, "w": "word"},
    )
    assert parse("sum") == ("sum", {})


def test_the_method_gets_them() -> None:
    method = make_method("cagrad:c=0.2")
    assert isinstance(method, methods.CAGrad)
    assert method.c == 0.2


@pytest.mark.parametrize("spec", ["cagrad:c", "cagrad:=1", "cagrad:c=", "cagrad:0.2"])
def test_what_is_no_argument_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"written as 'cagrad:c=0.2'. Found '"):
        parse(spec)


def test_files_of_a_method_with_arguments_stay_in_their_folder() -> None:
    run = Run("cagrad:path='../x'", 0, ("a", "b"))
    assert "/" not in run.name
    assert run.name != Run("cagrad:path='..x'", 0, ("a", "b")).name
