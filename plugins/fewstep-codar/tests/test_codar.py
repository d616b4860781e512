"""Process, objectives, network and sampler: contracts, gradients, counts, export, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fewstep_codar import EmbeddingGaussian
from fewstep_codar.exact import ExactRounding
from fewstep_codar.network import EmbeddingDenoiser, RoundingDenoiser
from fewstep_codar.prediction import VectorPrediction
from fewstep_codar.sampler import round_in_order
from safetensors.torch import save_file
from torch import Generator, Tensor

from fewstep import OBJECTIVES, PROCESSES, SAMPLERS
from fewstep.core.errors import RecipeError, UserError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.export.write import export_run
from fewstep.predictions.condition import Condition
from fewstep.processes.base import Process
from fewstep.recipe import load_recipe
from fewstep.runs.checkpoint import list_checkpoints
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.runtime.streams import SampleStreams
from fewstep.testing import EnumeratedOracle, check_objective, check_process, check_sampler, exact_distribution, loss_of
from fewstep.training.launch import fit
from fewstep.training.trainer import Trainer

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
NAMES = [path.stem for path in RECIPES]
SMALL = [
    "data={type: markov, vocab_size: 4, length: 8, size: 64}",
    "backbone={type: transformer, width: 16, depth: 2, heads: 2, time_conditioned: true}",
    "train={steps: 4, batch_size: 8, log_every: 2, device: cpu}",
    "watch.times=0",
    "evaluate={steps: [2], samples: 16}",
]
HALVES = ["objective.denoised=0.5", "objective.noise=[0, 0.5]"]


def recipe(name: str) -> Path:
    return RECIPES[NAMES.index(name)]


def build(vocab_size: int = 4, **settings: object) -> EmbeddingGaussian:
    process: Process = PROCESSES.build({"type": "embedding_gaussian", "dim": 8, **settings}, vocab_size=vocab_size)
    assert isinstance(process, EmbeddingGaussian)
    return process


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = RunDir(tmp_path_factory.mktemp("teacher") / "run")
    fit(load_recipe(recipe("markov-embeddings"), SMALL), run, echo=lambda line: None)
    return run.path


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = RunDir(tmp_path_factory.mktemp("student") / "run")
    sets = [*SMALL, *HALVES, f"teacher.run={teacher}"]
    fit(load_recipe(recipe("markov-codar"), sets), run, echo=lambda line: None)
    return run.path


def rounding(path: Path) -> RoundingDenoiser:
    network = open_model(path, device="cpu").network
    assert isinstance(network, RoundingDenoiser)
    return network


@pytest.mark.parametrize("settings", [{"dim": 4}, {"dim": 8, "shift": -1.0}], ids=str)
def test_the_process_conforms(settings: dict[str, object]) -> None:
    check_process({"type": "embedding_gaussian", **settings})


def test_embeddings_have_the_norm_of_the_noise_and_stay() -> None:
    first, again, other = build(), build(), build(table_seed=1)
    assert first.rows("cpu").square().sum(1).tolist() == pytest.approx([8.0] * 4, rel=1e-5)
    assert torch.equal(first.rows("cpu"), again.rows("cpu"))
    assert not torch.equal(first.rows("cpu"), other.rows("cpu"))
    assert torch.equal(first.nearest(first.embed(torch.arange(4)[None])), torch.arange(4)[None])


def test_levels_are_the_cosine_and_its_shift() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    a, s = (level[:, 0, 0] for level in build().levels(t))
    torch.testing.assert_close(a, torch.cos(torch.pi * t / 2))
    torch.testing.assert_close(s, torch.sin(torch.pi * t / 2))
    a, s = (level[1:-1, 0, 0] for level in build(shift=-2.0).levels(t))
    torch.testing.assert_close((a / s).log() * 2, -torch.tan(torch.pi * t[1:-1] / 2).log() * 2 - 2)
    torch.testing.assert_close(a**2 + s**2, torch.ones(9, dtype=torch.float64))


def test_samplers_conform() -> None:
    check_sampler(
        "contextual_rounding",
        processes=("embedding_gaussian",),
        steps=32,
        oracle=lambda source, process: ExactRounding(source, process, 0.5),
    )


def test_nearest_rounding_is_exact_with_many_steps() -> None:
    source = Markov(Markov.Config(vocab_size=2, length=3, successors=1, smoothing=0.4, size=8))
    oracle = exact_denoiser(source, build(2))
    x = SAMPLERS.build("ancestral").sample(oracle, 4000, steps=64, generator=Generator().manual_seed(0)).x
    share = torch.bincount((x * torch.tensor([4, 2, 1])).sum(1), minlength=8).double() / len(x)
    assert float((share - source.ngram_probs(3).flatten()).abs().sum() / 2) < 0.03


@pytest.mark.parametrize("predicts", ["x0", "v"])
def test_objectives_keep_the_contract(predicts: str) -> None:
    process = {"type": "embedding_gaussian", "dim": 4, "predicts": predicts}
    with PROCESSES.snapshot():
        sections = {"process": process, "backbone.time_conditioned": True}
        check_objective("embedding_denoising", processes=("embedding_gaussian",), sections=sections)


def test_tokens_can_be_predicted_on_this_process_too() -> None:
    check_objective("denoising", processes=("embedding_gaussian",))


class Vectors(EnumeratedOracle):
    """The exact mean embedding, as a network of vectors gives it, plus a number to differentiate by."""

    def __init__(self, process: EmbeddingGaussian, distribution: Tensor) -> None:
        super().__init__(process, distribution)
        self.offset = torch.nn.Parameter(torch.zeros(process.num_states, dtype=torch.float64))

    def predict(self, x_t, t, s, cond, generator):
        table = super().predict(x_t, t, s, cond, generator)
        vectors = self.process.mean(table) + self.offset
        return VectorPrediction(vectors, self.process.rows("cpu"), table.known, table.where)


@pytest.mark.parametrize("settings", [{}, {"predicts": "v"}, {"shift": -2.0}], ids=str)
def test_the_mean_embedding_is_the_optimum(settings: dict[str, object]) -> None:
    """At E[e | z_t] the gradient is zero within chance, and at any other vector it is not."""
    source = Markov(Markov.Config(vocab_size=3, length=3, successors=2, smoothing=0.1, size=6000))
    process = build(3, **settings)
    oracle = Vectors(process, exact_distribution(source))
    objective = OBJECTIVES.build({"type": "embedding_denoising", "min_time": 0.2})
    norms = []
    for offset in (0.0, 0.1):
        with torch.no_grad():
            oracle.offset.fill_(offset)
        oracle.zero_grad()
        loss_of(objective, process, {"student": oracle}, source.train).loss.backward()
        assert oracle.offset.grad is not None
        norms.append(float(oracle.offset.grad.norm()))
    assert norms[0] < 0.02
    assert norms[1] > 3 * norms[0]


def test_v_and_x0_are_two_names_of_one_vector() -> None:
    process, t = build(predicts="v"), torch.tensor([0.3, 0.8])
    x0, noise = torch.randint(4, (2, 5)), torch.randn(2, 5, 8)
    a, s = (level.float() for level in process.levels(t))
    clean = process.embed(x0)
    v = a * noise - s * clean
    torch.testing.assert_close(process.clean(v, a * clean + s * noise, t), clean, atol=1e-5, rtol=1e-5)


def test_the_decoder_alone_is_trained(teacher: Path, student: Path) -> None:
    before, after = open_model(teacher, device="cpu").network, rounding(student)
    assert isinstance(before, EmbeddingDenoiser)
    for name, weight in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight), name
    assert 0 < after.share < 4


def test_an_interrupted_second_stage_goes_on_bit_by_bit(student: Path, teacher: Path, tmp_path: Path) -> None:
    sets = [*SMALL, *HALVES, f"teacher.run={teacher}", "train.checkpoint_every=2"]
    loaded, run = load_recipe(recipe("markov-codar"), sets), RunDir(tmp_path / "run")
    fit(loaded, run, echo=lambda line: None)
    shutil.rmtree(list_checkpoints(run.checkpoints)[-1])
    resumed = Trainer.from_recipe(loaded.recipe, run, echo=lambda line: None)
    resumed.fit()
    for name, weight in open_model(student, device="cpu", weights="raw").network.state_dict().items():
        assert torch.equal(resumed.roles["student"].state_dict()[name], weight), name


def test_gradients_reach_the_decoder_alone(student: Path, teacher: Path) -> None:
    roles = {"teacher": open_model(teacher, device="cpu").network, "student": rounding(student)}
    objective = OBJECTIVES.build("rounding_decoder")
    roles["student"].take_gradients(True)
    x0 = open_model(teacher, device="cpu").dataset.train[:8]
    out = loss_of(objective, roles["student"].process, roles, x0)
    out.loss.backward()
    for name, parameter in roles["student"].named_parameters():
        assert (parameter.grad is not None) == name.startswith("decoder."), name
    assert all(parameter.grad is None for parameter in roles["teacher"].parameters())
    # Half of the samples take an evaluation of the teacher.
    assert roles["teacher"].evaluated == 4


def test_every_token_reads_those_before_it_and_all_vectors(student: Path) -> None:
    network, tokens = rounding(student), torch.randint(4, (1, 8))
    vectors = torch.randn(1, 8, 8)
    base = network.decode(tokens, vectors).dense_probs()
    for place in range(8):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 4
        gap = (network.decode(changed, vectors).dense_probs() - base).abs().amax(-1)[0]
        assert bool((gap[: place + 1] == 0).all())
        assert place == 7 or bool((gap[place + 1 :] > 0).all())
        moved = vectors.clone()
        moved[:, place] += 1
        assert bool(((network.decode(tokens, moved).dense_probs() - base).abs().amax(-1) > 0).all())


def test_token_by_token_is_all_at_once(student: Path) -> None:
    """Rows with stored keys and values are those of one evaluation over the whole sample."""
    network, tokens, vectors = rounding(student), torch.randint(4, (3, 8)), torch.randn(3, 8, 8)
    rows = network.decode(tokens, vectors).dense_probs().detach()
    with torch.no_grad():
        progress, last = network.open_rounding(vectors), None
        for place in range(8):
            torch.testing.assert_close(network.next_rows(progress, last).exp(), rows[:, place], atol=1e-5, rtol=1e-4)
            last = tokens[:, place]


@pytest.mark.parametrize("steps", [1, 3])
def test_evaluations_are_steps_and_tokens_and_passes_know_their_sizes(steps: int, student: Path) -> None:
    network = rounding(student)
    streams = SampleStreams(0, range(5))
    out = SAMPLERS.build("contextual_rounding").sample(network, 5, steps=steps, generator=streams)
    assert out.nfe == steps + 8
    assert out.passes == pytest.approx(steps + network.share)
    out = SAMPLERS.build("ancestral").sample(network, 5, steps=steps, generator=streams)
    assert (out.nfe, out.passes) == pytest.approx((steps, steps))


def test_samples_depend_on_their_own_stream_and_known_tokens_stand(student: Path) -> None:
    network, sampler = rounding(student), SAMPLERS.build("contextual_rounding")
    prompt = torch.full((6, 8), -1)
    prompt[:, 2] = 1

    def draw(rows: range) -> Tensor:
        cond = Condition(prompt=prompt[rows.start : rows.stop])
        return sampler.sample(network, len(rows), steps=2, generator=SampleStreams(0, rows), cond=cond).x

    assert torch.equal(draw(range(6)), torch.cat([draw(range(2)), draw(range(2, 6))]))
    assert bool((draw(range(6))[:, 2] == 1).all())


def test_temperature_shapes_the_decoder_alone(student: Path) -> None:
    network, vectors = rounding(student), torch.randn(400, 8, 8)
    levels = torch.rand(400, 8, dtype=torch.float64)
    greedy = {"type": "contextual_rounding", "greedy_tail": 1}
    cold = {"type": "contextual_rounding", "temperature": 1e-6}
    first, second = (
        SAMPLERS.build(c).sample(network, 9, steps=2, generator=SampleStreams(0, range(9))).x for c in (greedy, cold)
    )
    assert torch.equal(first, second)
    with torch.no_grad():
        assert not torch.equal(round_in_order(network, vectors, levels), round_in_order(network, vectors, 1 - levels))


def test_an_export_draws_the_same_samples(student: Path, tmp_path: Path) -> None:
    folder, sampler = export_run(str(student), str(tmp_path / "out")), SAMPLERS.build("contextual_rounding")
    draws = [
        sampler.sample(rounding(path), 6, steps=2, generator=SampleStreams(0, range(6))) for path in (student, folder)
    ]
    assert torch.equal(draws[0].x, draws[1].x)
    assert draws[0].nfe == draws[1].nfe == 10
    model = open_model(folder, device="cpu")
    assert model.recipe.sampler.type == "contextual_rounding"


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).recipe.process.type == "embedding_gaussian"


FIRST, SECOND = "markov-embeddings", "markov-codar"
REFUSED = {
    "a sampler without a decoder": (
        FIRST,
        ["sampler=contextual_rounding"],
        "sampler: students of 'embedding_denoising' have no decoder; train one with objective rounding_decoder",
    ),
    "a sampler of ids": (SECOND, ["sampler=flow"], "sampler 'flow' works on discrete data, .* contextual_rounding"),
    "a process of ids": (FIRST, ["process=masked"], "'embedding_denoising' works on continuous data, .* is discrete"),
    "a decoder of ids": (SECOND, ["process=uniform"], "sampler 'contextual_rounding' works on continuous data"),
    "no time": (
        FIRST,
        ["backbone.time_conditioned=false"],
        "objective: a state does not show how much noise is in it; set backbone.time_conditioned to true",
    ),
    "guidance": (
        SECOND,
        ["sampler.guidance=2", "label_input={}"],
        "objective: guidance mixes rows of tokens, .* set sampler.guidance to 1",
    ),
    "a schedule that ends elsewhere": (
        FIRST,
        ["process={type: embedding_gaussian, schedule: cosine}"],
        r"process.schedule: alpha goes from 0.9999 to 0.0001 and not from 1 to 0",
    ),
    "a table that is not there": (FIRST, ["process.table=nowhere.safetensors"], "process.table: no file 'nowhere"),
    "a weight twice": (
        FIRST,
        ["process.predicts=v", "objective.weighting=min_snr"],
        "objective.weighting: the squared error of v has a weight of its own",
    ),
    "heads": (SECOND, ["objective.heads=3"], "objective.heads: 3 heads of a decoder of width 64: .* multiple of 6"),
    "noise": (SECOND, ["objective.noise=[1, 0.5]"], r"objective.noise: noise is \[least, largest\]"),
    "no teacher": (SECOND, ["teacher=null"], "objective 'rounding_decoder' needs a teacher"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    name, changes, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe(name), changes)


def test_a_table_of_a_file_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "table.safetensors"
    save_file({"rows": torch.randn(4, 8)}, file)
    assert build(table=str(file)).rows("cpu").norm(dim=1).tolist() == pytest.approx([8**0.5] * 4)
    with pytest.raises(UserError, match=r"process.table: .* holds a table of 4 x 8 numbers, and the data have 5"):
        build(5, table=str(file))
    save_file({"rows": torch.zeros(4, 8)}, file)
    with pytest.raises(UserError, match="an embedding that is zero or not finite"):
        build(table=str(file))
    file.write_text("no table")
    with pytest.raises(UserError, match="cannot be read"):
        build(table=str(file))


def test_a_table_is_exported_and_a_second_stage_starts_from_the_export(tmp_path: Path) -> None:
    file = tmp_path / "table.safetensors"
    save_file({"rows": torch.randn(4, 8)}, file)
    run = RunDir(tmp_path / "run")
    fit(load_recipe(recipe("markov-embeddings"), [*SMALL, f"process.table={file}"]), run, echo=lambda line: None)
    rows = open_model(run.path, device="cpu").network.process.rows("cpu")
    folder = export_run(str(run.path), str(tmp_path / "out"))
    copy = file.rename(tmp_path / "copy.safetensors")
    assert torch.equal(open_model(folder, device="cpu").network.process.rows("cpu"), rows)
    student = RunDir(tmp_path / "student")
    sets = [*SMALL, f"process.table={copy}", f"teacher.run={folder}"]
    fit(load_recipe(recipe("markov-codar"), sets), student, echo=lambda line: None)
    assert torch.equal(rounding(student.path).process.rows("cpu"), rows)
