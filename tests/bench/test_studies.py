"""`fewstep new-study`: what a path holds, sizes for a machine's time, and files that run without an edit."""

from __future__ import annotations

import gzip
import json
import random
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.bench.running.plan import make_plan
from fewstep.bench.studies import budget as budgets
from fewstep.bench.studies import study as studies
from fewstep.bench.studies.budget import ENOUGH, budget, choose
from fewstep.bench.studies.files import Design
from fewstep.bench.studies.looked_at import OwnData
from fewstep.bench.studies.measure import Speed
from fewstep.bench.studies.sizes import Size, sizes_of
from fewstep.bench.studies.study import StudyRequest, look_at, new_study
from fewstep.bench.suites.loading import load_suite
from fewstep.core.errors import UserError
from fewstep.recipe import load_recipe

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("na", "lo", "rik", "s", "tam")]
"""300 different short texts."""


def names(folder: Path) -> Path:
    file = folder / "names.txt"
    file.write_text("\n".join(WORDS) + "\n")
    return file


def prose(folder: Path, characters: int = 40_000) -> Path:
    source, file = random.Random(0), folder / "prose.txt"
    sentences = [" ".join(source.choices(WORDS, k=12)).capitalize() + "." for _ in range(characters // 60)]
    file.write_text("\n\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)))
    return file


def pictures(folder: Path, classes: int = 2, count: int = 200, colour: bool = False) -> Path:
    source = random.Random(0)
    for number in range(count):
        shade = (source.randrange(256), 20, 200) if colour else (source.randrange(256),) * 3
        picture = Image.new("RGB", (20, 24), shade)
        picture.paste((0, 0, 0), (0, 0, 6 + 8 * (number % classes), 10))
        place = folder / "pictures" / (f"class{number % classes}" if classes > 1 else "")
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number}.png")
    return folder / "pictures"


def table(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    file = folder / name
    if name.endswith(".jsonl"):
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        delimiter = "\t" if name.endswith("tsv") else ","
        lines = [delimiter.join(rows[0]), *(delimiter.join(map(str, row.values())) for row in rows)]
        file.write_text("\n".join(lines) + "\n")
    return file


def seen(path: Path, **options: Any) -> OwnData:
    return look_at(StudyRequest(str(path), **options))


def test_short_lines_are_samples(tmp_path: Path) -> None:
    data = seen(names(tmp_path))
    assert (data.kind, data.samples, data.length) == ("text", 300, 8)  # six letters and the end; eight is the least
    assert data.section["packing"] == "pad"
    assert data.section["tokenizer"] == {"type": "char", "end_symbol": True}
    assert data.section["held_out"] == 0.2  # 300 to hold out would be all of them


def test_prose_is_windows(tmp_path: Path) -> None:
    data = seen(prose(tmp_path))
    assert (data.section["documents"], data.section["separator"], data.length) == ("paragraph", "\n\n", None)
    assert data.samples == pytest.approx(len(prose(tmp_path).read_text()) // 64, rel=0.02)
    unbroken = tmp_path / "unbroken.txt"
    unbroken.write_text(" ".join(WORDS * 40))
    section = seen(unbroken).section
    assert (section["documents"], section["separator"]) == ("pieces", "")


def test_kind_overrules_the_look(tmp_path: Path) -> None:
    verse = tmp_path / "verse.txt"
    verse.write_text("\n".join(" ".join((WORDS * 2)[i : i + 6]) for i in range(450)))
    assert seen(verse).length is None  # lines of verse are longer than names
    assert seen(verse, kind="lines").length is not None


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_the_only_column_of_texts_is_taken(tmp_path: Path, name: str) -> None:
    rows = [{"id": number, "word": word, "size": len(word)} for number, word in enumerate(WORDS)]
    data = seen(table(tmp_path, name, rows))
    assert (data.section["field"], data.samples, data.length) == ("word", 300, 8)


def test_a_column_text_comes_first_and_packed_tables_are_read(tmp_path: Path) -> None:
    file = table(tmp_path, "t.jsonl", [{"title": word, "text": word} for word in WORDS])
    assert "field" not in seen(file).section  # `text` is the default
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert seen(packed).samples == 300


def test_parquet_is_a_table_too(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is an optional package")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "t.parquet"
    parquet.write_table(arrow.table({"id": list(range(len(WORDS))), "word": WORDS}), file)
    data = seen(file)
    same = seen(table(tmp_path, "t.csv", [{"id": i, "word": word} for i, word in enumerate(WORDS)]))
    assert replace(data, section={}) == replace(same, section={})
    expected = {key: value for key, value in same.section.items() if key != "documents"}
    assert data.section == {**expected, "path": str(file)}
    with pytest.raises(UserError, match="has no column 'body'; it has id, word"):
        seen(file, field="body")


def test_parquet_without_its_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    request = StudyRequest(str(write(tmp_path / "t.parquet", "PAR1")))
    with pytest.raises(UserError) as caught:
        new_study(str(tmp_path / "study"), request, lambda line: None)
    assert str(caught.value) == "--data: 't.parquet' is read by Hugging Face's datasets: pip install datasets"
    assert not (tmp_path / "study").exists()


def test_long_rows_are_windows(tmp_path: Path) -> None:
    rows = [{"body": " ".join(WORDS[i : i + 30])} for i in range(150)]
    data = seen(table(tmp_path, "t.csv", rows))
    assert (data.length, data.section["field"]) == (None, "body")
    assert data.section["tokenizer"] == {"type": "char", "end_symbol": True}  # which divides the texts


def test_pictures_with_and_without_classes(tmp_path: Path) -> None:
    data = seen(pictures(tmp_path))
    assert (data.kind, data.samples, data.classes, data.side) == ("pictures", 200, 2, 20)
    assert data.section["colour"] == "grey"
    assert data.section["held_out_share"] == 0.1
    assert not data.remarks
    (tmp_path / "flat").mkdir()
    flat = seen(pictures(tmp_path / "flat", classes=1, colour=True))
    assert flat.classes == 1
    assert any("--colour rgb" in remark for remark in flat.remarks)
    assert any("quarter turns" in remark for remark in flat.remarks)
    assert seen(tmp_path / "flat" / "pictures", colour="rgb").section["colour"] == "rgb"


def test_a_zip_of_pictures_and_a_test_part(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in folder.rglob("*.png"):
            opened.write(file, file.relative_to(folder))
    assert seen(archive).classes == 2
    whole = tmp_path / "parts"
    whole.mkdir()
    folder.rename(whole / "train")
    pictures(tmp_path, count=20).rename(whole / "test")
    data = seen(whole)
    assert data.samples == 200
    assert "held_out_share" not in data.section


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda f: f / "none.txt", {}, "--data: no file '"),
        (lambda f: f / "none.parquet", {}, "--data: no file '"),
        (names, {"device": "cuda"}, "--device: is cuda, but torch finds no GPU here; use 'auto' or 'cpu'"),
        (lambda f: write(f / "few.txt", "ab\ncd\n"), {"kind": "lines"}, "has 2 texts, and a study needs 200 or more"),
        (lambda f: write(f / "few.txt", "ab\ncd\n"), {}, "characters, and a study needs 12,800 or more"),
        (lambda f: write(f / "a.pdf", "x"), {}, "is a formatted document, which is not read"),
        (lambda f: pictures(f, count=12), {}, "has 12 pictures, and a study needs 200 or more"),
        (names, {"field": "word"}, "--field: 'word' names a column, and '"),
        (names, {"size": 8}, "--size and --colour are for pictures"),
        (names, {"kind": "pictures"}, "names.txt' holds none; name a folder or a .zip of pictures"),
        (lambda f: f / "none", {"kind": "pictures"}, "--data: no folder or archive '"),
        (prose, {"kind": "lines"}, "leave --kind out to learn windows of the text"),
        (pictures, {"field": "word"}, "--field names a column, and '"),
        (lambda f: table(f, "t.csv", [{"a": "x y", "b": "z w"}]), {}, "in several columns ('a', 'b'); name the one"),
        (lambda f: table(f, "t.csv", [{"a": 1, "b": 2.5}]), {}, "has no column of texts ('a', 'b')"),
        (lambda f: table(f, "t.csv", [{"a": "x"}]), {"field": "b"}, "--field: '"),
    ],
)
def test_one_sentence_and_no_folder(
    tmp_path: Path, make: Callable[[Path], Path], options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError) as caught:
        new_study(str(tmp_path / "study"), StudyRequest(str(make(tmp_path / "in")), **options), lambda line: None)
    assert message in str(caught.value)
    assert "data.path" not in str(caught.value)
    assert not (tmp_path / "study").exists()


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    write(tmp_path / "study" / "mine.txt", "x")
    with pytest.raises(UserError, match="exists already; name another folder, or delete it"):
        new_study(str(tmp_path / "study"), StudyRequest(str(names(tmp_path))), lambda line: None)
    assert (tmp_path / "study" / "mine.txt").read_text() == "x"


DATA = OwnData("pictures", "pictures", {"type": "image_folder", "path": "p", "levels": 8}, 4000, classes=3, side=64)


def design(data: OwnData = DATA) -> Design:
    return Design("s", "s", data, sizes_of(data)[0], Path("prepared"))


def speed_of(step: float, **steps: float) -> Speed:
    return Speed({"teacher": step, "student": 3 * step, **steps}, 1e-5, 1000, 8, 64, 4000, 400)


@pytest.mark.parametrize("minutes", [0.5, 5, 30, 120])
@pytest.mark.parametrize("step", [0.01, 0.1, 1.0])
def test_what_is_planned_fits_into_the_time(minutes: float, step: float) -> None:
    plan = budget(design(), speed_of(step), minutes)
    fits = plan.steps > 20  # fewer steps are no training, however short the time
    assert not fits or plan.seconds["all"] <= 60 * minutes
    assert plan.seconds["student"] == pytest.approx(0.6 * 3 * step * plan.steps)
    assert plan.steps <= 10_000
    if plan.needed <= minutes:
        assert plan.steps >= ENOUGH
    longer = budget(design(), speed_of(step), plan.needed * 1.01)
    assert longer.steps >= ENOUGH


def test_few_data_are_not_recited() -> None:
    few = replace(DATA, samples=600)
    assert budget(design(few), speed_of(0.001), 600).steps == 600 * 250 // 64
    assert budget(design(), speed_of(0.001), 600).steps == 10_000


def test_the_largest_size_that_gets_its_steps_is_taken() -> None:
    measured: list[Size] = []

    def measure(candidate: Design) -> Speed:
        measured.append(candidate.size)
        return speed_of(1e-9 * candidate.size.cost(True))

    sizes = sizes_of(DATA)
    chosen = {minutes: choose(design(), sizes, minutes, measure) for minutes in (1, 30, 10_000)}
    widths = [chosen[minutes][0].size.tokens for minutes in (1, 30, 10_000)]
    assert widths == sorted(widths)
    assert widths[0] == 8
    assert widths[-1] == 32
    assert (
        chosen[30][2].needed
        <= 30
        < 1.5
        * budgets.budget(
            replace(design(), size=larger(sizes, chosen[30][0].size)),
            measure(replace(design(), size=larger(sizes, chosen[30][0].size))),
            30,
        ).needed
    )


def larger(sizes: list[Size], size: Size) -> Size:
    return sizes[sizes.index(size) + 1]


def test_pictures_are_never_enlarged() -> None:
    assert {size.tokens for size in sizes_of(replace(DATA, side=14))} == {8, 12, 14}
    assert [size.tokens for size in sizes_of(replace(DATA, side=6))] == [6]
    assert {size.tokens for size in sizes_of(DATA, 10)} == {10}


@pytest.mark.medium
@pytest.mark.parametrize("make", [names, pictures, lambda f: pictures(f, classes=1), prose])
def test_what_is_written_is_ready_to_run(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, lines = make(tmp_path), list[str]()
    monkeypatch.setattr(studies, "measure", lambda candidate, folder: speed_of(0.02, reference=0.02))
    study = new_study("my study", StudyRequest(str(path), minutes=20), lines.append)
    assert lines == [f"data: {study.design.data.label}", "measuring a few steps on this machine ..."]
    loaded = load_suite("my study/suite.yaml")
    plan = make_plan(loaded, tmp_path / "out")
    assert plan.dataset.held_out is not None
    assert len(plan.dataset.held_out) >= 20
    assert len(plan.dataset.to_text(plan.dataset.train[:3].long())) == 3
    steps = {case.name: case.recipe.train.steps for case in plan.cases}
    assert steps["student"] == round(0.6 * steps["teacher"])
    assert loaded.suite.claims[0].sides == (("student", 8), ("teacher", 32))
    assert study.command == "fewstep benchmark 'my study'/suite.yaml --out 'my study'/results"
    readme = (tmp_path / "my study" / "README.md").read_text()
    assert study.command in readme
    assert all(line[1:] in readme for line in study.expectations)
    make_plan(load_suite("my study/suite.yaml", quick=True), tmp_path / "out")


@pytest.mark.medium
def test_a_short_study_is_measured_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.bench.results.results import Results
    from fewstep.bench.running.runner import run_suite

    monkeypatch.chdir(tmp_path)
    study = new_study(
        "shapes", StudyRequest(str(pictures(tmp_path)), minutes=0.1, size=4, device="cpu"), lambda line: None
    )
    assert study.speed.parameters > 1000
    assert load_recipe("shapes/student.yaml").recipe.train.device == "cpu"
    assert all(seconds > 0 for seconds in study.speed.steps.values())
    assert any("too few for samples" in line for line in study.expectations)
    results = Results.load(run_suite("shapes/suite.yaml", "out", quick=True) / "results.json")
    assert results.complete
    assert results.headline == "feature_frechet"
