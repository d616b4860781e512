"""Results as text and tables: for Markdown, for the report, and for the console."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.bench.report.judgement import best, contestants, leaders, repeated, undertrained
from fewstep.bench.results.results import CaseResult, Estimate, Results, Summary, model_id
from fewstep.bench.results.summary import estimate_text, value_text
from fewstep.bench.results.surfaces import Surface, surfaces
from fewstep.bench.suites.recipe_sweep import value_text as value_text_of
from fewstep.bench.suites.suite import REFERENCE
from fewstep.bench.suites.sweep import sweep_text
from fewstep.runtime.progress import clock

if TYPE_CHECKING:
    from rich.console import Group

ARROWS = {"lower": " ↓", "higher": " ↑", "info": ""}
REAL = "real samples"
"""Name of the reference row in tables."""
_LONG = 40
"""Characters above which a cell of text may wrap."""
_EQUAL_BUDGETS = 1.1
"""Ratio of the largest to the smallest budget below which budgets count as equal."""
BUDGET = "Evaluations: samples that networks evaluated in the training, the teacher included; each evaluation counts."
"""Explanation of the budget of a training."""
BEST = (
    "Bold: the best of the trained models, and what is not significantly worse (two standard errors). A model is not "
    "judged by a value that it measures itself."
)
"""Explanation of the table of values."""
QUICK_NOTE = "This was a quick run: it shows that the suite runs, and its numbers say nothing about the models."


@dataclass(frozen=True)
class Grid:
    """A table of texts. The first `text_columns` columns are text, the others are numbers.

    `best` has row and column of the cells that are set in bold.
    """

    header: list[str]
    rows: list[list[str]]
    text_columns: int = 1
    best: frozenset[tuple[int, int]] = frozenset()

    def style(self, column: int, cell: str) -> str:
        """Class of a cell in HTML: a number, text, or text so long that it may wrap."""
        return "number" if column >= self.text_columns else "word long" if len(cell) > _LONG else "word"

    def latex(self) -> str:
        """The table in LaTeX; needs the package booktabs."""
        columns = "".join("l" if index < self.text_columns else "r" for index in range(len(self.header)))
        rows = self._with_best(_tex, lambda cell: rf"\textbf{{{_tex(cell)}}}")
        lines = [" & ".join(line) + r" \\" for line in ([_tex(name) for name in self.header], *rows)]
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"])

    def markdown(self) -> str:
        """The table as Markdown."""
        align = ["---" if index < self.text_columns else "---:" for index in range(len(self.header))]
        rows = self._with_best(_escaped, lambda cell: f"**{_escaped(cell)}**")
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.header, align, *rows))

    def _with_best(self, plain: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
        """The rows, each cell written by one of two functions."""
        return [
            [(bold if (i, j) in self.best else plain)(cell) for j, cell in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]


_TEX = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "×": r"$\times$", "<": "$<$", ">": "$>$"}
)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _tex(text: str) -> str:
    return text.translate(_TEX)


def value_grid(results: Results) -> Grid:
    """Values that are better or worse, and those beside them: rows are cases by NFE, columns have arrows.

    A value of models is empty for real samples, and for models that it does not apply to.
    """
    return _summary_grid(results, _columns(results))


def other_grid(results: Results) -> Grid:
    """Values that are for comparison with real samples only, without those that the row of real samples repeats."""
    known = {*_columns(results), *repeated(results)}
    return _summary_grid(results, [name for name in results.directions if name not in known])


def _summary_grid(results: Results, columns: Sequence[str]) -> Grid:
    costs = ["NFE", "passes"] if has_passes(results) else ["NFE"]
    rows = [[_titled(results, s), *_costs(s)[: len(costs)], *_values(s, columns)] for s in results.summary]
    first = {name: [id(entry) for entry in leaders(results, name)] for name in columns}
    best = {
        (i, j)
        for i, s in enumerate(results.summary)
        for j, name in enumerate(columns, start=1 + len(costs))
        if id(s) in first[name]
    }
    return Grid(["model", *costs, *_value_header(results, columns)], rows, best=frozenset(best))


def has_passes(results: Results) -> bool:
    """Whether an evaluation of some network computed more or less than a sample's tokens."""
    return any(s.passes not in (None, s.nfe) for s in results.summary)


def _costs(summary: Summary) -> list[str]:
    return ["" if number is None else str(number) for number in (summary.nfe, summary.passes)]


def frontier_grid(results: Results) -> Grid:
    """Values of sweeps: rows are cases by the swept value."""
    columns = _columns(results)
    rows = [
        [_titled(results, point), sweep_text(point.sweep), str(point.nfe), *_values(point, columns)]
        for point in results.frontier
    ]
    return Grid(["model", "setting", "NFE", *_value_header(results, columns)], rows, text_columns=2)


def surface_grid(results: Results, surface: Surface) -> Grid:
    """A sweep of recipe keys: a row for each point, the best ones and what is not significantly worse in bold."""
    columns = _columns(results)
    rows = [
        [*(value_text_of(entry.point[key]) for key in surface.keys), *_values(entry.summary, columns)]
        for entry in surface.points
    ]
    column = len(surface.keys) + columns.index(surface.value)
    best = frozenset((row, column) for row, entry in enumerate(surface.points) if entry in surface.level)
    return Grid([*surface.keys, *_value_header(results, columns)], rows, len(surface.keys), best)


def surface_file(surface: Surface) -> str:
    """Name of the plot of a sweep."""
    return f"surface-{surface.case}.png"


def _columns(results: Results) -> list[str]:
    """Values that are better or worse, the headline first, and the values that are read beside them."""
    judged = {name for name, direction in results.directions.items() if direction != "info"}
    beside = {results.beside[name] for name in judged if name in results.beside}
    chosen = judged | beside | {results.headline, results.diversity}
    return ordered([name for name in results.directions if name in chosen], results.headline, results.beside)


def _value_header(results: Results, columns: Sequence[str]) -> list[str]:
    return [name + ARROWS[results.directions[name]] for name in columns]


def _values(summary: Summary, columns: Sequence[str]) -> list[str]:
    return [estimate_text(summary.values[name]) if name in summary.values else "" for name in columns]


def ordered(names: Iterable[str], first: str, beside: Mapping[str, str]) -> list[str]:
    """Names of values as columns: `first`, then the others in order, each followed by the value beside it."""
    columns: dict[str, None] = {}
    known = list(names)
    for name in sorted(known, key=lambda name: name != first):
        columns[name] = None
        if beside.get(name) in known:
            columns[beside[name]] = None
    return list(columns)


def model_grid(results: Results) -> Grid:
    """The models. Evaluations are samples that networks evaluated in training; each evaluation counts."""
    header = ["model", "recipe", "teacher", "commit", "parameters", "training steps", "evaluations", "training time"]
    header += ["training tokens/s", "training memory, MB"]
    return Grid(
        header,
        [_model_row(case) for case in results.cases if not case.model or results.case(case.model) is None],
        text_columns=4,
    )


def _model_row(case: CaseResult) -> list[str]:
    parameters = (
        "none (exact distribution)" if case.oracle else "" if case.parameters is None else f"{case.parameters:,}"
    )
    seconds = "" if case.train_seconds is None else clock(case.train_seconds)
    recipe = case.model or " ".join([case.recipe, *(f"--set {change}" for change in _changes(case))])
    steps = "" if case.train_steps is None else f"{case.train_steps:,}"
    teacher = model_id(case.teacher, case.train_seed) if case.teacher else ""
    speed = "" if case.train_tokens_per_second is None else f"{case.train_tokens_per_second:,.0f}"
    memory = f"{case.logged['peak_memory_mb']:,.0f}" if "peak_memory_mb" in case.logged else ""
    return [case.id, recipe, teacher, short(case.commit), parameters, steps, budget(case), seconds, speed, memory]


def budget(case: CaseResult) -> str:
    """Samples that networks evaluated in the case's training; each evaluation counts."""
    return f"{case.logged['evaluations']:,.0f}" if "evaluations" in case.logged else ""


def budgets(results: Results) -> str:
    """One sentence about the largest and smallest budget of trainings with a teacher; empty for equal budgets."""
    distilled = [case for case in results.cases if case.teacher and case.model is None]
    spent = {case.id: count for case in distilled if (count := case.logged.get("evaluations"))}
    if not spent:
        return ""
    least, most = min(spent, key=spent.__getitem__), max(spent, key=spent.__getitem__)
    ratio = spent[most] / spent[least]
    if ratio < _EQUAL_BUDGETS:
        return ""
    return (
        f"Budgets differ: the training of {most} took {ratio:.1f} times the network evaluations of {least} "
        f"({spent[most]:,.0f} and {spent[least]:,.0f})."
    )


def _changes(case: CaseResult) -> list[str]:
    """Arguments of `--set` that train the same model."""
    origins = [f"start_from.{role}={run}" for role, run in case.resolved.get("start_from", {}).items()]
    return [*case.set, *origins, *([] if case.train_seed is None else [f"seed={case.train_seed}"])]


def titled(name: str, label: str) -> str:
    """`student (D-MMD, noise input)`, or only the label if it contains the name."""
    plain = [re.sub(r"[-_]", " ", text).casefold() for text in (name, label)]
    return label if plain[0] in plain[1] else f"{name} ({label})"


def _titled(results: Results, summary: Summary) -> str:
    case = results.case(summary.case)
    return titled(case.name, case.label) if case else REAL if summary.case == REFERENCE else summary.case


def short(commit: str | None) -> str:
    """First digits of a commit, with its mark of uncommitted changes."""
    digits, plus, changes = (commit or "unknown").partition("+")
    return digits[:10] + plus + changes


def commits(results: Results) -> str:
    """All commits of the rows' measurements."""
    return ", ".join(sorted({short(row.commit) for row in results.rows})) or short(results.commit)


def conclusion(results: Results) -> str:
    """One sentence about the trained models."""
    value = results.headline
    measured = contestants(results, value)
    if not measured:
        return "No trained model was measured."
    top, fewest = best(measured, value, results.direction), min(s.nfe or 0 for s in measured)
    first = best([s for s in measured if s.nfe == fewest], value, results.direction)
    parts = [_expectations(results), f"the best {value} is {_where(results, top)}"]
    if top.nfe != fewest:
        parts.append(f"with the fewest evaluations it is {_where(results, first)}")
    real = results.find(REFERENCE, None)
    if real and value in real.values:
        parts.append(f"real samples score {value_text(real.values, value, results.beside)}")
    if judge := results.judges.get(value):
        parts.append(f"{judge} is left out, since {value} is its own likelihood or gradient")
    text = "; ".join(filter(None, parts)) + "."
    return text[0].upper() + text[1:]


def _expectations(results: Results) -> str:
    judged = [claim for claim in results.claims if claim.holds is not None]
    unmeasured = len(results.claims) - len(judged)
    parts = [f"{sum(bool(claim.holds) for claim in judged)} of {len(judged)} expectations hold"] if judged else []
    if unmeasured:
        noun = "" if judged else " expectations" if unmeasured > 1 else " expectation"
        parts.append(f"{unmeasured}{noun} could not be measured in this run")
    return ", ".join(parts)


def _where(results: Results, summary: Summary) -> str:
    value = value_text(summary.values, results.headline, results.beside)
    return f"{value} ({summary.case} at {summary.nfe} NFE)"


def notes(results: Results) -> list[str]:
    """Notes before the numbers: a quick run, undertrained teachers, skipped cases, incomplete cases."""
    lines = [QUICK_NOTE] if results.suite.quick else []
    lines += [f"Case '{case.case}' was skipped: {case.reason}." for case in results.skipped]
    lines += undertrained(results)
    return [*lines, *(f"Case '{failure.case}' is not complete: {failure.reason}" for failure in results.failures)]


def commands(results: Results) -> list[str]:
    """Commands that repeat the suite, then those of single models."""
    lines = [results.suite.command, "", "# single models, from the folder of these results"]
    for case in results.cases:
        if case.run is None:
            continue
        if case.model is None:
            lines.append(shlex.join(_training(results, case)))
        steps = [s.steps for s in results.summary if s.case == case.name]
        if steps and case == results.case(case.name):
            grid = case.resolved["sampler"].get("grid", {}) if case.model else {}
            if "file" in grid:
                counts = ",".join(str(count) for count in steps)
                lines.append(shlex.join(["fewstep", "grid", case.run, "--steps", counts, "--out", grid["file"]]))
            sampler = ["--sampler", json.dumps(case.resolved["sampler"])] if case.model else []
            lines.append(shlex.join(["fewstep", "sample", case.run, "-n", "50", "--steps", str(steps[0]), *sampler]))
    return lines


def _training(results: Results, case: CaseResult) -> list[str]:
    """Command that trains a case's model."""
    name, seed = case.teacher or "", case.train_seed
    teacher = results.case(name, seed) or results.case(name)  # a teacher that existed has no seed of training
    verb = ["distill", case.recipe, "--teacher", str(teacher.run)] if teacher else ["train", case.recipe]
    return ["fewstep", *verb, *(part for change in _changes(case) for part in ("--set", change))]


def environment_lines(results: Results) -> list[str]:
    """Hardware and versions."""
    environment = results.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    threads = "1 thread" if environment["threads"] == 1 else f"{environment['threads']} threads"
    if "jobs" in environment:
        threads = f"{environment['jobs']} processes of {threads}"
    lines = [f"hardware: {environment['hardware']}, {threads}", f"versions: {versions}"]
    if environment["plugins"]:
        lines.append(f"plugins: {', '.join(environment['plugins'])}")
    lines += [f"commit: {commits(results)}", f"date: {results.date}"]
    lines += [f"sampling seeds: {', '.join(map(str, results.suite.seeds))}"]
    seeds = results.suite.train_seeds
    return [*lines, f"seeds of training: {', '.join(map(str, seeds))}"] if seeds else lines


def spread(results: Results) -> str:
    """Explanation of the numbers after ±."""
    seeds, trainings = len(results.suite.seeds), len(results.suite.train_seeds or ())
    sampling = f"{seeds} sampling seed{'s' if seeds > 1 else ''}"
    if trainings > 1:
        scope = f"over {trainings} trainings, each with its mean over {sampling}"
        return f"mean ± standard error {scope} (where nothing is trained, over sampling seeds)"
    return f"mean ± standard error over {sampling} of one training" if seeds > 1 else "one seed, so no standard error"


def markdown(results: Results) -> str:
    """Text of `results.md`."""
    suite = results.suite
    parts = [
        f"# {suite.title}",
        *(f"**{note}**" for note in notes(results)),
        conclusion(results),
        "\n".join(f"- {claim.text}" for claim in results.claims),
        f"{suite.samples} samples in each row; {spread(results)}. ↓ lower is better, ↑ higher is better.",
        BEST,
        value_grid(results).markdown(),
        *([other.markdown()] if len((other := other_grid(results)).header) > 2 else []),
        "![quality by evaluations](quality_vs_nfe.png)",
        *([frontier_grid(results).markdown(), "![frontiers](frontier.png)"] if results.frontier else []),
        *_surfaces(results),
        model_grid(results).markdown(),
        budgets(results),
        "```bash\n" + "\n".join(commands(results)) + "\n```",
        "\n".join(f"- {line}" for line in environment_lines(results)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _surfaces(results: Results) -> list[str]:
    """Sentence, table and picture of each sweep of recipe keys."""
    return [
        f"{surface.sentence(results)}\n\n{surface_grid(results, surface).markdown()}\n\n"
        f"![{surface.value} by {', '.join(surface.keys)}]({surface_file(surface)})"
        for surface in surfaces(results)
    ]


def console_table(results: Results) -> Group:
    """The headline value and the value beside it: cases by NFE.

    The title is a line of its own, since a table would wrap its title to its width.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table

    counts = sorted({s.nfe for s in results.summary if s.nfe is not None})
    other = results.beside.get(results.headline)
    name = results.headline + ARROWS[results.direction] + (f" / {other}" if other else "")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for count in counts:
        table.add_column(str(count), justify="right")
    for case in dict.fromkeys(s.case for s in results.summary if s.nfe is not None):
        cells = {s.nfe: _cell(s.values, results) for s in results.summary if s.case == case}
        table.add_row(case, *(cells.get(count, "") for count in counts))
    real = results.find(REFERENCE, None)
    last = [f"{REAL}: {_cell(real.values, results)}"] if real and results.headline in real.values else []
    return Group(f"{name} by NFE", table, *last)


def _cell(values: Mapping[str, Estimate], results: Results) -> str:
    """The headline value, and after a slash the value beside it."""
    other = results.beside.get(results.headline, "")
    return " / ".join(estimate_text(values[name]) for name in (results.headline, other) if name in values)
