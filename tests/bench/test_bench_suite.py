"""Suites: every mistake is reported at once, where it was made, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep.bench.running.plan import make_plan
from fewstep.bench.suites.loading import load_suite
from fewstep.core.errors import RecipeError, UserError

Write = Callable[..., str]


def problems(source: str) -> dict[str, str]:
    """Messages by key, after a check that each says where in the suite it stands."""
    with pytest.raises(RecipeError) as caught:
        make_plan(load_suite(source), Path("unused"))
    assert all(problem.source == source and problem.line for problem in caught.value.problems)
    return {problem.key: problem.message for problem in caught.value.problems}


def case(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "recipe": "./teacher.yaml", "steps": [2], **changes}


def test_line_of_an_unknown_key_and_its_nearest(write_suite: Write) -> None:
    source = write_suite(headlin="ngram_tv", headline=None)
    with pytest.raises(RecipeError) as caught:
        load_suite(source)
    line = Path(source).read_text().splitlines().index("headlin: ngram_tv") + 1
    assert f"{source}:{line}: headlin: unknown key 'headlin'; did you mean 'headline'?" in str(caught.value)


def test_unknown_metric(write_suite: Write) -> None:
    found = problems(write_suite(metrics=["exact_nl"]))
    assert "no metric named 'exact_nl'; did you mean 'exact_nll'?" in found["metrics[0]"]


@pytest.mark.parametrize(
    ("headline", "message"),
    [
        ("ngram_t", "no value of these metrics named 'ngram_t'; did you mean 'ngram_tv'?"),
        ("exact_nll", "neither high nor low is better for 'exact_nll'; comparable values: ngram_tv"),
    ],
)
def test_headline_must_be_a_value_that_compares(write_suite: Write, headline: str, message: str) -> None:
    assert message in problems(write_suite(headline=headline))["headline"]


@pytest.mark.parametrize("key", ["headline", "diversity"])
def test_a_value_of_models_is_no_headline(write_suite: Write, key: str) -> None:
    message = "'bound_bits' is a value of models, not of samples; name a value of samples"
    metrics = [{"type": "ngram_distance", "order": 2}, "likelihood_bound"]
    assert problems(write_suite(metrics=metrics, **{key: "bound_bits"}))[key] == message


def test_diversity_must_be_a_value(write_suite: Write) -> None:
    found = problems(write_suite(diversity="ngram_t"))
    assert "no value of these metrics named 'ngram_t'; did you mean 'ngram_tv'?" in found["diversity"]


def test_names_seeds_and_steps_occur_once(write_suite: Write) -> None:
    cases = [case("a", steps=[2, 2]), case("a"), case("data")]
    found = problems(write_suite(cases=cases, claims=None, seeds=[1, 1]))
    assert found["seeds"] == "1 is listed twice"
    assert found["cases[0].steps"] == "2 is listed twice"
    assert "another case is called 'a'" in found["cases[1].name"]
    assert "'data' is the name of the row of real samples" in found["cases[2].name"]


def test_seeds_of_training_occur_once_and_are_set_in_one_place(write_suite: Write) -> None:
    found = problems(write_suite(train_seeds=[1, 1], set=["seed=2"], cases=[case("a", set=["seed = 3"])], claims=None))
    assert found["train_seeds"] == "1 is listed twice"
    assert "the suite's `train_seeds` set the seed of every training" in found["set[0]"]
    assert "remove one of them" in found["cases[0].set[0]"]


def test_changes_to_all_recipes_come_before_those_of_a_case(write_suite: Write) -> None:
    cases = [case("a"), case("b", set=["train.steps=7"])]
    loaded = load_suite(write_suite(set=["train.steps=5", "train.batch_size=8"], cases=cases, claims=None))
    trains = [prepared.recipe.train for prepared in make_plan(loaded, Path("unused")).cases]
    assert [(train.steps, train.batch_size) for train in trains] == [(5, 8), (7, 8)]


def test_a_wrong_change_is_reported_where_it_was_written(write_suite: Write) -> None:
    cases = [case("a", set=["train.stepz=1", "train.batch_size=8"])]
    found = problems(write_suite(set=["train.batch_size=8", "optim.lr=fast"], cases=cases, claims=None))
    assert "optim.lr" in found["set[1]"]
    assert "train.stepz" in found["cases[0].set[0]"]


def test_changes_from_the_command_line_come_last_and_their_mistakes_are_told_so(write_suite: Write) -> None:
    source = write_suite(set=["train.steps=5"], cases=[case("a", set=["train.steps=7"])], claims=None)
    (only,) = make_plan(load_suite(source, sets=["train.steps=9"]), Path("unused")).cases
    assert only.recipe.train.steps == 9
    with pytest.raises(RecipeError) as caught:
        make_plan(load_suite(source, sets=["train.steps=9", "train.stepz=9"]), Path("unused"))
    assert str(caught.value).startswith("--set:2: train.stepz: unknown key 'stepz'; did you mean 'steps'?")
    with pytest.raises(UserError, match="the suite trains with seeds of its own"):
        load_suite(write_suite(train_seeds=[0, 1]), sets=["seed=1"])


def test_a_teacher_is_an_earlier_trained_case(write_suite: Write) -> None:
    cases = [
        case("a", teacher="late"),
        case("b", teacher="nobody"),
        case("exact", oracle=True),
        case("c", teacher="exact"),
        case("d", oracle=True, teacher="a"),
        case("e", start_from={"student": "exact", "auxiliary": "late"}),
        case("late"),
    ]
    found = problems(write_suite(cases=cases, claims=None))
    assert "must come before" in found["cases[0].teacher"]
    assert "no case named 'nobody'" in found["cases[1].teacher"]
    assert "must be a trained model" in found["cases[3].teacher"]
    assert "has no teacher and no training" in found["cases[4].teacher"]
    assert "must be a trained model" in found["cases[5].start_from.student"]
    assert "must come before" in found["cases[5].start_from.auxiliary"]


def test_a_role_that_cannot_start_from_a_case(write_suite: Write) -> None:
    cases = [case("a"), case("b", recipe="./student.yaml", teacher="a", start_from={"studnt": "a"})]
    found = problems(write_suite(cases=cases, claims=None))
    assert "trains no role 'studnt'; did you mean 'student'?" in found["cases[1].start_from.studnt"]


def test_what_a_metric_refers_to_must_be_there(write_suite: Write) -> None:
    places = ("techer", "hf:none.gguf", "hf:gpt2")
    metrics = ["ngram_distance", *({"type": "gradient_moment", "reference": place} for place in places)]
    found = problems(write_suite(metrics=metrics, cases=[case("teacher")], claims=None))
    assert found["metrics[1].reference"] == "no case, run or file named 'techer'; did you mean 'teacher'?"
    assert found["metrics[2].reference"] == "no case, run or file named 'hf:none.gguf'"
    assert "metrics[3].reference" not in found, "the Hub is not asked before anything is measured"


def test_what_a_recipe_starts_from_must_be_a_case(write_suite: Write) -> None:
    cases = [case("a"), case("b", recipe="./student.yaml", teacher="a", set=["start_from.student=runs/x"])]
    found = problems(write_suite(cases=cases, claims=None))
    assert "name its case with `start_from: {student: CASE}`" in found["cases[1].recipe"]


def test_claims_name_cases_and_steps_that_are_measured(write_suite: Write) -> None:
    claims = [
        {"case": "studnt", "steps": 2, "against": "teacher", "at": 3, "expect": "better"},
        {"case": "student", "steps": 8, "against": "student", "expect": "better"},
        {"case": "student", "steps": 2, "against": "student", "expect": "not_worse"},
    ]
    found = problems(write_suite(claims=claims))
    assert "no case named 'studnt'; did you mean 'student'?" in found["claims[0].case"]
    assert found["claims[0].at"] == "case 'teacher' is not measured at 3 steps; it is at 2, 4"
    assert "not measured at 8 steps" in found["claims[1].steps"]
    assert found["claims[2]"] == "compares a case with itself"


def test_mistakes_in_recipes_are_found_before_training(write_suite: Write) -> None:
    cases = [
        case("a", set=["optim.lr=1e-3", "train.step=3"]),
        case("b", recipe="./student.yaml"),
        case("c", recipe="no-such-recipe"),
        case("d", recipe="./gone.yaml"),
        case("e", teacher="a"),
    ]
    found = problems(write_suite(cases=cases, claims=None))
    assert found["cases[0].set[1]"] == "train.step: unknown key 'step'; did you mean 'steps'?"
    assert "name its case with `teacher: CASE`" in found["cases[1].recipe"]
    assert "no shipped recipe named 'no-such-recipe'" in found["cases[2].recipe"]
    assert "no such file" in found["cases[3].recipe"]
    assert "no role for a teacher" in found["cases[4].teacher"]


def test_all_cases_share_their_data_and_metrics_suit_them(write_suite: Write) -> None:
    cases = [case("a"), case("b", set=["data.vocab_size=5"]), case("c", set=["data=coins"], oracle=True)]
    found = problems(write_suite(cases=cases, claims=None, metrics=["ngram_distance", "feature_frechet"]))
    assert found["cases[1].recipe"] == "its data differ from those of case 'a'; all cases must share them"
    assert found["cases[2].oracle"] == "dataset 'coins' has no oracle; datasets with one: markov"
    assert "it needs labelled images" in found["metrics[1]"]


def test_a_quick_change_that_no_recipe_knows_is_reported_where_it_was_written(write_suite: Write) -> None:
    cases = [case("a", set=["optim.lr=1e-3"], quick_set=["train.log_every=1", "ema.deacy=0.5"])]
    source = write_suite(cases=cases, claims=None, quick={"set": ["train.steps=4", "train.stes=4"]})
    with pytest.raises(RecipeError) as caught:
        make_plan(load_suite(source, quick=True), Path("unused"))
    assert [problem.key for problem in caught.value.problems] == ["quick.set[1]", "cases[0].quick_set[1]"]


def test_quick_replaces_samples_seeds_and_steps_and_adds_changes(write_suite: Write) -> None:
    suite = load_suite(write_suite(), quick=True).suite
    assert (suite.samples, suite.seeds) == (16, (5,))
    assert all(spec.steps == (2,) and spec.set == ("train.steps=4",) for spec in suite.cases)


def test_quick_has_tolerances_of_its_own(write_suite: Write) -> None:
    source = write_suite(tolerances={"ngram_tv": 0.1}, quick={"tolerances": {"ngram_tv": 0.3}})
    assert load_suite(source).suite.tolerances == {"ngram_tv": 0.1}
    assert load_suite(source, quick=True).suite.tolerances == {"ngram_tv": 0.3}
    source = write_suite(tolerances={"ngram_tv": 0.1}, quick={"tolerances": {}})
    assert load_suite(source, quick=True).suite.tolerances == {}


def test_tolerances_are_about_values_that_compare(write_suite: Write) -> None:
    quick = {"tolerances": {"exact_nll": 0.1, "ngram": 0.1}}
    found = problems(write_suite(tolerances={"ngram_tx": 0.1, "exact_nll": 0.1}, quick=quick))
    assert "did you mean 'ngram_tv'" in found["tolerances.ngram_tx"]
    assert "no value of these metrics named 'ngram'" in found["quick.tolerances.ngram"]
    for place in ("tolerances", "quick.tolerances"):
        assert found[f"{place}.exact_nll"] == "neither high nor low is better, so it is not compared; remove it"


def test_a_case_has_quick_changes_of_its_own_which_come_last(write_suite: Write) -> None:
    source = write_suite(cases=[case("a", quick_set=["train.steps=3"]), case("b")], claims=None)
    assert load_suite(source).suite.cases[0].set == ()
    assert load_suite(source, quick=True).suite.cases[0].set == ("train.steps=4", "train.steps=3")
    assert load_suite(source, quick=True).suite.cases[1].set == ("train.steps=4",)


def test_quick_without_its_section_is_refused(write_suite: Write) -> None:
    with pytest.raises(RecipeError, match="needs a section `quick:`"):
        load_suite(write_suite(quick=None), quick=True)


def test_unknown_suite_name() -> None:
    with pytest.raises(RecipeError, match="no shipped suite named 'no-such-suite'"):
        load_suite("no-such-suite")


def test_digests_follow_recipe_teacher_and_data(write_suite: Write, tmp_path: Path) -> None:
    def digests(folder: str, *sets: str, on: int = 0) -> list[str]:
        cases = [case("a"), case("b", recipe="./student.yaml", teacher="a"), case("c", oracle=True)]
        cases[on]["set"] = list(sets)
        plan = make_plan(load_suite(write_suite(cases=cases, claims=None)), tmp_path / folder)
        return [prepared.digest for prepared in plan.cases]

    first = digests("x")
    assert digests("y") == first, "the folder does not matter"
    assert len(set(first)) == 3
    changed = digests("x", "optim.lr=1e-3")
    assert changed[0] != first[0]
    assert changed[1] != first[1], "a student's model depends on its teacher's"
    assert changed[2] == first[2]
    assert digests("x", "optim.lr=1e-3", on=1)[0] == first[0], "but not the other way round"


def test_a_model_sampled_again_needs_an_earlier_case_and_trains_nothing(write_suite: Write) -> None:
    again = {"name": "again", "model": "a", "steps": [2]}
    cases = [
        {"name": "none", "steps": [2]},
        {**again, "name": "early"},
        case("a", sampler="ancestral"),
        {**again, "name": "both", "recipe": "./teacher.yaml"},
        {**again, "name": "set", "set": ["train.steps=3"]},
        {**again, "name": "typo", "model": "aa"},
        case("b", grid_search=True),
    ]
    found = problems(write_suite(cases=cases, claims=None))
    assert "give `recipe`, to train a model, or `model`" in found["cases[0]"]
    assert "case 'a' must come before" in found["cases[1].model"]
    assert "goes with `model`" in found["cases[2].sampler"]
    assert "one of them" in found["cases[3]"]
    assert "nothing is trained for a case with `model`; remove it" in found["cases[4].set"]
    assert "no case named 'aa'; did you mean 'a'?" in found["cases[5].model"]
    assert "goes with `model`" in found["cases[6].grid_search"]


def test_steps_are_searched_only_where_that_can_be_done(write_suite: Write) -> None:
    again = {"name": "again", "model": "a", "steps": [2], "grid_search": True}
    found = problems(write_suite(cases=[case("a", oracle=True), again], claims=None))
    assert found["cases[1].grid_search"] == "steps cannot be searched for it: an oracle has no run"


def test_a_sampler_that_does_not_fit_the_model_is_reported_where_it_stands(write_suite: Write) -> None:
    unknown = {"name": "again", "model": "a", "steps": [2], "sampler": {"type": "ancestral", "top_q": 0.9}}
    assert (
        "did you mean 'top_p'?"
        in problems(write_suite(cases=[case("a"), unknown], claims=None))["cases[1].sampler.top_q"]
    )
    blocks = {"name": "again", "model": "a", "steps": [2], "sampler": "block_ancestral"}
    assert "samplers for it" in problems(write_suite(cases=[case("a"), blocks], claims=None))["cases[1].sampler"]
