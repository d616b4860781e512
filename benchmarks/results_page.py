"""The page docs/results.md, written from the committed results. `python benchmarks/results_page.py` rewrites it.

Every figure is a claim of a suite as its results file has it; nothing is chosen by hand. Quick runs are left out, since
their numbers say nothing about the models.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fewstep.bench.report.tables import Grid
from fewstep.bench.results.results import ClaimResult, Results
from fewstep.bench.results.summary import estimate_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/results.md"
FOLDER = ROOT / "benchmarks/results"

VERDICTS = {"better": "better", "level": "no significant difference", "worse": "worse"}
DATA_SETTINGS = {"order": "order", "vocab_size": "V", "length": "L", "levels": "levels"}
"""Settings of data that a row shows, and what it calls them."""

HEAD = """# Does it work?

<!-- written by benchmarks/results_page.py from benchmarks/results; change those, not this page -->

A student is distilled from a teacher and drawn with fewer network evaluations (NFE). A cell such as `16: 5.22 ± 0.33`
is an NFE and the value there; ↓ lower is better, ↑ higher is better. A verdict is "better" or "worse" beyond two
standard errors of the difference. It is **bold** where it contradicts what the suite expected.

± is the standard error over trainings where there are several, else over sampling seeds of one training. A value
without ± has one seed, so its spread is unknown. Values compare within one suite only. Nothing was run on a GPU yet:
all models are small and were trained on two CPU cores.

The name of a suite leads to its notebook: commands, hardware, seeds, what was tried, and what did not work.

## Students against their teachers

Of each student, the expectation against its teacher with the most evaluations.
{summary}
"""
OTHERS = """
## Students against other students and samplers

`plain` is the student without noise input; `tuned-sampler` and `searched-steps` are the teacher with a better sampler.
"""
SUITES = """
## Every suite
"""
WITHOUT_SUITE = """
| measurements without a suite |
| --- |"""


def page() -> str:
    """All of docs/results.md."""
    files = sorted(FOLDER.glob("*/*.json"))
    sets = [(file.parent.name, file.stem, Results.load(file)) for file in files]
    sets = [(suite, stem, results) for suite, stem, results in sets if not results.suite.quick]
    header = ["suite", "data", "value", "student", "its NFE: value", "teacher's NFE: value", "verdict", "trainings"]
    teachers = Grid(header, [row for suite, _, results in sets for row in teacher_rows(suite, results)], text_columns=7)
    header = [
        "suite",
        "value",
        "student",
        "its NFE: value",
        "better than",
        "no significant difference",
        "worse than",
        "trainings",
    ]
    others = Grid(header, [row for suite, _, results in sets for row in other_rows(suite, results)], text_columns=7)
    header = ["suite", "what is compared", "samples", "trainings", "expectations that hold", "numbers"]
    suites = Grid(header, [suite_row(*one) for one in sets], text_columns=2)
    counts = Counter(verdict for row in teachers.rows for verdict in VERDICTS.values() if verdict in row[6])
    better, level, worse = (counts[verdict] for verdict in VERDICTS.values())
    summary = f"{better} students are better than their teacher, {level} not significantly different, {worse} worse."
    parts = [
        HEAD.replace("{summary}", summary),
        teachers.markdown(),
        OTHERS,
        others.markdown(),
        SUITES,
        suites.markdown(),
        WITHOUT_SUITE,
    ]
    return "\n".join([*parts, *measurements_without_suite()]) + "\n"


def claims_of_students(results: Results, *, own_teacher: bool) -> list[ClaimResult]:
    """Claims about students that were measured: those against the student's teacher, or all others."""
    teachers = {case.name: case.teacher for case in results.cases if case.teacher}
    measured = [claim for claim in results.claims if claim.verdict and claim.case in teachers]
    return [claim for claim in measured if (teachers[claim.case] == claim.against) is own_teacher]


def teacher_rows(suite: str, results: Results) -> list[list[str]]:
    """A row for each student: its claim against its teacher at the most evaluations."""
    hardest: dict[str, ClaimResult] = {}
    for claim in claims_of_students(results, own_teacher=True):
        if claim.case not in hardest or claim.at > hardest[claim.case].at:
            hardest[claim.case] = claim
    return [
        [
            notebook(suite),
            data(results),
            value(results, claim.value),
            f"`{claim.case}`",
            measured(results, claim.case, claim.steps, claim.value),
            measured(results, claim.against, claim.at, claim.value),
            verdict(claim),
            str(trainings(results)),
        ]
        for claim in hardest.values()
    ]


def other_rows(suite: str, results: Results) -> list[list[str]]:
    """A row for each student and number of steps: the other sides, sorted by verdict."""
    groups: dict[tuple[str, int, str], list[ClaimResult]] = {}
    for claim in claims_of_students(results, own_teacher=False):
        groups.setdefault((claim.case, claim.steps, claim.value), []).append(claim)
    return [
        [
            notebook(suite),
            value(results, name),
            f"`{case}`",
            measured(results, case, steps, name),
            *(sides(results, [claim for claim in claims if claim.verdict == kind]) for kind in VERDICTS),
            str(trainings(results)),
        ]
        for (case, steps, name), claims in groups.items()
    ]


def sides(results: Results, claims: list[ClaimResult]) -> str:
    """The other sides of claims, bold where the suite expected otherwise."""
    names = [f"`{claim.against}`" if claim.holds else f"**`{claim.against}`**" for claim in claims]
    values = [measured(results, claim.against, claim.at, claim.value) for claim in claims]
    return "; ".join(f"{name} {text}" for name, text in zip(names, values, strict=True))


def verdict(claim: ClaimResult) -> str:
    """In words, bold where the suite expected otherwise."""
    words = VERDICTS[str(claim.verdict)]
    return (words if claim.holds else f"**{words}**") + ("" if claim.stderr is not None else " (one seed)")


def measured(results: Results, case: str, steps: int, name: str) -> str:
    """NFE and value of a case at a number of steps."""
    summary = results.find(case, steps)
    return f"{summary.nfe}: {estimate_text(summary.values[name])}" if summary else ""


def value(results: Results, name: str) -> str:
    """A value's name, and which way it is better."""
    return f"`{name}` {'↑' if results.directions[name] == 'higher' else '↓'}"


def trainings(results: Results) -> int:
    """Of each model."""
    return len(results.suite.train_seeds or (0,))


def data(results: Results) -> str:
    """Dataset of a suite: its name, and the settings that change what is learned."""
    settings = results.cases[0].resolved["data"]
    named = [f"{label} {settings[key]}" for key, label in DATA_SETTINGS.items() if settings.get(key) is not None]
    return f"`{settings['type']}`" + (f" ({', '.join(named)})" if named else "")


def notebook(suite: str) -> str:
    """A suite's name as a link."""
    return f"[{suite}](../benchmarks/results/{suite}/README.md)"


def suite_row(suite: str, stem: str, results: Results) -> list[str]:
    """One results file: what it is about, and where its numbers are."""
    judged = [claim.holds for claim in results.claims if claim.holds is not None]
    return [
        notebook(suite),
        results.suite.title,
        f"{results.suite.samples:,}",
        str(trainings(results)),
        f"{sum(judged)} of {len(judged)}" if judged else "none stated",
        ", ".join(f"[{end}](../benchmarks/results/{suite}/{stem}.{end})" for end in ("md", "json")),
    ]


def measurements_without_suite() -> list[str]:
    """A row for each report in a folder that has no results file."""
    reports = [file for file in sorted(FOLDER.glob("*/*.md")) if not any(file.parent.glob("*.json"))]
    return [f"| [{title(file)}](../benchmarks/results/{file.parent.name}/{file.name}) |" for file in reports]


def title(file: Path) -> str:
    """The first heading of a page."""
    return file.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
