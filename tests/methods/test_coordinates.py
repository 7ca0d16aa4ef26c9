"""The methods that merge coordinate by coordinate: GradDrop, trimmed mean, median, sign agreement."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer, methods

NAMES = ["graddrop", "trimmed_mean", "median", "sign_agreement"]


def matrix(tasks: int = 5, size: int = 400, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, size, generator=generator, dtype=torch.float64)


def graddrop(rows: Tensor, uniforms: Tensor, leak: Tensor) -> Tensor:
    magnitude = rows.abs().sum(dim=0)
    share = 0.5 * (1 + torch.where(magnitude > 0, rows.sum(dim=0) / magnitude, 0.0))
    kept = ((share > uniforms) & (rows > 0)) | ((share < uniforms) & (rows < 0))
    return ((leak[:, None] + (1 - leak[:, None]) * kept) * rows).sum(dim=0)


class TestFormulas:
    @pytest.mark.parametrize("leak", [0.0, 0.25, [0.0, 0.1, 0.2, 0.3, 1.0]])
    def test_graddrop(self, leak: float | list[float]) -> None:
        rows = matrix()
        uniforms = torch.rand(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = mtl_ops.merge(rows, methods.get("graddrop", leak=leak), uniforms=uniforms)
        expected = graddrop(rows, uniforms, torch.tensor(leak, dtype=torch.float64).expand(5))
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("trim", [0, 1, 2])
    def test_trimmed_mean(self, trim: int) -> None:
        rows = matrix()
        expected = rows.sort(dim=0).values[trim : 5 - trim].mean(dim=0)
        torch.testing.assert_close(
            mtl_ops.merge(rows, methods.get("trimmed_mean", trim=trim)), expected
        )

    @pytest.mark.parametrize("tasks", [1, 2, 5, 8])
    def test_median(self, tasks: int) -> None:
        rows = matrix(tasks)
        torch.testing.assert_close(
            mtl_ops.merge(rows, "median"), torch.from_numpy(np.median(rows.numpy(), axis=0))
        )

    @pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("reduce", ["mean", "sum"])
    def test_sign_agreement(self, tau: float, reduce: str) -> None:
        rows = matrix(3)
        agree = rows.sign().sum(dim=0).abs() >= 3 * tau
        merged = rows.mean(dim=0) if reduce == "mean" else rows.sum(dim=0)
        found = mtl_ops.merge(rows, methods.get("sign_agreement", tau=tau, reduce=reduce))
        torch.testing.assert_close(found, torch.where(agree, merged, 0.0))


class TestGuarantees:
    @pytest.mark.parametrize("name", NAMES)
    def test_degree_one(self, name: str) -> None:
        rows = matrix()
        given: dict[str, Any] = {"uniforms": torch.full((400,), 0.4)} if name == "graddrop" else {}
        torch.testing.assert_close(
            mtl_ops.merge(8 * rows, name, **given), 8 * mtl_ops.merge(rows, name, **given)
        )

    @pytest.mark.parametrize("name", NAMES)
    def test_the_order_of_the_tasks_does_not_matter(self, name: str) -> None:
        rows = matrix()
        given: dict[str, Any] = {"uniforms": torch.full((400,), 0.4)} if name == "graddrop" else {}
        torch.testing.assert_close(
            mtl_ops.merge(rows.flip(0), name, **given), mtl_ops.merge(rows, name, **given)
        )

    @pytest.mark.parametrize("name", ["trimmed_mean", "median"])
    def test_within_the_values_and_robust_to_one_task(self, name: str) -> None:
        rows = matrix()
        rows[2] = 1e30
        honest = rows[[0, 1, 3, 4]]
        found = mtl_ops.merge(rows, name)
        assert (found <= honest.amax(dim=0)).all()
        assert (found >= honest.amin(dim=0)).all()

    def test_graddrop_adds_only_one_sign(self) -> None:
        rows = matrix()
        found = mtl_ops.merge(rows, "graddrop")
        positive, negative = rows.clamp(min=0).sum(dim=0), rows.clamp(max=0).sum(dim=0)
        close = torch.isclose(found, positive) | torch.isclose(found, negative)
        assert close.all()

    def test_graddrop_keeps_the_sign_by_its_share(self) -> None:
        rows = torch.tensor([[3.0], [-1.0]]).expand(2, 40_000)
        kept = (mtl_ops.merge(rows, "graddrop") > 0).double().mean().item()
        assert abs(kept - 0.75) < 0.01

    def test_sign_agreement_harms_no_task(self) -> None:
        rows = matrix(3)
        found = mtl_ops.merge(rows, "sign_agreement")
        assert (rows * found >= 0).all()

    @pytest.mark.parametrize("name", NAMES)
    def test_nan_is_not_hidden(self, name: str) -> None:
        rows = matrix()
        rows[1, 7] = torch.nan
        found = mtl_ops.merge(rows, name)
        assert found[7].isnan()
        assert found[:7].isfinite().all()

    @pytest.mark.parametrize("name", NAMES)
    def test_one_task_is_itself(self, name: str) -> None:
        rows = matrix(1)
        method = methods.get(name, trim=0) if name == "trimmed_mean" else name
        torch.testing.assert_close(mtl_ops.merge(rows, method), rows[0])

    @pytest.mark.parametrize("name", NAMES)
    def test_max_norm(self, name: str) -> None:
        found = mtl_ops.merge(matrix(), name, max_norm=0.5)
        assert found.norm().item() == pytest.approx(0.5)


class TestRandomNumbers:
    def test_are_those_of_the_seed(self) -> None:
        rows = matrix()
        torch.manual_seed(3)
        first = mtl_ops.merge(rows, "graddrop")
        torch.manual_seed(4)
        other = mtl_ops.merge(rows, "graddrop")
        torch.manual_seed(3)
        assert torch.equal(mtl_ops.merge(rows, "graddrop"), first)
        assert not torch.equal(first, other)

    def test_differ_from_call_to_call(self) -> None:
        rows, method = matrix(), methods.get("graddrop")
        first, second = mtl_ops.merge(rows, method), mtl_ops.merge(rows, method)
        assert not torch.equal(first, second)
        method.reset()
        assert torch.equal(mtl_ops.merge(rows, method), first)

    def test_generator_decides(self) -> None:
        rows = matrix()
        found = []
        for seed in (2**63 + 5, 2**63 + 5, 7):
            method = methods.get("graddrop")
            method.generator = torch.Generator().manual_seed(seed)
            found.append(mtl_ops.merge(rows, method))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    @pytest.mark.parametrize("uniforms", [None, torch.linspace(0.01, 0.99, 400)])
    def test_parts_get_the_numbers_of_the_whole(self, uniforms: Tensor | None) -> None:
        rows, method = matrix(), methods.get("graddrop")
        given: dict[str, Any] = {} if uniforms is None else {"uniforms": uniforms}
        whole = mtl_ops.merge(rows, method, **given)
        method.reset()
        cut = [slice(150, 400), slice(20, 150)]
        out = [torch.empty_like(whole[part]) for part in cut]
        columns = [row[part] for row in rows for part in cut]
        scale = torch.ones(1, 5, dtype=torch.float64)
        method.merge_(out, columns, scale, (), None, False, first=[150, 20], **given)
        assert torch.equal(out[0], whole[150:])
        assert torch.equal(out[1], whole[20:150])
        assert method.calls == (1 if uniforms is None else 0)

    def test_resume_with_the_same_numbers(self) -> None:
        def train(steps: int, state: Any = None) -> tuple[nn.Module, MultiTaskOptimizer]:
            torch.manual_seed(0)
            net = nn.Linear(4, 3)
            generator = torch.Generator().manual_seed(9)
            optimizer = MultiTaskOptimizer(
                torch.optim.SGD(net.parameters(), lr=0.1), "graddrop", generator=generator
            )
            if state is not None:
                net.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            for _ in range(steps):
                optimizer.zero_grad()
                outputs = net(torch.ones(2, 4))
                optimizer.backward([(outputs[:, t] - t + 1).square().mean() for t in range(3)])
                optimizer.step()
            return net, optimizer

        whole, _ = train(5)
        net, optimizer = train(3)
        file = io.BytesIO()
        torch.save((net.state_dict(), optimizer.state_dict()), file)
        file.seek(0)
        resumed, _ = train(2, torch.load(file, weights_only=True))
        assert torch.equal(whole.weight, resumed.weight)


class TestOptimizer:
    """Heads get their own task's gradient, whatever the method does with the trunk."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("options", [{}, {"max_norm": 0.05}, {"max_task_norm": 0.1}], ids=str)
    def test_trunk_and_heads(self, name: str, options: dict[str, float]) -> None:
        torch.manual_seed(0)
        trunk, heads = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 1) for _ in range(3)])
        params = [*trunk.parameters(), *heads.parameters()]
        data = torch.randn(6, 3)

        def losses() -> list[Tensor]:
            return [(head(trunk(data)) - k).square().mean() for k, head in enumerate(heads)]

        rows = [torch.autograd.grad(loss, params, allow_unused=True) for loss in losses()]
        whole = [torch.cat([g.flatten() for g in row if g is not None]) for row in rows]
        scales = [1.0] * 3
        if "max_task_norm" in options:
            scales = [min(1.0, 0.1 / row.norm().item()) for row in whole]
        shared = torch.stack(
            [
                s * torch.cat([g.flatten() for g in row[:2]])
                for s, row in zip(scales, rows, strict=True)
            ]
        )
        uniforms = torch.full((16,), 0.4)
        given: dict[str, Any] = {"uniforms": uniforms} if name == "graddrop" else {}
        expected = [mtl_ops.merge(shared, name, **given)]
        for t in range(3):
            own = rows[t][2 + 2 * t : 4 + 2 * t]
            expected += [scales[t] * torch.cat([g.flatten() for g in own])]
        joined = torch.cat(expected)
        if "max_norm" in options:
            joined = joined * min(1.0, 0.05 / joined.norm().item())
        optimizer = MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1), name, **options)
        optimizer.backward(losses(), **given)
        found = torch.cat([param.grad.flatten() for param in params])
        torch.testing.assert_close(found, joined)
        assert optimizer.report.weights is None

    @pytest.mark.parametrize("name", NAMES)
    def test_a_task_that_is_absent_or_broken_is_left_out(self, name: str) -> None:
        torch.manual_seed(0)
        given: dict[str, Any] = {"uniforms": torch.full((6,), 0.4)} if name == "graddrop" else {}
        gradients = []
        for case in range(3):
            param = torch.zeros(6, requires_grad=True)
            rows = matrix(4, 6).float()
            if case == 1:
                rows[3] = torch.nan
            losses: list[Tensor | None] = [(param * row).sum() for row in rows]
            if case == 0:
                losses = losses[:3]
            if case == 2:
                losses[3] = None
            optimizer = MultiTaskOptimizer(torch.optim.SGD([param], lr=0.1), name)
            optimizer.backward(losses, **given)
            gradients.append(param.grad)
        assert torch.equal(gradients[0], gradients[1])
        assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize(
    ("name", "params", "error", "message"),
    [
        ("graddrop", {"leak": -0.1}, ValueError, "`leak`"),
        ("graddrop", {"leak": "a"}, TypeError, "`leak`"),
        ("graddrop", {"leak": []}, ValueError, "`leak`"),
        ("trimmed_mean", {"trim": -1}, ValueError, "`trim`"),
        ("trimmed_mean", {"trim": 0.5}, TypeError, "`trim`"),
        ("sign_agreement", {"tau": 2.0}, ValueError, "`tau`"),
        ("sign_agreement", {"reduce": "max"}, ValueError, "`reduce`"),
    ],
)
def test_bad_parameters(
    name: str, params: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        methods.get(name, **params)


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="`leak` should be one number or 5"):
        mtl_ops.merge(matrix(), methods.get("graddrop", leak=[0.0, 0.1]))
    with pytest.raises(ValueError, match="`trim` should be less than half"):
        mtl_ops.merge(matrix(2), "trimmed_mean")
    with pytest.raises(TypeError, match="has no task weights"):
        methods.get("median").weights(torch.eye(2))
    with pytest.raises(TypeError, match="`return_weights` should be False"):
        mtl_ops.merge(matrix(), "median", return_weights=True)
