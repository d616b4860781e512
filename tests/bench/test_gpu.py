"""`make gpu`: what it counts, its table, going on after a cut, and all of its parts in the short form on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from local_data import write_mnist
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.metrics.base import METRICS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks/gpu"
FACTS = {
    "hardware": "NVIDIA H200",
    "driver": "580.1",
    "cuda": "13.0",
    "versions": {"torch": "2.14.1", "xformers": "0.0.35", "python": "3.12.3"},
    "commit": "abc",
    "date": "2026-12-01",
    "short": False,
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of the program, whose folder is no package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from importlib import import_module

    names = [path.stem for path in FOLDER.glob("*.py")]
    return SimpleNamespace(**{name: import_module(name) for name in names})


def counted(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    total: int = counter.get_total_flops()
    return total


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_flops_of_a_forward_pass_are_those_that_torch_counts(gpu: Any, process: str) -> None:
    shape, batch, length, vocab, channels = gpu.flops.Shape(32, 3, 2), 2, 24, 50, 128
    model = gpu.networks.network(shape, gpu.networks.process_of(process, vocab), length, torch.device("cpu"), "math")
    x, t = torch.randint(vocab, (batch, length)), torch.rand(batch)
    times = batch if process == "uniform" else 1  # without a time, adaLN runs once for the batch
    conditioning = 2 * times * (256 * channels + channels**2 + (6 * shape.depth + 2) * channels * shape.width)
    hidden: list[Tensor] = []
    trunk = counted(lambda: hidden.append(model.backbone(x, t)))
    assert trunk == batch * length * shape.trunk(length) + conditioning
    head = counted(lambda: model.backbone.head(hidden[0]))
    assert head == batch * length * shape.head(vocab)


def test_flops_of_a_denoising_step_are_three_forward_passes(gpu: Any) -> None:
    """All but conditioning, which is 3 % at this size, and is left out."""
    shape, batch, length, vocab = gpu.flops.Shape(128, 2, 2), 4, 64, 300
    model = gpu.networks.network(shape, gpu.networks.process_of("masked", vocab), length, torch.device("cpu"), "math")
    x, t = torch.randint(vocab, (batch, length)), torch.rand(batch)

    def step() -> None:
        nn.functional.cross_entropy(model.backbone.head(model.backbone(x, t)).flatten(0, 1), x.flatten()).backward()

    exact = shape.step("denoising", tokens=batch * length, length=length, vocab=vocab, share=1.0)
    assert counted(step) == pytest.approx(exact, rel=0.03)


def test_flops_of_attention(gpu: Any) -> None:
    x = gpu.kernels.inputs(2, 16, 3, 8, torch.device("cpu"), torch.float32)
    assert counted(lambda: gpu.kernels.exact(*x)) == gpu.flops.attention(2, 16, 3, 8)[0]


def test_peaks_go_by_the_name_of_the_gpu(gpu: Any) -> None:
    known = gpu.flops.known_peak
    assert known("NVIDIA H200") == known("NVIDIA H100 80GB HBM3") == 989e12
    assert known("NVIDIA A100-SXM4-40GB") == 312e12
    assert known("NVIDIA GeForce RTX 4090") is known("NVIDIA H100 PCIe") is known("NVIDIA H200 NVL") is None


def filled(gpu: Any, folder: Path, *, short: bool = False) -> Any:
    """Records of a run in which one goal is met, one is missed, and two were not reached."""
    records = gpu.records.Records(folder, {**FACTS, "short": short})
    large, flops = gpu.training_speed.LARGE, 24e12
    records.add("correctness", "sdpa, bf16", "done", "fine", {"holds": False})
    records.add("training", "peak", "done", "fine", {"flops": 1000e12})
    for work, ms in (("denoising", 50.0), ("dmmd", 95.0)):
        name = gpu.training_speed.name(large, work, "trunk")
        records.add("training", name, "done", "fine", {"ms": ms, "flops": flops, "batch": 32})
    records.add("training", gpu.training_speed.name(large, "sdtt", "off"), "failed", "ValueError: a | b")
    return records


def test_the_table_has_every_case_and_every_goal(gpu: Any, tmp_path: Path) -> None:
    records = filled(gpu, tmp_path)
    lines = gpu.table.markdown(records, list(gpu.run.PARTS)).splitlines()
    assert lines[2].startswith("NVIDIA H200, driver 580.1, CUDA 13.0, torch 2.14.1, xformers 0.0.35")
    assert {line.count(" | ") for line in lines if line.startswith("| ")} == {3}
    assert "| correctness | sdpa, bf16 | fine | DOES NOT HOLD |" in lines
    assert "| training | 125 M, denoising, compile trunk | fine | MFU 48.0% |" in lines
    assert "| training | 125 M, sdtt, compile off | ValueError: a / b | failed |" in lines
    assert lines[-4:] == [
        "| goal | teacher's MFU at least 45% (125 M) | 48.0% with compile trunk | met |",
        "| goal | D-MMD's MFU at least 42% (125 M) | 25.3% with compile trunk | missed |",
        "| goal | D-MMD step / denoising step at most 1.8 (125 M) | 1.90 with compile trunk | missed |",
        "| goal | sampling step / forward pass at most 1.1 with CUDA graphs |  | not measured |",
    ]
    assert gpu.table.failures(records) == ["correctness, sdpa, bf16", "training, 125 M, sdtt, compile off"]


def test_the_short_form_meets_no_goal(gpu: Any, tmp_path: Path) -> None:
    verdicts = [goal.verdict for goal in gpu.table.goals(filled(gpu, tmp_path, short=True))]
    assert verdicts == ["not measured"] * 4


def setting(gpu: Any, folder: Path, lines: list[str], left: float = 100.0) -> Any:
    return gpu.cases.Setting(True, torch.device("cpu"), lambda: left, None, folder, folder, lines.append)


def test_a_second_run_goes_on_and_tries_again_what_failed(gpu: Any, tmp_path: Path) -> None:
    calls, lines = [], list[str]()

    def run(name: str, error: Exception | None = None) -> Any:
        def case() -> Any:
            calls.append(name)
            if error:
                raise error
            return gpu.cases.Outcome("measured", {"number": 1})

        return gpu.cases.Case(name, 200.0 if name == "long" else 1.0, case)

    def part(*cases: Any) -> dict[str, Any]:
        records = gpu.records.Records(tmp_path, FACTS)
        gpu.cases.run_cases("part", cases, records, setting(gpu, tmp_path, lines))
        states = json.loads((tmp_path / "results.json").read_text())["parts"]["part"]
        return {name: (value["state"], value["text"]) for name, value in states.items()}

    absent = gpu.cases.Missing("no data")
    assert part(run("good"), run("bad", ValueError("one\ntwo")), run("absent", absent), run("long")) == {
        "good": ("done", "measured"),
        "bad": ("failed", "ValueError: one"),
        "absent": ("left out", "no data"),
        "long": ("left out", "100 s were left, and it takes about 200"),
    }
    assert part(run("good"), run("bad"), run("absent"))["bad"] == ("done", "measured")
    assert calls == ["good", "bad", "absent", "bad", "absent"]
    assert "part, good: is there already" in lines


def test_a_case_in_the_middle_of_which_the_process_ends_is_a_failure(gpu: Any, tmp_path: Path) -> None:
    def end() -> Any:
        raise KeyboardInterrupt

    records = gpu.records.Records(tmp_path, FACTS)
    with pytest.raises(KeyboardInterrupt):
        gpu.cases.run_cases("part", [gpu.cases.Case("case", 1.0, end)], records, setting(gpu, tmp_path, []))
    assert gpu.table.failures(gpu.records.Records(tmp_path)) == ["part, case"]


@pytest.mark.parametrize(("key", "value"), [("hardware", "NVIDIA A100"), ("short", True)])
def test_results_of_something_else_are_not_gone_on_with(gpu: Any, tmp_path: Path, key: str, value: object) -> None:
    filled(gpu, tmp_path)
    with pytest.raises(UserError, match=f"measured with {key} .*; name another folder"):
        gpu.records.Records(tmp_path, {**FACTS, key: value})


def test_results_of_another_commit_are_and_the_page_names_both(gpu: Any, tmp_path: Path) -> None:
    filled(gpu, tmp_path)
    records = gpu.records.Records(tmp_path, {**FACTS, "commit": "def"})
    assert records.is_done("training", "peak")
    records.add("training", "more", "done", "fine")
    assert "commit abc, def, 2026-12-01." in gpu.table.markdown(records, ["training"])


def test_damaged_results_are_named(gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[1")
    with pytest.raises(UserError, match=r"results\.json' is damaged"):
        gpu.records.Records(tmp_path, FACTS)


def test_a_torch_that_lacks_options_of_compile_compiles_without_them(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list[str]()
    monkeypatch.setattr(torch, "compile", lambda fn, *, fullgraph=False: (fn, fullgraph))
    gpu.run._drop_unknown_options_of_compile(lines.append)
    assert torch.compile(len, fullgraph=True, isolate_recompiles=True) == (len, True)  # type: ignore[call-overload]
    assert len(lines) == 1
    assert "older" in lines[0]


def test_data_are_searched_where_they_are_named(gpu: Any, tmp_path: Path) -> None:
    assert gpu.run.find_data(tmp_path) is None
    (tmp_path / "kjv").mkdir()
    assert gpu.run.find_data(tmp_path) == tmp_path


def test_the_default_folder_goes_by_hardware_date_and_commit(gpu: Any) -> None:
    folder = gpu.run.default_folder({**FACTS, "commit": "0123456789"})
    assert folder == ROOT / "benchmarks/results/gpu/nvidia-h200_2026-12-01_0123456"


def test_n_grams_are_compared_by_frequency(gpu: Any) -> None:
    a, b = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 1, 2]])
    assert gpu.evidence.ngram_distance(a, a, 2) == 0
    assert gpu.evidence.ngram_distance(a, b, 2) == pytest.approx(1 / 3)
    assert gpu.evidence.ngram_distance(a, torch.full((1, 4), 3), 2) == 1


@pytest.mark.medium
def test_images_are_scored_as_by_the_metric(gpu: Any, tmp_path: Path) -> None:
    data = DATASETS.build({"type": "mnist", "path": str(write_mnist(tmp_path / "mnist")), "size": 7, "levels": 4})
    metric = METRICS.build("feature_frechet", dataset=data)
    metric.update(data.train[:32].long())
    assert gpu.evidence._frechet(data, torch.device("cpu"))(data.train[:32].long()) == metric.compute()


def test_a_distance_that_is_not_finite_is_infinite(gpu: Any) -> None:
    distance = gpu.measuring.distance
    assert distance([torch.ones(4)], [torch.ones(4)]) == 0
    assert distance([torch.tensor([3.0, 4.5])], [torch.tensor([3.0, 4.0])]) == pytest.approx(0.1)
    assert distance([torch.tensor([float("nan")])], [torch.ones(1)]) == float("inf")


def test_without_a_gpu_one_sentence_says_so(gpu: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run_program("--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "torch finds no GPU here; --short runs a tiny form of all parts on the CPU\n"


def run_program(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "run.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "framework"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_short_form_runs_every_part(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "kjv").mkdir(parents=True)
    write_mnist(data / "mnist")
    (data / "kjv/kjv.txt").write_text("In the beginning God created the heaven and the earth. " * 40)
    options = ["--short", "--minutes", "60", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    done = run_program(*options, "--data", str(data))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    parts = json.loads((tmp_path / "out/results.json").read_text())["parts"]
    assert set(parts) == {"correctness", "training", "sampling", "attention", "evidence"}
    left_out = [case["text"] for cases in parts.values() for case in cases.values() if case["state"] == "left out"]
    assert all("GPU" in text or "CPU" in text for text in left_out), left_out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json", "results.md", "mnist-teacher.png", "mnist-student.png", "kjv-teacher.txt", "kjv-student.txt"
    }  # fmt: skip
    table = (tmp_path / "out/results.md").read_text()
    assert done.stdout.endswith(table)
    again = run_program(*options, "--parts", "attention", "evidence")
    assert again.returncode == 0
    assert "evidence, KJV, student: is there already" in again.stdout
