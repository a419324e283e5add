"""Make the small world's records by the rules of data/claims.json.

    python data/make/worlds.py 1 2 3      test worlds with all arms: results/world/<seed>.json each
    python data/make/worlds.py --tuning   candidates on the tuning worlds: results/world_tuning.json

An hour or two on 2 cores for each world. What is finished is kept in build/world: after an
interruption, call again. Several processes may make different worlds at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpo_utils.course.recorded import load_plan
from ddpo_utils.pairs import make_pairs
from ddpo_utils.settings import CourseError
from ddpo_utils.small_world.experiment import Seed
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.all_arms import train_arms
from ddpo_utils.training.arms import Arm, response_weights
from ddpo_utils.training.one_arm import train_pairs
from ddpo_utils.training.reference import matched_step
from ddpo_utils.training.run_folder import run_facts
from recording import folders, parser, run

COMMAND = "python data/make/worlds.py"
ARMS = ("dpo", "ddpo", "ddpo-sem", "ddpo-sty", "shuffled", "divpo", "orpo", "dorpo")  # at rho 0


def world_of(seed: int, plan: Mapping[str, Any], work: Path) -> Seed:
    return Seed(seed, work / f"seed-{seed}", plan["sizes"], plan["settings"], plan["chosen"])


def record_tuning(plan: Mapping[str, Any], work: Path, data: Path) -> None:
    """Train every method with every candidate on the tuning worlds at rho 0; store the figures."""
    rows = []
    for seed in plan["tuning_seeds"]:
        world = world_of(seed, plan, work)
        for method, candidates in plan["candidates"].items():
            arm = method.removesuffix("-steps")
            temperatures = [1.0, *plan["temperatures"]] if method == "dpo" else [1.0]
            for candidate in candidates:
                tag = "-".join(f"{key}={value}" for key, value in candidate.items())
                folder = world.folder / "tuning" / tag
                sft = world.sft()
                train_arms(world.profile(**candidate), world.stories(), folder, [arm], sft)
                for temperature in temperatures:
                    name = f"tuning-{method}-{tag}"
                    if temperature != 1:
                        name += f"-hot{temperature}"
                    row = world.row(0.0, method, folder / arm, temperature, name)
                    start = {"seed": seed, "candidate": candidate, "temperature": temperature}
                    rows.append(start | row)
                    print(json.dumps(rows[-1]), flush=True)
        start = {"seed": seed, "candidate": {}, "temperature": 1.0}
        rows.append(start | world.row(0.0, "sft", world.sft(), name="sft"))
    facts = run_facts(world.profile(), command=f"{COMMAND} --tuning")
    write_json(data / "results" / "world_tuning.json", {**facts, "rows": rows})


def train_few(world: Seed, name: str, each: int, floor: float = 0.0, top: bool = False) -> Path:
    """DDPO at rho 0 with `each` responses a prompt and the usual number of pairs, of more prompts.

    Args:
        top: keep of every prompt only the half of its pairs with the best winners, of twice as many
            prompts.
    """
    folder = world.folder / "few" / name
    prompts = (2 if top else 1) * world.sizes["stories"] // each
    stories = world.stories(each=each, prompts=prompts)
    pairs = make_pairs(stories, seed=world.seed)
    profile = world.profile(**world.chosen["ddpo"], floor=floor)
    weight = response_weights(stories, pairs, profile).loc[pairs["chosen_row"]].to_numpy()
    if top:
        worse_last = pairs.assign(order=-stories["score"].loc[pairs["chosen_row"]].to_numpy())
        rank = worse_last.groupby("prompt_id")["order"].rank(method="first").to_numpy()
        best = rank <= each / 4
        pairs, weight = pairs[best].reset_index(drop=True), weight[best]
    train_pairs(profile, pairs, weight, folder, world.sft(), Arm("ddpo"))
    return folder


def run_world(world: Seed, rho: float, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an arm at this rho: all arms at 0, the plan's `sweep_arms` elsewhere."""
    arms = ARMS if rho == 0 else plan["sweep_arms"]
    adapters = world.train(rho, arms)
    if rho == 0:  # DivPO has fewer pairs: once more with as many steps as the others take
        profile = world.profile(**plan["chosen"]["divpo-steps"])
        folder = adapters["divpo"].parent / "steps"
        train_arms(profile, world.stories(), folder, ["divpo"], world.sft())
        adapters["divpo-steps"] = folder / "divpo"
        for name, settings in plan["few"].items():
            adapters[name] = train_few(world, name, **settings)
    kl = {arm: read_json(adapters[arm] / "run.json")["kl"] for arm in ("dpo", "ddpo")}
    step = matched_step(kl["dpo"], kl["ddpo"])
    matched = adapters["dpo"] / "checkpoints" / f"checkpoint-{step}"
    rows = [world.row(rho, "sft", world.sft(), name="sft")]
    rows += [world.row(rho, arm, adapter) for arm, adapter in adapters.items()]
    at_matched_kl = {"steps": step, "kl": kl["dpo"][str(step)]}
    rows.append(world.row(rho, "dpo-matched", matched) | at_matched_kl)
    rows.append(world.row(rho, "dpo-hot", adapters["dpo"], plan["temperature"]))
    return rows


def record_worlds(seeds: Sequence[int], plan: Mapping[str, Any], work: Path, data: Path) -> None:
    """Run these test worlds and store results/world/<seed>.json each; recorded ones are kept.

    Raises:
        CourseError: no seed, a seed below 0, or a tuning world.
    """
    if not seeds or min(seeds) < 0 or set(seeds) & set(plan["tuning_seeds"]):
        raise CourseError(
            f"Name test worlds, 0 or above, such as {plan['seeds']}; "
            f"{plan['tuning_seeds']} served for tuning."
        )
    for seed in seeds:
        path = data / "results" / "world" / f"{seed}.json"
        with locked(path):
            if not path.is_file():
                world = world_of(seed, plan, work)
                rows = [row for rho in plan["rhos"] for row in run_world(world, rho, plan)]
                facts = run_facts(world.profile(), command=f"{COMMAND} {seed}")
                write_json(path, {**facts, "rows": rows})
        print(f"world {seed}: {path.name}", flush=True)


def smaller(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan at trial size: a small world, one tuning world, one candidate a method."""
    sizes = {"test_prompts": 4, "samples": 6, "stories": 96, "model_steps": 150}
    candidates = {method: tried[:1] for method, tried in plan["candidates"].items()}
    return plan | {
        "sizes": sizes,
        "candidates": candidates,
        "tuning_seeds": plan["tuning_seeds"][:1],
        "temperatures": plan["temperatures"][:1],
    }


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("seeds", nargs="*", type=int, metavar="SEED", help="test worlds to make")
    flags.add_argument("--tuning", action="store_true", help="the trials that chose the settings")
    args = flags.parse_args()
    work, data = folders(args, "world")
    plan = load_plan("claims")
    plan = smaller(plan) if args.smoke else plan
    if args.tuning:
        with locked(data / "results" / "world_tuning.json"):
            record_tuning(plan, work, data)
    else:
        record_worlds(args.seeds, plan, work, data)


if __name__ == "__main__":
    run(main)
