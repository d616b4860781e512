"""Errors of Python functions name keywords, and errors of commands name options."""

from __future__ import annotations

import pytest

from fewstep.core.errors import Problem, RecipeError, UserError
from fewstep.core.python_words import in_python, python_words


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("--top-p: should be greater than 0", "top_p: should be greater than 0"),
        ("leave --label out", "leave label out"),
        ("continue with --resume runs/a b", 'continue with resume="runs/a" b'),
        ("name another with --out, or delete it", "name another with out, or delete it"),
        ("--jobs and --cluster exclude each other", "jobs and cluster exclude each other"),
        ("export the run with `--weights raw`", 'export the run with `weights="raw"`'),
        (
            "read it, and --trust-plugins runs it (in Python: trust_plugins=True)",
            "read it, and trust_plugins=True runs it",
        ),
        ("name one with --teacher RUN, or use `fewstep train`", "name one with teacher=RUN, or use `fewstep.train`"),
        ("use `fewstep distill RECIPE --teacher RUN`", "use `fewstep.distill(RECIPE, teacher=RUN)`"),
        ("train one first: fewstep train mine", 'train one first: fewstep.train("mine")'),
        (
            "name the data in it: fewstep train text-teacher --set data.type=text --set train.steps=9",
            'name the data in it: fewstep.train("text-teacher", changes={"data.type": "text", "train.steps": 9})',
        ),
        ("make one with `fewstep export RUN --out few`", "make one with `fewstep export RUN --out few`"),
        ("choose a range a--b, or -- nothing", "choose a range a--b, or -- nothing"),
        ("say --set train.steps=10", 'say changes={"train.steps": 10}'),
        ("a name of your own with --repo", "a name of your own with repo_id"),
    ],
)
def test_options_become_keywords(text: str, python: str) -> None:
    assert in_python(text) == python
    assert in_python(python) == python, "what is translated stays"


def test_an_error_keeps_its_class_and_its_problems() -> None:
    with pytest.raises(RecipeError) as caught, python_words(), python_words():
        raise RecipeError([Problem("--set", 1, "a.b", "unknown; see --teacher RUN"), Problem("x.yaml", 2, "", "wrong")])
    assert str(caught.value) == "changes:1: a.b: unknown; see teacher=RUN\nx.yaml:2: wrong"
    assert [problem.source for problem in caught.value.problems] == ["changes", "x.yaml"]
    with pytest.raises(UserError, match=r"^leave label out$"), python_words():
        raise UserError("leave --label out")
