"""Imported checkpoints predict what the public code predicts, to 1e-5, and nothing that does not fit is let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from public_checkpoints import DEPTH, HEADS, WIDTH, inverse_frequencies, public_logits, public_state
from safetensors.torch import save_file
from torch import Tensor

from fewstep.convert.importing import Imported, ImportRequest, import_checkpoint
from fewstep.convert.layouts import LAYOUTS, from_public, to_public
from fewstep.core.errors import OperationError, UserError
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.runs.models import open_model

V, L = 11, 9
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def imported(folder: Path, state: dict[str, Tensor], layout: str, **options: Any) -> Imported:
    save_file(state, folder / "model.safetensors")
    out = folder / "out.safetensors"
    return import_checkpoint(ImportRequest(str(folder), layout, out, **{"length": L, "replace": True, **options}))


def denoiser(found: Imported) -> NetworkDenoiser:
    return open_model(found.file, device="cpu").denoiser


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): tensor for key, tensor in state.items()}


@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.process == "masked"])
def test_masked_models_are_subs_without_a_time(layout: str, tmp_path: Path) -> None:
    """MDLM: sigma is always 0, [MASK] is id V and never predicted, and known tokens are not predicted at all."""
    state = public_state(V + 1)
    model = denoiser(imported(tmp_path, state, layout))
    x = torch.randint(V + 1, (3, L), generator=torch.Generator().manual_seed(1))
    x[:, 0], x[:, 1] = V, 4
    logits = public_logits(bare(state), x, torch.zeros(3))
    logits[..., V] = -torch.inf
    expected = logits.log_softmax(-1)[..., :V]
    for t in (0.0, 0.4, 1.0):
        found = model(x, torch.full((3,), t)).log_probs()
        torch.testing.assert_close(found, expected[x == V], **CLOSE)
    with torch.no_grad():
        hidden = model.backbone(x, torch.ones(3))
        torch.testing.assert_close(model.backbone.head(hidden), logits[..., :V], **CLOSE)


@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.process == "uniform"])
def test_uniform_models_are_told_sigma(layout: str, tmp_path: Path) -> None:
    """Duo: every symbol is a state and is predicted, and sigma = -log alpha of the log-linear schedule."""
    state = public_state(V)
    found = imported(tmp_path, state, layout)
    model = denoiser(found)
    x, t = torch.randint(V, (4, L)), torch.tensor([0.0, 0.3, 0.9, 1.0])
    sigma = -(1 - (1 - 1e-3) * t).log()
    torch.testing.assert_close(-model.process.schedule.alpha(t).log(), sigma)
    expected = public_logits(bare(state), x, sigma)
    found_rows = model(x, t).output.log_probs()
    torch.testing.assert_close(found_rows, expected.log_softmax(-1).flatten(0, 1), **CLOSE)
    assert not torch.allclose(expected, public_logits(bare(state), x, torch.zeros(4)), atol=1e-3)
    assert (found.vocab_size, model.process.num_states) == (V, V)


def test_a_mask_token_of_the_tokenizers_own_keeps_its_id(tmp_path: Path) -> None:
    """BERT's [MASK] is id 103 of 30522; its ids stay, and it is never predicted."""
    state, mask = public_state(V), 3
    model = denoiser(imported(tmp_path, state, "mdlm", mask_id=mask))
    x = torch.randint(V, (3, L))
    x[:, :4] = mask
    logits = public_logits(bare(state), x, torch.zeros(3))
    logits[..., mask] = -torch.inf
    ours = x.masked_fill(x == mask, V)
    found = model(ours, torch.ones(3)).log_probs()
    torch.testing.assert_close(found.exp(), logits.softmax(-1)[x == mask], **CLOSE)
    assert found.isfinite().all()
    assert float(found[..., mask].exp().max()) == 0


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.backbone.", "model.", "backbone._orig_mod.", "module."])
def test_what_wraps_the_network_does_not_matter(prefix: str, tmp_path: Path) -> None:
    expected = denoiser(imported(tmp_path, public_state(V), "duo")).state_dict()
    found = denoiser(imported(tmp_path, public_state(V, prefix=prefix), "duo")).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("layout", ["mdlm", "duo"])
def test_names_and_shapes_map_one_to_one_and_back(layout: str) -> None:
    state = bare(public_state(V, frequencies=False))
    back = to_public(from_public(state, LAYOUTS[layout]), LAYOUTS[layout])
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in state.items()}
    same = [key for key in state if torch.equal(back[key], state[key])]
    head = ["output_layer.linear.weight", "output_layer.linear.bias"]
    assert sorted(set(state) - set(same)) == (sorted(head) if layout == "mdlm" else [])
    assert all(torch.equal(back[key][: V - 1], state[key][: V - 1]) for key in head)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {key: tensor.bfloat16() for key, tensor in public_state(V).items()}
    weights = denoiser(imported(tmp_path, state, "duo")).state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_another_rotary_base_is_found(tmp_path: Path) -> None:
    state = {**public_state(V), "backbone.rotary_emb.inv_freq": inverse_frequencies(500.0)}
    model, x = denoiser(imported(tmp_path, state, "duo")), torch.randint(V, (2, L))
    expected = public_logits(bare(state), x, torch.zeros(2), base=500.0)
    found = model(x, torch.zeros(2)).output.log_probs()
    torch.testing.assert_close(found, expected.log_softmax(-1).flatten(0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("told", ["frequencies", "option", "config", "nested config"])
def test_heads_come_from_whatever_tells(told: str, tmp_path: Path) -> None:
    state = public_state(V, frequencies=told == "frequencies")
    config = {"config": {"n_heads": HEADS}, "nested config": {"model": {"n_heads": HEADS}}}.get(told, {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = imported(tmp_path, state, "duo", heads=HEADS if told == "option" else None)
    assert found.recipe.backbone.model_dump()["heads"] == HEADS


def test_config_tells_the_length(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_length": 24}))
    assert imported(tmp_path, public_state(V), "duo", length=None).length == 24
    (tmp_path / "config.json").unlink()
    assert imported(tmp_path, public_state(V), "duo", length=None).length == 1024


def test_several_safetensors_files(tmp_path: Path) -> None:
    state = public_state(V)
    (tmp_path / "parts").mkdir()
    for part in range(2):
        save_file(dict(list(state.items())[part::2]), tmp_path / "parts" / f"part{part}.safetensors")
    index = {"weight_map": {key: f"part{i % 2}.safetensors" for i, key in enumerate(state)}}
    (tmp_path / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))
    request = ImportRequest(str(tmp_path / "parts"), "duo", tmp_path / "out.safetensors", length=L)
    assert import_checkpoint(request).parameters == sum(t.numel() for k, t in state.items() if "inv_freq" not in k)


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_training_checkpoints_have_averaged_weights_in_a_list(weights: Any, tmp_path: Path) -> None:
    state = public_state(V)
    shadow = [tensor + 1 for key, tensor in state.items() if "inv_freq" not in key]
    torch.save({"state_dict": state, "ema": {"decay": 0.9999, "shadow_params": shadow}}, tmp_path / "last.ckpt")
    out = tmp_path / "out.safetensors"
    found = import_checkpoint(
        ImportRequest(str(tmp_path / "last.ckpt"), "duo", out, length=L, weights=weights, replace=True)
    )
    embedding = denoiser(found).state_dict()["backbone.vocab_embed.embedding"]
    torch.testing.assert_close(embedding, state["backbone.vocab_embed.embedding"] + (weights == "ema"))
    torch.save({"state_dict": state, "ema": {"shadow_params": shadow[1:]}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="import the raw weights with --weights raw"):
        import_checkpoint(ImportRequest(str(tmp_path / "last.ckpt"), "duo", tmp_path / "x.safetensors"))


class Surprise:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_a_torch_file_with_more_than_tensors_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": public_state(V), "hyper_parameters": Surprise()}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="reading those runs code"):
        import_checkpoint(ImportRequest(str(tmp_path / "last.ckpt"), "duo", tmp_path / "out.safetensors"))
    assert "code ran" not in capsys.readouterr().out


def changed(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    merged = {**state, **{key.replace("__", "."): tensor for key, tensor in changes.items()}}
    return {key: tensor for key, tensor in merged.items() if tensor is not None}


def test_everything_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = changed(
        public_state(V),
        backbone__blocks__1__attn_out__weight=None,
        backbone__blocks__0__attn_qkv__weight=torch.zeros(3 * WIDTH, WIDTH + 1),
        backbone__latent_projection__0__weight=torch.zeros(5, 2),
        metrics__count=torch.tensor(1),
    )
    with pytest.raises(UserError) as caught:
        imported(tmp_path, state, "duo")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("does not fit backbone dit: 1 missing, 1 of wrong shape, 2 unexpected")
    assert [line.split() for line in lines[1:]] == [
        ["key", "problem", "expected", "actual"],
        ["blocks.1.attn_out.weight", "missing", "16x16"],
        ["blocks.0.attn_qkv.weight", "wrong", "shape", "48x16", "48x17"],
        ["latent_projection.0.weight", "unexpected", "5x2"],
        ["metrics.count", "unexpected", "number"],
    ]
    assert not (tmp_path / "out.safetensors").exists()


def test_a_missing_block_in_the_middle_is_missed(tmp_path: Path) -> None:
    state = {key.replace("blocks.1.", "blocks.2."): tensor for key, tensor in public_state(V).items()}
    with pytest.raises(UserError, match="10 missing"):
        imported(tmp_path, state, "duo")
    assert DEPTH == 2


CAUSAL = ("adaLN", "sigma_map")
REFUSED: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "layout": (public_state(V), {"layout": "mdml"}, "no layout 'mdml'; did you mean 'mdlm'\\? known: mdlm, sdtt"),
    "other": ({"wte.weight": torch.zeros(2, 2)}, {}, "no key ends in vocab_embed.embedding \\(keys: wte.weight"),
    "two": ({**public_state(V), **public_state(V, prefix="teacher.")}, {}, "several networks.* backbone., teacher."),
    "causal": (
        {key: tensor for key, tensor in public_state(V).items() if not any(part in key for part in CAUSAL)},
        {},
        "no adaLN_modulation",
    ),
    "heads": (public_state(V, frequencies=False), {}, "does not state its number of attention heads; .*--heads"),
    "contradiction": (public_state(V), {"heads": 4}, "--heads says 4, rotary_emb.inv_freq says 2"),
    "indivisible": (public_state(V, frequencies=False), {"heads": 3}, "heads \\(3\\) must divide width \\(16\\)"),
    "mask": (public_state(V), {"mask_id": V}, "--mask-id 11: the checkpoint's tokens are 0 to 10"),
    "no mask": (public_state(V), {"mask_id": 1, "layout": "duo"}, "layout 'duo' has no \\[MASK\\]"),
    "suffix": (public_state(V), {"out": Path("x.pt")}, "must end in .safetensors"),
    "data": (public_state(V), {"recipe": "text-teacher"}, "its data have \\d+ symbols, the checkpoint knows 10"),
    "revision": (public_state(V), {"revision": "main"}, "--revision is for repositories of the Hub"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_are_one_sentence(what: str, tmp_path: Path) -> None:
    state, options, message = REFUSED[what]
    save_file(state, tmp_path / "model.safetensors")
    given = {"layout": "mdlm", "out": tmp_path / "out.safetensors", "length": L, **options}
    with pytest.raises(UserError, match=message):
        import_checkpoint(ImportRequest(str(tmp_path / "model.safetensors"), **given))


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    imported(tmp_path, public_state(V), "duo")
    with pytest.raises(UserError, match="replace it with --force"):
        imported(tmp_path, public_state(V), "duo", replace=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [("no/such/file.ckpt", "not OWNER/NAME"), ("nothing", "not OWNER/NAME"), ("empty", "no model.safetensors")],
)
def test_sources_that_are_not_there(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(UserError, match=message):
        import_checkpoint(ImportRequest(source, "duo", Path("out.safetensors")))


def test_offline_the_hub_is_named_as_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the optional package huggingface_hub is not installed")

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(OperationError, match=r"cannot fetch 's-sahoo/duo', which is no folder here: no network"):
        import_checkpoint(ImportRequest("s-sahoo/duo", "duo", tmp_path / "out.safetensors"))


def test_without_huggingface_hub_the_command_to_install_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install 'fewstep\\[hub\\]'"):
        import_checkpoint(ImportRequest("s-sahoo/duo", "duo", tmp_path / "out.safetensors"))
