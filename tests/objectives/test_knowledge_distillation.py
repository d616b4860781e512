"""Knowledge distillation against a plain-Python float64 reference, and its fixed point."""

from __future__ import annotations

import math

import pytest
import torch
from enumerable_denoisers import L, V, make, row
from torch import Generator

from fewstep.objectives.base import Batch
from fewstep.objectives.knowledge_distillation import KnowledgeDistillation


def batch(size: int) -> Batch:
    return Batch(torch.randint(V, (size, L), generator=Generator().manual_seed(7)))


@pytest.mark.parametrize("data_weight", [0.0, 0.3])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_loss_and_gradient(process: str, data_weight: float) -> None:
    ctx, roles = make(process)
    del ctx.roles["auxiliary"]  # type: ignore[attr-defined]
    teacher, student, data = roles["teacher"], roles["student"], batch(32)
    objective = KnowledgeDistillation(KnowledgeDistillation.Config(data_weight=data_weight))
    ctx.diagnose = True
    out = objective.loss(objective.phases()[0], data, ctx)
    z_t, _ = student.calls[0]
    assert torch.equal(z_t, teacher.calls[0][0])
    expected, gradient, divergence, noised = 0.0, torch.zeros_like(student.logits), 0.0, 0
    for b in range(len(z_t)):
        for i in range(L):
            if process == "masked" and z_t[b, i] != V:
                continue
            p, q = row(student, z_t[b].tolist(), i), row(teacher, z_t[b].tolist(), i)
            target = [(1 - data_weight) * q[c] + data_weight * (c == int(data.x0[b, i])) for c in range(V)]
            expected -= sum(w * math.log(pc) for w, pc in zip(target, p, strict=True)) / (len(z_t) * L)
            divergence += sum(qc * (math.log(qc) - math.log(pc)) for qc, pc in zip(q, p, strict=True))
            noised += 1
            for c in range(V):
                gradient[int(student.index(z_t[b : b + 1])), i, c] += (p[c] - target[c]) / (len(z_t) * L)
    assert float(out.loss) == pytest.approx(expected, rel=1e-6)
    out.loss.backward()
    torch.testing.assert_close(student.logits.grad, gradient, rtol=1e-6, atol=1e-9)
    assert teacher.logits.grad is None
    total, count = out.metrics["kl_to_teacher"]
    assert (float(total), int(count)) == (pytest.approx(divergence, rel=1e-6), noised)


def test_a_student_that_agrees_with_its_teacher_stays() -> None:
    ctx, roles = make("masked")
    roles["student"].logits.data.copy_(roles["teacher"].logits.data)
    objective = KnowledgeDistillation(KnowledgeDistillation.Config())
    ctx.diagnose = True
    out = objective.loss(objective.phases()[0], batch(32), ctx)
    out.loss.backward()
    grad = roles["student"].logits.grad
    assert grad is not None
    assert float(grad.abs().max()) < 1e-9
    assert float(out.metrics["kl_to_teacher"][0]) == pytest.approx(0, abs=1e-9)
