"""Parameters and gradients of every dtype, shape and layout."""

from __future__ import annotations

import pytest
import torch
from multitask import Fixed, Net, assert_same, batch, every_method, grads, method, train, wrap
from torch import Tensor, nn

from mtl_ops import ops

LIMITS = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("options", [{}, {"max_norm": 0.1, "max_task_norm": 0.2}], ids=str)
def test_dtypes(dtype: torch.dtype, device: torch.device, options: dict[str, float]) -> None:
    net, plain = Net(dtype, device), Net(torch.float64, device)
    optimizer = wrap(net, Fixed(), **options)
    optimizer.backward(net.losses(batch(like=net)))
    plain.load_state_dict(net.state_dict())
    wrap(plain, Fixed(), **options).backward(plain.losses(batch(like=net).double()))
    for param, like in zip(net.parameters(), plain.parameters(), strict=True):
        assert param.grad.dtype == dtype
        scale = like.grad.abs().max()
        assert (param.grad.double() - like.grad).abs().max() <= 3 * LIMITS[dtype] * scale
    assert optimizer.report.weights.dtype == optimizer.report.gram.dtype == torch.float64


def test_training_in_each_dtype(dtype: torch.dtype) -> None:
    net = Net(dtype)
    optimizer = wrap(net, "mean", lr=0.02)
    before = sum(loss.item() for loss in net.losses(batch(like=net)).values())
    for _ in range(10):
        train(net, optimizer, [0])
    after = sum(loss.item() for loss in net.losses(batch(like=net)).values())
    assert after < 0.9 * before


def test_mixed_dtypes_in_one_model(device: torch.device) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(4, 5, dtype=torch.float64, device=device)
            self.second = nn.Linear(5, 5, dtype=torch.bfloat16, device=device)
            self.third = nn.Linear(5, 3, dtype=torch.float32, device=device)

        def losses(self) -> Tensor:
            hidden = self.first(torch.ones(2, 4, dtype=torch.float64, device=device))
            hidden = self.second(hidden.bfloat16()).float()
            return list(self.third(hidden).square().mean(dim=0).unbind())

    net, bare = Mixed(), Mixed()
    optimizer = wrap(net, "sum", max_norm=1e9)
    optimizer.backward(net.losses())
    torch.autograd.backward(bare.losses())
    for param, like in zip(net.parameters(), bare.parameters(), strict=True):
        assert param.grad.dtype == param.dtype
        torch.testing.assert_close(param.grad, like.grad, rtol=2e-2, atol=1e-3)


def test_float64_parameter_with_a_float32_loss() -> None:
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    wrap([weight]).backward([weight.float().sum(), weight.float().square().sum()])
    assert weight.grad.dtype == torch.float64
    assert weight.grad.tolist() == [3.0, 5.0]


def test_scalar_and_empty_parameters(device: torch.device) -> None:
    scalar = torch.tensor(2.0, requires_grad=True, device=device)
    empty = torch.zeros(0, 3, requires_grad=True, device=device)
    vector = torch.ones(3, requires_grad=True, device=device)
    optimizer = wrap([scalar, empty, vector], "mean", max_norm=100.0)
    losses = [scalar * vector.sum() + empty.sum(), scalar**2 + vector.sum() + empty.square().sum()]
    optimizer.backward(losses)
    assert scalar.grad.shape == ()
    assert scalar.grad.item() == pytest.approx((3 + 4) / 2)
    assert empty.grad.shape == (0, 3)
    assert vector.grad.tolist() == [1.5] * 3
    optimizer.step()


def test_only_empty_parameters() -> None:
    empty = torch.zeros(0, requires_grad=True)
    optimizer = wrap([empty], "mean")
    optimizer.backward([empty.sum(), empty.square().sum()])
    optimizer.step()
    assert empty.grad.shape == (0,)


class TestLayouts:
    def check(self, params: list[Tensor], bare: list[Tensor], losses: object) -> None:
        """The gradients equal those of a plain backward, in the layout of the parameter."""
        assert callable(losses)
        wrap(params, "sum", max_norm=1e9).backward(losses(params))
        torch.autograd.backward(losses(bare))
        for param, like in zip(params, bare, strict=True):
            torch.testing.assert_close(param.grad, like.grad)
            assert param.grad.stride() == param.stride()

    def test_channels_last_convolution(self) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        other = nn.Conv2d(3, 4, 3)
        other.load_state_dict(conv.state_dict())
        other = other.to(memory_format=torch.channels_last)
        image = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
        assert not conv.weight.is_contiguous()

        def losses(params: list[Tensor]) -> list[Tensor]:
            out = nn.functional.conv2d(image, *params)
            return [out.square().mean(), out.abs().mean()]

        self.check(list(conv.parameters()), list(other.parameters()), losses)

    def test_transposed_parameter(self) -> None:
        base = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        made = [base.clone().t().requires_grad_() for _ in range(2)]
        data = torch.ones(2, 3)

        def losses(params: list[Tensor]) -> list[Tensor]:
            out = data @ params[0]
            return [out.square().mean(), out.sin().mean()]

        self.check(made[:1], made[1:], losses)

    def test_transposed_and_expanded_gradients(self) -> None:
        # The gradient of x.t() @ y is transposed, that of a sum is expanded from one number.
        made = [torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
        for tensor in made:
            tensor.requires_grad_()

        def losses(params: list[Tensor]) -> list[Tensor]:
            (x,) = params
            return [(x.t() @ torch.ones(3, 2)).square().sum(), x.sum(), x[:, 1].square().sum()]

        self.check(made[:1], made[1:], losses)

    def test_strided_parameter_with_gaps(self) -> None:
        base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        made = [base.clone()[:, ::2].requires_grad_() for _ in range(2)]
        assert not made[0].is_contiguous()
        wrap(made[:1]).backward([made[0].square().sum(), made[0].sum()])
        torch.autograd.backward([made[1].square().sum(), made[1].sum()])
        torch.testing.assert_close(made[0].grad, made[1].grad)

    def test_existing_gradient_in_another_layout(self) -> None:
        x = torch.randn(3, 4, requires_grad=True)
        x.grad = torch.ones(4, 3).t()
        wrap([x]).backward([x.square().sum(), x.sum()])
        torch.testing.assert_close(x.grad, 2 * x.detach() + 2)

    def test_sparse_embedding(self) -> None:
        torch.manual_seed(0)
        table = nn.Embedding(6, 3, sparse=True)
        bare = nn.Embedding(6, 3)
        bare.load_state_dict(table.state_dict())
        words = torch.tensor([1, 4, 4])
        for model in (table, bare):
            out = model(words)
            wrap(model, Fixed(0.5, 2.0), max_norm=1e9).backward(
                [out.square().sum(), (out - 1).square().sum()]
            )
        assert table.weight.grad.is_sparse
        torch.testing.assert_close(table.weight.grad.to_dense(), bare.weight.grad)

    def test_sparse_and_dense_gradient_of_one_parameter(self) -> None:
        table = nn.Embedding(6, 3, sparse=True)
        words = torch.tensor([1, 4])
        wrap(table).backward([table(words).sum(), table.weight.square().sum()])
        expected = 2 * table.weight.detach()
        expected[words] += 1
        torch.testing.assert_close(table.weight.grad, expected)


class TestDegenerateGradients:
    """Zero, equal and opposite gradients: whatever the method, its weights are finite."""

    @pytest.mark.parametrize("name", every_method())
    @pytest.mark.parametrize(
        "factors",
        [(0.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, -1.0, 0.5), (1e-30, 1.0, 1e30)],
        ids=["one zero", "all zero", "equal", "opposite", "far apart"],
    )
    def test_weights_are_finite(self, name: str, factors: tuple[float, ...]) -> None:
        weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
        bias = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
        optimizer = wrap([weight, bias], method(name), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            base = (weight.square().sum() + weight.sum() * bias).sum()
            optimizer.backward([factor * base + 50.0 for factor in factors])  # all positive
            optimizer.step()
            if optimizer.report.weights is not None:
                assert optimizer.report.weights.isfinite().all()
            assert weight.grad.isfinite().all()
            assert weight.isfinite().all()


class TestManyTasks:
    @pytest.mark.parametrize("tasks", [1, 2, 31, 64, 65, 80, 1025])
    def test_any_number(self, tasks: int, device: torch.device) -> None:
        made = [torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
        x, y = (tensor.double().to(device).requires_grad_() for tensor in made)
        factors = torch.linspace(0.5, 1.5, tasks, dtype=torch.float64, device=device)

        def losses(tensor: Tensor) -> list[Tensor]:
            return [(tensor * factor).sin().sum() for factor in factors]

        optimizer = wrap([x], "mean", max_norm=0.5, max_task_norm=2.0)
        optimizer.backward(losses(x))
        rows = [torch.autograd.grad(loss, y)[0] for loss in losses(y)]
        clipped = [row * min(1.0, 2.0 / row.norm().item()) for row in rows]
        mean = sum(clipped) / tasks
        torch.testing.assert_close(x.grad, mean * min(1.0, 0.5 / mean.norm().item()))
        assert optimizer.report.norms.shape == (tasks,)

    @pytest.mark.parametrize(
        "name", [n for n in every_method() if n not in ("constant", "cosmos", "pbi")]
    )
    def test_beyond_the_kernels_of_a_device(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(ops.MAX_TASKS, "cpu", 64)  # as on CUDA
        tasks = 65
        x = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x.requires_grad_()
        optimizer = wrap([x], method(name), lr=1e-4)
        optimizer.backward([(x * (1 + t / tasks)).square().sum() + 1 for t in range(tasks)])
        assert x.grad.isfinite().all()
        optimizer.step()


class TestThreads:
    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_same_threads_same_bits(self, threads: int) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert_same(self.merged(), self.merged(), rtol=0, atol=0)
        finally:
            torch.set_num_threads(before)

    def test_other_threads_same_gradient(self) -> None:
        before = torch.get_num_threads()
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(self.merged())
        torch.set_num_threads(before)
        assert_same(*results, rtol=1e-6, atol=1e-6)

    def merged(self) -> list[Tensor | None]:
        generator = torch.Generator().manual_seed(0)
        params = [
            torch.randn(size, generator=generator).requires_grad_() for size in (70_001, 3, 40_000)
        ]
        losses = [sum((p * k).sin().sum() for p in params) for k in (1.0, -2.0, 3.0, 0.5)]
        wrap(params, method("mean"), max_norm=1.0).backward(losses)
        return grads(params)
