"""Every registered metric keeps its contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from fid_network import use_small_network
from local_data import write_chorales

from fewstep.data.base import DATASETS
from fewstep.metrics.base import METRICS, MetricConfig, ToScore
from fewstep.metrics.reference import ReferenceMetric
from fewstep.testing.metrics import check_metric, suited_data


@pytest.mark.parametrize("name", METRICS.names())
def test_metric_conforms(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    music = {"type": "chorales", "path": str(write_chorales(tmp_path / "chorales.json"))}
    reference = {"reference": "given by the check"} if issubclass(METRICS.get(name).cls, ReferenceMetric) else {}
    if name == "fid":
        use_small_network(monkeypatch)
    config = METRICS.parse({"type": name, **reference})
    data = music if name in ("chord_share", "chord_transitions") else None
    assert isinstance(config, MetricConfig)
    suited = DATASETS.get("chorales" if data else suited_data(config)).cls
    if reason := config.refuses(ToScore(suited, here=True)):
        pytest.skip(reason)
    check_metric(config, data=data)
