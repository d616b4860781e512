"""Images as codes: encoded once and never read stale or half, shown as pictures, exported with their tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from local_data import write_tokenizer
from safetensors.torch import load_file
from torch import Tensor

from fewstep.backbones.autoencoder import Autoencoder
from fewstep.core.component import ComponentConfig
from fewstep.core.errors import RecipeError, UserError
from fewstep.data.base import DATASETS, DataSpec
from fewstep.data.images import vq_tokens
from fewstep.data.images.base import ImageDataset
from fewstep.data.images.vq_tokens import VqTokens
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.evaluation.score import score
from fewstep.export.write import export_run
from fewstep.pipeline import Pipeline
from fewstep.recipe import dump_recipe, load_run_recipe, parse_recipe
from fewstep.recipe.yaml_loader import dump_yaml
from fewstep.runs.checkpoint import list_checkpoints
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_component, open_model
from fewstep.runtime.sealed import load_sealed, save_sealed
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.sampling.sheets import nearest_training
from fewstep.training.launch import launch
from fewstep.training.resume import resume
from fewstep.training.trainer import Trainer

LEVELS = 4


@pytest.fixture(autouse=True, scope="module")
def _patches() -> Iterator[None]:
    with DATASETS.snapshot():

        @DATASETS.register("patches")
        class Patches(ImageDataset):
            """Images of 4 x 6 pixels made of 2 x 2 patches of one level each; the last ones are held out."""

            labelled: ClassVar[bool] = True

            class Config(ComponentConfig):
                type: Literal["patches"] = "patches"
                seed: int = 0
                changes: bool = False

            def __init__(self, config: ComponentConfig | None = None) -> None:
                super().__init__(config)
                patches = torch.randint(LEVELS, (40, 2, 3), generator=torch.Generator().manual_seed(self.config.seed))
                pixels = patches.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
                self.patches, self.augments = patches, self.config.changes
                self.train, self.held_out, self.labels = pixels[:32], pixels[32:], torch.arange(32) % 2
                self.spec = DataSpec(LEVELS, 24, (4, 6, 1))

            def to_images(self, samples: Tensor) -> Tensor:
                return samples.view(-1, 1, 4, 6).float() / (LEVELS - 1)

            def to_text(self, samples: Tensor) -> list[str]:
                return [str(sample) for sample in samples.tolist()]

        yield


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A run whose tokenizer is set by hand: code k is a patch of level k."""
    folder = write_tokenizer(tmp_path / "tokenizer", "patches", steps=1, depth=0, codes=LEVELS, code_width=1, width=2)
    change(folder, set_by_hand)
    return folder


def set_by_hand(model: Autoencoder) -> None:
    """2 v of a patch's first pixel on the way in, the same for all of its pixels on the way out."""
    first, _, second, _, into = model.encoder  # type: ignore[misc]
    out, _, spread, _, last = model.decoder  # type: ignore[misc]
    for layer in (first, second, into, out, spread, last):
        layer.weight.zero_()
        layer.bias.zero_()
    first.weight[0, 0, 1, 1] = second.weight[0, 0, 1, 1] = into.weight[0, 0, 0, 0] = 1
    out.weight[0, 0, 1, 1] = last.weight[0, 0, 1, 1] = 1
    spread.weight[0, 0, 1:3, 1:3] = 1
    first.bias[0], last.bias[0] = 1, -1
    model.codebook.copy_(2 * torch.arange(LEVELS)[:, None] / (LEVELS - 1))


def change(folder: Path, how: Any) -> None:
    """Change the weights of a run's last checkpoint, and their average."""
    trainer = Trainer.from_recipe(
        load_run_recipe(folder / "recipe.resolved.yaml"), RunDir(folder), echo=lambda line: None
    )
    trainer.objective.setup(trainer.ctx)
    resume(trainer)
    student: Any = trainer.roles["student"]
    with torch.no_grad():
        how(student.backbone)
    for name, weight in student.named_parameters():
        trainer.ema.weights[name].copy_(weight.detach())
    shutil.rmtree(list_checkpoints(folder / "checkpoints")[-1])
    trainer.save()


def build(folder: Path, images: Any = "patches", **section: Any) -> VqTokens:
    data = build_component(
        DATASETS, {"type": "vq_tokens", "images": images, "tokenizer": {"run": str(folder), **section}}
    )
    assert isinstance(data, VqTokens)
    return data


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "tokens").iterdir())


def test_constant_patches_come_back_exactly_from_a_codebook_set_by_hand(tokenizer: Path) -> None:
    data, images = build(tokenizer), DATASETS.build("patches")
    assert torch.equal(data.train[:].long(), images.patches[:32].flatten(1))  # type: ignore[attr-defined]
    assert data.held_out is not None
    assert torch.equal(data.held_out[:].long(), images.patches[32:].flatten(1))  # type: ignore[attr-defined]
    assert data.spec == DataSpec(LEVELS, 6, (2, 3, 1))
    torch.testing.assert_close(data.to_images(data.train[:]), images.to_images(images.train[:]), rtol=0, atol=1e-6)
    assert data.labels is not None
    assert images.labels is not None
    assert torch.equal(data.labels, images.labels)


def test_constant_patches_come_back_at_their_levels_after_training(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "t", "patches", steps=400, depth=0, codes=LEVELS + 2, width=16)
    data, images = build(folder), DATASETS.build("patches")
    made = (data.to_images(data.train[:]) * (LEVELS - 1)).round().flatten(1).long()
    assert torch.equal(made, images.train[:])


def test_images_are_encoded_once(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(tokenizer)
    (file,) = kept(tokenizer)
    monkeypatch.setattr(vq_tokens.ImageTokenizer, "encode", lambda *_: pytest.fail("encoded again"))
    again = build(tokenizer)
    assert torch.equal(again.train[:], first.train[:])
    assert again.fingerprint == first.fingerprint
    assert kept(tokenizer) == [file]


def test_other_weights_and_other_images_are_encoded_anew(tokenizer: Path) -> None:
    first = build(tokenizer)
    change(tokenizer, lambda model: model.codebook.copy_(model.codebook.flip(0)))
    turned = build(tokenizer)
    assert torch.equal(turned.train[:].long(), LEVELS - 1 - first.train[:].long())
    assert turned.fingerprint != first.fingerprint
    others = build(tokenizer, {"type": "patches", "seed": 1})
    assert not torch.equal(others.train[:], turned.train[:])
    assert len(kept(tokenizer)) == 3


def test_a_decoder_alone_makes_other_data_of_the_same_tokens(tokenizer: Path) -> None:
    first = build(tokenizer)
    change(tokenizer, lambda model: model.decoder[-1].bias.add_(0.1))
    second = build(tokenizer)
    assert torch.equal(second.train[:], first.train[:])
    assert second.fingerprint != first.fingerprint


def test_codes_kept_of_something_else_are_not_read(tokenizer: Path) -> None:
    """Not even under the right name."""
    first = build(tokenizer)
    build(tokenizer, {"type": "patches", "seed": 1})
    one, other = kept(tokenizer)
    mine, theirs = (one, other) if torch.equal(load_file(one)["train"], first.train[:]) else (other, one)
    shutil.copy(theirs, mine)
    assert torch.equal(build(tokenizer).train[:], first.train[:])


@pytest.mark.parametrize("left", [0, 1, 60])
def test_a_damaged_file_is_replaced(tokenizer: Path, left: int) -> None:
    first = build(tokenizer)
    (file,) = kept(tokenizer)
    whole = file.read_bytes()
    file.write_bytes(whole[:-left] if left else b"")
    assert torch.equal(build(tokenizer).train[:], first.train[:])
    assert file.stat().st_size == len(whole)
    assert torch.equal(load_sealed(file, "")[0]["train"].long(), first.train[:].long())


def test_an_interrupted_encoding_is_never_read_as_whole(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(parts: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        save_sealed({"train": parts["train"][:5]}, file, metadata)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vq_tokens, "save_sealed", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tokenizer)
    assert [file.suffix for file in kept(tokenizer)] == [".partial"]
    assert len(build(tokenizer)) == 32


def test_where_nothing_can_be_kept_images_are_encoded_each_time(tokenizer: Path) -> None:
    (tokenizer / "tokens").write_text("in the way")
    assert len(build(tokenizer)) == 32


def test_metrics_compare_with_the_images_themselves(tokenizer: Path) -> None:
    change(tokenizer, lambda model: model.decoder[-1].bias.add_(1.0))  # half a unit too bright
    data, images = build(tokenizer), DATASETS.build("patches")
    real = images.to_images(images.train[:3])
    assert real is not None
    assert torch.equal(data.originals(slice(3)), real)  # type: ignore[arg-type]
    assert not torch.allclose(data.to_images(data.train[:3]), real, atol=0.1)
    found = score(data.train[:], data, ["nearest_neighbour", "feature_frechet"])
    plain = score(images.train[:], images, ["nearest_neighbour", "feature_frechet"])
    assert plain["nn_distance"] == 0 < found["nn_distance"]
    assert found["nn_data"] == plain["nn_data"]
    assert found["feature_frechet"] > plain["feature_frechet"] + 0.01
    bright = torch.stack([images.train[r] for r in range(3)])  # type: ignore[index]
    assert len(nearest_training(data, data.train[:3])) == len(bright)


def test_what_a_tokenizer_loses(tokenizer: Path) -> None:
    """Of the held-out images, by the definition; nothing where it is exact."""
    names = ("reconstruction_rmse", "reconstruction_frechet", "tokens_used", "token_perplexity")
    exact = score(build(tokenizer).train[:], build(tokenizer), ["reconstruction"])
    assert [exact[name] for name in names[:3]] == pytest.approx([0, 0, 1], abs=1e-5)
    change(tokenizer, lambda model: model.codebook[0].copy_(model.codebook[1]))  # level 0 becomes level 1
    data, images = build(tokenizer), DATASETS.build("patches")
    assert images.held_out is not None
    zeros = (images.held_out[:] == 0).double().mean()
    found = score(data.train[:], data, ["reconstruction"])
    assert found["reconstruction_rmse"] == pytest.approx(float(zeros.sqrt()) / (LEVELS - 1), rel=1e-5)
    assert found["reconstruction_frechet"] > 1e-3
    shares = torch.bincount(data.train[:].long().flatten(), minlength=LEVELS).double() / data.train[:].numel()
    assert found["tokens_used"] == float((shares > 0).double().mean()) == (LEVELS - 1) / LEVELS
    assert found["token_perplexity"] == pytest.approx(float(torch.distributions.Categorical(shares).entropy().exp()))


def test_a_run_says_which_tokenizer_it_was_trained_with(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`latest` becomes the folder itself, so that the run can be sampled from elsewhere and after another tokenizer."""
    shutil.copytree(tokenizer, tmp_path / "runs" / "tokenizer" / "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe(Path("runs/tokenizer/latest"))))
    run = launch(str(tmp_path / "r.yaml"), run_dir="out")
    resolved = load_run_recipe(run / "recipe.resolved.yaml")
    assert resolved.data.tokenizer.run == str(tmp_path / "runs/tokenizer/1")  # type: ignore[attr-defined]
    newer = shutil.copytree(tokenizer, tmp_path / "runs" / "tokenizer" / "2")
    change(newer, lambda model: model.codebook.copy_(model.codebook.flip(0)))
    monkeypatch.chdir(tmp_path / "runs")
    assert sample_run(str(tmp_path / "out"), SampleRequest(2, steps=2)).is_file()


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ("digits", {"run": "nowhere"}, "data.tokenizer.run: 'nowhere' is not a run folder"),
    ({"type": "patches", "changes": True}, {}, "data.images: these images are encoded once, so that they cannot"),
]


@pytest.mark.parametrize(("images", "section", "message"), REFUSED)
def test_what_does_not_fit_is_told(tokenizer: Path, images: Any, section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(tokenizer, images, **section)
    assert str(caught.value).startswith(message)


def test_a_tokenizer_of_other_channels_or_a_size_that_codes_do_not_tile_is_told(tmp_path: Path) -> None:
    from local_data import write_pictures

    grey = write_tokenizer(tmp_path / "grey", "patches", steps=1, halvings=1)
    pictures = {"type": "image_folder", "path": str(write_pictures(tmp_path / "p"))}
    with pytest.raises(UserError, match=r"does not fit images of 8 x 8 pixels and 3 channels \(.*size mismatch"):
        build(grey, {**pictures, "size": 8})
    with pytest.raises(UserError, match=r"does not fit images of 7 x 7 pixels and 1 channel \(.*does not divide"):
        build(grey, {**pictures, "size": 7, "colour": "grey"})
    assert build(grey, {**pictures, "size": 16, "colour": "grey"}).spec.grid == (8, 8, 1)


def test_a_tokenizer_that_is_not_there_is_told_before_a_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe(Path("runs/tokenizer/latest"))))
    with pytest.raises(UserError, match=r"^data.tokenizer.run: no run in 'runs/tokenizer'; train one first: few"):
        launch("r.yaml")
    assert not (tmp_path / "runs").exists()


def test_a_tokenizer_is_not_evaluated(tokenizer: Path) -> None:
    with pytest.raises(UserError, match="draws no samples to score: objective 'vq' trains no network for that"):
        evaluate_run(str(tokenizer))
    with pytest.raises(UserError, match=r"draws no samples; name its run as `tokenizer\.run` of data vq_tokens"):
        sample_run(str(tokenizer), SampleRequest(2, steps=2))


def test_a_run_that_is_no_tokenizer_is_told(tokenizer: Path, tmp_path: Path) -> None:
    teacher = train(tokenizer, tmp_path / "teacher")
    with pytest.raises(UserError, match="is no image tokenizer; train one with objective vq"):
        build(teacher)


def recipe(tokenizer: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "teacher",
        "data": {"type": "vq_tokens", "images": "patches", "tokenizer": {"run": str(tokenizer)}},
        "process": "masked",
        "backbone": {"type": "image_transformer", "width": 16, "depth": 1, "heads": 2},
        "objective": "denoising",
        "train": {"steps": 3, "batch_size": 8, "device": "cpu"},
        "evaluate": {"steps": [2], "samples": 16, "metrics": ["feature_frechet", "class_coverage", "precision_recall"]},
        **changes,
    }


def train(tokenizer: Path, folder: Path, **changes: Any) -> Path:
    parsed = parse_recipe(recipe(tokenizer, **changes))
    folder.mkdir()
    RunDir(folder).resolved.write_text(dump_recipe(parsed))
    Trainer.from_recipe(parsed, RunDir(folder), echo=lambda line: None).fit()
    return folder


def test_from_a_tokenizer_to_sheets_and_metrics(tokenizer: Path, tmp_path: Path) -> None:
    from PIL import Image

    run = train(tokenizer, tmp_path / "teacher", label_input={})
    sheet = sample_run(str(run), SampleRequest(6, steps=2))
    assert sheet.suffix == ".png"
    with Image.open(sheet) as opened:
        assert opened.size[0] > 6 * 48
    (row,) = evaluate_run(str(run))
    assert {"feature_frechet", "classes_covered", "precision"} <= row["metrics"].keys()
    assert (run / "evaluate" / "nearest-steps2.png").is_file()


def test_masked_codes_cover_all_of_their_pixels(tokenizer: Path) -> None:
    from fewstep.sampling.animation import _picture

    data = build(tokenizer)
    tokens = data.train[:1].long()
    tokens[0, 0] = LEVELS  # the mask, in the upper left
    picture, plain = (_picture(data, x, 0.5, columns=1) for x in (tokens, data.train[:1].long()))
    changed = (picture != plain).any(0).nonzero()
    height, width = (changed.amax(0) - changed.amin(0) + 1).tolist()
    assert (height, width) == (2 * 8, 2 * 8)  # two pixels a side, each enlarged to eight


def test_an_export_shows_samples_without_the_runs(tokenizer: Path, tmp_path: Path) -> None:
    run = train(tokenizer, tmp_path / "teacher")
    before = open_model(run, device="cpu")
    expected = Pipeline(before).sample(4, steps=2, seed=3)
    folder = export_run(str(run), str(tmp_path / "out"))
    shutil.rmtree(run)
    shutil.rmtree(tokenizer)
    found = Pipeline.from_pretrained(folder, device="cpu").sample(4, steps=2, seed=3)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.images, expected.images)  # type: ignore[arg-type]
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {".safetensors", ".json", ".md"}
    card = (folder / "README.md").read_text()
    assert before.dataset.codec().values["tokenizer_digest"] in card
    with pytest.raises(UserError, match="came with an exported model, without the training data"):
        Pipeline.from_pretrained(folder, device="cpu").dataset.originals(slice(1))


def test_a_tokenizer_can_be_exported_and_used(tokenizer: Path, tmp_path: Path) -> None:
    expected = build(tokenizer)
    folder = export_run(str(tokenizer), str(tmp_path / "out"))
    assert "An image tokenizer, trained on the dataset `patches`" in (folder / "README.md").read_text()
    found = build(folder)
    assert found.fingerprint == expected.fingerprint
    assert kept(tmp_path / "out-made")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vq_autoencoder"}, "vq_autoencoder turns images into codes and predicts no tokens"),
        ({"objective": "vq"}, "a tokenizer needs a backbone that gives images back, not image_transformer"),
        (
            {"backbone": "vq_autoencoder", "objective": "vq", "start_from": {"student": "x"}},
            "averages that start with its training; remove start_from",
        ),
        ({"data": {"type": "vq_tokens", "images": "coins", "tokenizer": {"run": "x"}}}, "'coins' are no images"),
        (
            {"data": "coins", "backbone": "vq_autoencoder", "objective": "vq", "evaluate": {}},
            "vq_autoencoder needs image data, and coins holds tokens",
        ),
    ],
)
def test_sections_that_do_not_fit_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe(Path("unused"), **changes))
    assert message in str(caught.value)
