"""Every registered metric keeps its contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from fid_network import use_small_network
from local_data import write_chorales

from fewstep.metrics.base import METRICS
from fewstep.metrics.reference import ReferenceMetric
from fewstep.testing.metrics import check_metric


@pytest.mark.parametrize("name", METRICS.names())
def test_metric_conforms(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    music = {"type": "chorales", "path": str(write_chorales(tmp_path / "chorales.json"))}
    reference = {"reference": "given by the check"} if issubclass(METRICS.get(name).cls, ReferenceMetric) else {}
    if name == "fid":
        use_small_network(monkeypatch)
    elif reason := METRICS.get(name).cls.lacking(METRICS.parse({"type": name, **reference})):
        pytest.skip(reason)
    check_metric({"type": name, **reference}, data=music if name in ("chord_share", "chord_transitions") else None)
