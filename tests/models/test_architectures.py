"""Architectures: shapes, who reaches what, limit cases, and that they train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer
from mtl_ops.gradients.graph import leaf_tensors
from mtl_ops.models import (
    CGC,
    MTAN,
    PLE,
    CrossStitch,
    DSelectK,
    LearningToBranch,
    MMoE,
    MultiTaskModel,
    SharedBackbone,
    SharedBottom,
    cnn,
)
from mtl_ops.models.dselect_k import smooth_step

mse = nn.functional.mse_loss
CRITERIA = {"a": mse, "b": mse}


def heads(width: int = 6) -> dict[str, nn.Module]:
    return {"a": nn.Linear(width, 1), "b": nn.Linear(width, 2)}


def expert() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh())


def stages() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Linear(5, 6), nn.Tanh()), nn.Linear(6, 6))


def image_heads() -> dict[str, nn.Module]:
    return {
        task: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs))
        for task, outputs in (("a", 1), ("b", 2))
    }


#: Each with two tasks on 5 numbers, or on a picture for MTAN.
MAKERS: dict[str, Callable[[], MultiTaskModel]] = {
    "shared_bottom": lambda: SharedBottom(stages(), heads(), CRITERIA),
    "bottom": lambda: SharedBackbone(stages(), heads(), CRITERIA, share="bottom"),
    "middle": lambda: SharedBackbone(stages(), heads(), CRITERIA, share="middle"),
    "layered": lambda: SharedBackbone(
        stages(), heads(), CRITERIA, share=[[["a", "b"]], [["b"], ["a"]]]
    ),
    "cross_stitch": lambda: CrossStitch(stages(), heads(), CRITERIA),
    "mtan": lambda: MTAN(cnn(1, (4, 6)), (4, 6), image_heads(), CRITERIA),
    "mmoe": lambda: MMoE(expert, 3, 5, heads(), CRITERIA),
    "cgc": lambda: CGC(expert, 5, heads(), CRITERIA, own=2, shared=2),
    "ple": lambda: PLE([expert, lambda: nn.Linear(6, 6)], [5, 6], heads(), CRITERIA),
    "dselect_k": lambda: DSelectK(expert, 4, 5, heads(), CRITERIA),
    "learning_to_branch": lambda: LearningToBranch(stages(), heads(), CRITERIA),
}


def batch(name: str, count: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shape = (count, 1, 8, 8) if name == "mtan" else (count, 5)
    x = torch.randn(shape, generator=generator)
    flat = x.flatten(1)
    return {"input": x, "a": flat[:, :1], "b": flat[:, 1:3].abs()}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest) -> tuple[MultiTaskModel, dict[str, Any]]:
    torch.manual_seed(0)
    return MAKERS[request.param](), batch(request.param)


def test_shapes(made: tuple[MultiTaskModel, dict[str, Any]]) -> None:
    model, data = made
    outputs = model(data["input"])
    assert {task: tuple(out.shape) for task, out in outputs.items()} == {"a": (16, 1), "b": (16, 2)}
    assert list(model.losses(data)) == ["a", "b"]
    only = model.eval()(data["input"], ["b"])
    torch.testing.assert_close(only["b"], model(data["input"])["b"])
    assert list(only) == ["b"]


def test_an_absent_task_and_inputs_of_their_own(
    made: tuple[MultiTaskModel, dict[str, Any]],
) -> None:
    model, data = made
    model.eval()
    assert model.losses({**data, "b": None})["b"] is None
    own = {"a": data["input"], "b": data["input"][:3]}
    losses = model.losses({"input": own, "a": data["a"], "b": data["b"][:3]})
    expected = model.losses({**data, "b": None})["a"]
    torch.testing.assert_close(losses["a"], expected)
    part = {"input": data["input"][:3], "b": data["b"][:3]}
    torch.testing.assert_close(losses["b"], model.losses(part)["b"])


def test_trains_and_saves(made: tuple[MultiTaskModel, dict[str, Any]]) -> None:
    model, data = made
    optimizer = MultiTaskOptimizer(torch.optim.Adam(model.parameters(), lr=0.02), "upgrad")
    first = None
    for _ in range(60):
        optimizer.zero_grad()
        losses = model.losses(data)
        optimizer.backward(losses)
        optimizer.step()
        first = first or {task: float(loss.detach()) for task, loss in losses.items()}
    assert optimizer.report.weights is not None
    model.eval()
    assert all(
        float(loss.detach()) < 0.7 * first[task] for task, loss in model.losses(data).items()
    )
    twin = copy.deepcopy(model)
    for param in twin.parameters():
        param.data.zero_()
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(data["input"]), model(data["input"]))


#: What both losses reach, and what only the first: beginnings of names.
SHARED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "shared_bottom": (("backbone",), ("heads.a",)),
    "bottom": (("levels.0",), ("levels.1.a", "heads.a")),
    "middle": (("levels.1",), ("levels.0.a", "heads.a")),
    "layered": (("levels.0",), ("levels.1.a", "heads.a")),
    "cross_stitch": (("towers.a", "towers.b", "stitches"), ("heads.a",)),
    "mtan": (("encoder",), ("attention.a", "heads.a")),
    "mmoe": (("experts",), ("gates.a", "heads.a")),
    "cgc": (("levels.0.shared",), ("levels.0.own", "levels.0.gates", "heads.a")),
    "ple": (
        ("levels.0.shared", "levels.0.own", "levels.0.shared_gate", "levels.1.shared"),
        ("levels.0.gates", "levels.1.own", "levels.1.gates", "heads.a"),
    ),
    "dselect_k": (("experts",), ("gates.a", "heads.a")),
    "learning_to_branch": (("levels", "choices"), ("heads.a",)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_losses_reach_what_the_architecture_shares(name: str) -> None:
    torch.manual_seed(0)
    model = MAKERS[name]()
    shared, own = SHARED[name]
    full = {id(param): key for key, param in model.named_parameters()}
    by_task = {
        task: {full[leaf] for leaf in leaf_tensors([loss]) if leaf in full}
        for task, loss in model.losses(batch(name)).items()
    }
    both, first = by_task["a"] & by_task["b"], by_task["a"] - by_task["b"]
    assert both
    assert all(key.startswith(shared) for key in both), both
    assert all(any(key.startswith(start) for key in both) for start in shared)
    assert all(key.startswith(own) for key in first), first
    assert all(any(key.startswith(start) for key in first) for start in own)
    assert by_task["a"] | by_task["b"] == set(full.values())


# ---- limit cases --------------------------------------------------------------------------------


def test_cross_stitch_with_identities_is_separate_networks() -> None:
    model, data = CrossStitch(stages(), heads(), CRITERIA, own=1.0), batch("cross_stitch")
    for task, output in model(data["input"]).items():
        alone = model.heads[task](model.towers[task](data["input"]))
        torch.testing.assert_close(output, alone)
    loss = model.losses(data)["a"]
    gradients = torch.autograd.grad(loss, list(model.towers["b"].parameters()))
    assert all(not gradient.any() for gradient in gradients)


def test_cross_stitch_mixes_by_its_matrix() -> None:
    model, x = CrossStitch(stages()[:1], heads(), CRITERIA), batch("")["input"]
    with torch.no_grad():
        model.stitches[0].copy_(torch.tensor([[0.3, 0.7], [2.0, -1.0]]))
        next(iter(model.towers["b"].parameters())).mul_(3.0)
    a, b = (model.towers[task](x) for task in ("a", "b"))
    torch.testing.assert_close(model(x)["a"], model.heads["a"](0.3 * a + 0.7 * b))
    torch.testing.assert_close(model(x)["b"], model.heads["b"](2.0 * a - b))


def test_attention_of_one_is_hard_sharing() -> None:
    model, x = MAKERS["mtan"]().eval(), batch("mtan")["input"]
    with torch.no_grad():
        for attention in model.attention.modules():
            if isinstance(attention, nn.Sequential):
                attention[2].weight.zero_()
                attention[2].bias.fill_(100.0)  # σ of it is 1
    shared = model.encoder(x)
    for task, output in model(x).items():
        torch.testing.assert_close(output, model.heads[task](shared))


def test_one_expert_is_hard_sharing() -> None:
    model, x = MMoE(expert, 1, 5, heads(), CRITERIA), batch("")["input"]
    for task, output in model(x).items():
        torch.testing.assert_close(output, model.heads[task](model.experts[0](x)))


def test_a_mixture_is_its_formula() -> None:
    model, x = MMoE(expert, 3, 5, heads(), CRITERIA), batch("")["input"]
    gates = torch.softmax(model.gates["a"].linear(x), dim=1)
    features = sum(gates[:, k : k + 1] * one(x) for k, one in enumerate(model.experts))
    torch.testing.assert_close(model(x)["a"], model.heads["a"](features))


def test_without_shared_experts_tasks_are_separate() -> None:
    model = CGC(expert, 5, heads(), CRITERIA, own=2, shared=0)
    losses = model.losses(batch("cgc"))
    assert not set(leaf_tensors([losses["a"]])) & set(leaf_tensors([losses["b"]]))


@pytest.mark.parametrize(("shared", "runs"), [(1, [1, 0]), (0, [0, 0])])
def test_experts_of_an_absent_task_run_only_where_shared_features_mix_them(
    shared: int, runs: list[int]
) -> None:
    model = PLE([expert, lambda: nn.Linear(6, 6)], [5, 6], heads(), CRITERIA, shared=shared)
    calls = [0, 0]
    for place, level in enumerate(model.levels):

        def count(*_: object, place: int = place) -> None:
            calls[place] += 1

        level.own["b"][0].register_forward_hook(count)
    model.losses({**batch("ple"), "b": None})
    assert calls == runs


def test_one_level_of_extraction_is_customized_gate_control() -> None:
    torch.manual_seed(3)
    one = CGC(expert, 5, heads(), CRITERIA)
    torch.manual_seed(3)
    other = PLE([expert], [5], heads(), CRITERIA)
    x = batch("cgc")["input"]
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)


@pytest.mark.parametrize("experts", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("choices", [1, 2])
def test_settled_gates_choose_k_experts_at_most(experts: int, choices: int) -> None:
    torch.manual_seed(0)
    model = DSelectK(expert, experts, 5, heads(), CRITERIA, choices=choices)
    x = batch("")["input"]
    gate = model.gates["a"]
    gates, _ = gate(x)
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(16))
    assert ((gates > 0).sum(dim=1) == experts).all()  # at first all of them
    with torch.no_grad():
        gate.bits.weight.zero_()
        # Bits of expert 1 for the first choice, and of the last expert for the second.
        bits = (experts - 1).bit_length()
        wanted = [1, experts - 1][:choices]
        signs = [1.0 if number >> j & 1 else -1.0 for number in wanted for j in range(bits)]
        gate.bits.bias.copy_(torch.tensor(signs))
    gates, penalty = gate(x)
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(16))
    assert {k for k in range(experts) if gates[0, k] > 0} == set(wanted)
    # Nothing is left to settle: the penalty is what every choice of an expert that exists has.
    assert float(penalty.detach()) == pytest.approx(
        choices if experts & (experts - 1) else 0.0, abs=1e-5
    )


def test_the_penalty_is_in_the_loss() -> None:
    torch.manual_seed(0)
    model, data = DSelectK(expert, 4, 5, heads(), CRITERIA, penalty=0.0), batch("")
    plain = model.losses(data)["a"]
    model.penalty = 2.0
    _, penalty = model.gates["a"](data["input"])
    torch.testing.assert_close(model.losses(data)["a"], plain + 2.0 * penalty)


def test_smooth_step_is_smooth() -> None:
    x = torch.linspace(-1, 1, 201, dtype=torch.float64, requires_grad=True)
    y = smooth_step(x, 0.8)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope >= 0).all()
    assert slope[x.abs() >= 0.4].abs().max() < 1e-12
    torch.testing.assert_close(y + y.flip(0), torch.ones_like(y))


def test_a_low_temperature_is_a_tree() -> None:
    torch.manual_seed(0)
    model, x = LearningToBranch(stages(), heads(), CRITERIA, branches=3), batch("")["input"]
    with torch.no_grad():
        for choice in model.choices:
            choice.copy_(torch.randn(choice.shape) * 3)
    tree = model.tree()
    assert [len(level) for level in tree] == [3, 2]
    root = model.levels[0][0](x)
    nodes = [node(root) for node in model.levels[1]]
    by_hand = {task: model.heads[task](nodes[tree[1][k]]) for k, task in enumerate(model.tasks)}
    torch.testing.assert_close(model.eval()(x), by_hand)
    model.train()
    model.temperature = 1e-4
    with torch.no_grad():
        for choice in model.choices:
            choice.mul_(100.0)  # so that no noise changes the likeliest
    torch.testing.assert_close(model(x), by_hand, rtol=1e-4, atol=1e-5)


def test_branches_are_drawn_in_training() -> None:
    torch.manual_seed(0)
    model, x = MAKERS["learning_to_branch"](), batch("")["input"]
    with torch.no_grad():
        model.levels[1][0].weight.mul_(5.0)
    assert not torch.equal(model(x)["a"], model(x)["a"])


# ---- bad arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiTaskModel.__init__(SharedBottom.__new__(SharedBottom), {}, {}), "`heads`"),
        (lambda: SharedBackbone(stages(), heads(), CRITERIA, share="top"), "`share` should be"),
        (lambda: SharedBackbone(nn.Linear(5, 6), heads(), CRITERIA, share="bottom"), "two levels"),
        (lambda: SharedBackbone(stages(), heads(), CRITERIA, share="output"), "the same module"),
        (lambda: SharedBackbone(stages(), heads(), CRITERIA, share=[[["a"]]]), "of 2 levels"),
        (
            lambda: SharedBackbone(stages(), heads(), CRITERIA, share=[[["a"]], [["a", "b"]]]),
            "once at each level",
        ),
        (lambda: CrossStitch(nn.Sequential(), heads(), CRITERIA), "at least one stage"),
        (lambda: CrossStitch(stages(), heads(), CRITERIA, own=1.5), "`own = 1.5`"),
        (lambda: MTAN(cnn(1, (4, 6)), (4,), image_heads(), CRITERIA), "each of 2 stages"),
        (lambda: MMoE(expert, 0, 5, heads(), CRITERIA), "`experts = 0`"),
        (lambda: PLE([], [], heads(), CRITERIA), "one entry for each level"),
        (lambda: CGC(expert, 5, heads(), CRITERIA, own=0), "`own = 0`"),
        (lambda: CGC(expert, 5, heads(), CRITERIA, shared=-1), "`shared = -1`"),
        (lambda: DSelectK(expert, 2, 5, heads(), CRITERIA, choices=3), "`choices = 3`"),
        (lambda: DSelectK(expert, 2, 5, heads(), CRITERIA, width=0.0), "`width = 0.0`"),
        (lambda: DSelectK(expert, 2, 5, heads(), CRITERIA, penalty=-1.0), "`penalty = -1.0`"),
        (lambda: LearningToBranch(nn.Sequential(), heads(), CRITERIA), "at least one stage"),
        (
            lambda: LearningToBranch(stages(), heads(), CRITERIA, temperature=0.0),
            "`temperature = 0.0`",
        ),
        (lambda: SharedBottom(stages(), {"input": nn.Linear(6, 1)}, {"input": mse}), "'input'"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_sharing_the_output_layers() -> None:
    head = nn.Linear(6, 2)
    model = SharedBackbone(stages(), {"a": head, "b": head}, CRITERIA, share="output")
    x = batch("")["input"]
    losses = model.losses({"input": x, "a": x[:, :2], "b": x[:, :2]})
    both = set(leaf_tensors([losses["a"]])) & set(leaf_tensors([losses["b"]]))
    assert both == {id(param) for param in head.parameters()}


def test_a_level_by_task_is_left_out_of_the_groups() -> None:
    own = {"a": nn.Linear(5, 6), "b": nn.Linear(5, 6)}
    model = SharedBackbone([own, nn.Linear(6, 6)], heads(), CRITERIA, share=[[["b"], ["a"]]])
    assert model.groups == ((("a",), ("b",)), (("b",), ("a",)))
    with pytest.raises(ValueError, match=r"the groups of 1 levels. Found 2"):
        SharedBackbone([own, nn.Linear(6, 6)], heads(), CRITERIA, share=[[["a", "b"]]] * 2)


def test_a_level_runs_once_for_the_tasks_that_share_it() -> None:
    model = SharedBackbone(stages(), heads(), CRITERIA, share="bottom")
    calls: list[Tensor] = []
    model.levels[0]["a+b"].register_forward_hook(lambda *args: calls.append(args[-1]))
    model.losses(batch(""))
    assert len(calls) == 1


def test_a_task_named_as_a_group_of_others_is_refused() -> None:
    three = {task: nn.Linear(6, 1) for task in ("a", "b", "a+b")}
    with pytest.raises(ValueError, match=r"without a plus sign. Found 'a\+b'"):
        SharedBackbone(stages(), three, dict.fromkeys(three, mse))
