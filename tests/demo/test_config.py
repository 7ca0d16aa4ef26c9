"""Which trainings follow from the options."""

from __future__ import annotations

import json

from mtl_ops.demo.config import PLAIN, SINGLE, Config, Run

CONFIG = Config(methods=("sum",), seeds=(3, 4), tasks=("digit", "parity"), epochs=7)


def test_runs_of_one_seed_after_those_of_the_other() -> None:
    both = ("digit", "parity")
    assert CONFIG.runs(["sum", "mgda"]) == [
        run
        for seed in (3, 4)
        for run in (
            Run(SINGLE, seed, ("digit",)),
            Run(SINGLE, seed, ("parity",)),
            Run(PLAIN, seed, both),
            Run("sum", seed, both),
            Run("mgda", seed, both),
        )
    ]


def test_every_run_has_a_name_of_its_own() -> None:
    runs = CONFIG.runs(["sum", "mgda"])
    assert len({run.name for run in runs}) == len(runs)
    assert Run(SINGLE, 3, ("digit",)).name == "single-digit-seed3"
    assert Run("sum", 4, ("digit", "parity")).label == "sum"


def test_json_and_back() -> None:
    assert Config.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG
    assert Config.from_json({}) == Config()


def test_identity_leaves_out_how_much_is_trained() -> None:
    same = Config(methods=None, seeds=(9,), tasks=("digit", "parity"), epochs=7)
    assert same.identity() == CONFIG.identity()
    assert Config(epochs=7).identity() != CONFIG.identity()
