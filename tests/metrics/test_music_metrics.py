"""Metrics of chords, against cases counted by hand and a second version that is slow and plain."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from local_data import real_data, write_chorales

from fewstep.data.base import DATASETS
from fewstep.data.music.chorales import Chorales
from fewstep.metrics.base import METRICS, MetricConfig, ToScore
from fewstep.metrics.music.chord_transitions import total_variation
from fewstep.metrics.music.chords import chord_changes, pitch_class_sets

C, F, G = [72, 67, 64, 48], [72, 69, 65, 53], [71, 67, 62, 55]
D_MAJOR, G_OF_D = [74, 69, 66, 50], [74, 71, 67, 55]
"""C major, its F and G; and C and F a whole tone higher."""


def music(folder: Path, train: list[list[list[int]]], held_out: list[list[list[int]]], slots: int = 2) -> Chorales:
    path = write_chorales(folder / "c.json", train=train, valid=held_out)
    return DATASETS.build({"type": "chorales", "path": str(path), "slots": slots, "stride": 1})


def value(name: str, data: Chorales, *samples: list[list[int]]) -> dict[str, float]:
    metric = METRICS.build(name, dataset=data)
    metric.update(data.encode(torch.tensor(samples).flatten(1)))
    return metric.compute()


def test_chord_share_by_hand(tmp_path: Path) -> None:
    data = music(tmp_path, [[C, F, C]], [[C, G], [G, G]])
    assert value("chord_share", data, [C, F], [F, G]) == {"chord_share": 3 / 4, "chord_share_held_out": 1 / 4}
    swapped = [C[1], C[0], *C[2:]]  # the same notes, by other voices
    assert value("chord_share", data, [C, swapped])["chord_share"] == 1 / 2


def test_pitch_class_sets_forget_voice_and_octave_and_rests(tmp_path: Path) -> None:
    data = music(tmp_path, [[[72, 60, 48, -1], [48, 52, 55, 60]]], [[C, C]])
    sets = pitch_class_sets(data.train, data)
    assert sets.tolist() == [[1 << 0, 1 << 0 | 1 << 4 | 1 << 7]]


def test_chord_transitions_by_hand(tmp_path: Path) -> None:
    # Changes: up a fourth (C-F) and a fifth (F-C) in the training data, a fourth and a tone (C-D) among the samples.
    data = music(tmp_path, [[C, F, C], [D_MAJOR, D_MAJOR]], [[C, F]])
    assert value("chord_transitions", data, [C, F], [C, D_MAJOR], [C, C], [F, F]) == pytest.approx(
        {"chord_tv": 1 / 2, "chord_tv_held_out": 1 / 2, "chord_changes": 1 / 2, "chord_changes_data": 2 / 3}
    )


def test_transposed_changes_are_one_kind(tmp_path: Path) -> None:
    data = music(tmp_path, [[C, F], [C, G]], [[D_MAJOR, G_OF_D]])
    rising, falling = chord_changes(data.train, data).tolist()
    assert rising != falling
    assert chord_changes(data.held_out, data).tolist() == [rising]


def test_samples_that_never_change(tmp_path: Path) -> None:
    data = music(tmp_path, [[C, F]], [[C, C]])
    values = value("chord_transitions", data, [C, C])
    assert values["chord_tv"] == 1
    assert values["chord_changes"] == 0


def test_total_variation() -> None:
    a, b = torch.tensor([5, 5, 9, 2]), torch.tensor([5, 9])
    assert total_variation(a, b) == total_variation(b, a) == pytest.approx(0.25)
    assert total_variation(a, a) == 0
    assert total_variation(a[:0], b) == 1
    assert total_variation(a[:0], b[:0]) == 0


def test_changes_against_a_plain_version(tmp_path: Path) -> None:
    data = DATASETS.build({"type": "chorales", "path": str(write_chorales(tmp_path / "c.json"))})
    plain: Counter[object] = Counter()
    for row in data.pitches[data.train].view(len(data), -1, 4).tolist():
        sets = [frozenset(pitch % 12 for pitch in slot) for slot in row]
        for pair in pairwise(sets):
            if pair[0] != pair[1]:
                moved = [tuple(tuple(sorted((p + by) % 12 for p in part)) for part in pair) for by in range(12)]
                plain[min(moved)] += 1
    counted = Counter(chord_changes(data.train, data).tolist())
    assert sorted(counted.values()) == sorted(plain.values())


@pytest.mark.parametrize("metric", ["chord_share", "chord_transitions"])
@pytest.mark.parametrize("data", ["digits", "markov", "text"])
def test_other_data_are_refused(metric: str, data: str) -> None:
    config = METRICS.parse(metric)
    assert isinstance(config, MetricConfig)
    assert config.refuses(ToScore(DATASETS.get(data).cls)) == "it needs music in several voices (chorales)"


def test_voices_that_do_not_listen_are_told_from_music() -> None:
    data = DATASETS.build({"type": "chorales", "path": str(real_data("jsb_chorales/Jsb16thSeparated.json"))})
    assert data.held_out is not None
    real = data.held_out[::8]
    deaf = torch.stack([real.view(len(real), -1, 4)[..., voice].roll(11 * voice, 0) for voice in range(4)], -1)
    for name, key in (("chord_share", "chord_share"), ("chord_transitions", "chord_tv")):
        values = []
        for samples in (real, deaf.flatten(1)):
            metric = METRICS.build(name, dataset=data)
            metric.update(samples)
            values.append(metric.compute()[key])
        assert abs(values[0] - values[1]) > 0.4, name
