"""Make the small world's second round by the rules of data/second_round.json.

    python data/make/second_round.py 12 13 14    worlds: results/second_round/<seed>.json each

Ten to fifteen minutes on one core for each world. What is finished is kept in build/second_round:
after an interruption, call again. Several processes may make different worlds at the same time.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpo_utils.course.recorded import load_plan
from ddpo_utils.settings import CourseError
from ddpo_utils.small_world.experiment import Seed
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.all_arms import train_arms
from ddpo_utils.training.reference import matched_step
from ddpo_utils.training.run_folder import run_facts
from recording import folders, parser, run
from worlds import smaller, world_of

COMMAND = "python data/make/second_round.py"
ARMS = ("dpo", "ddpo", "shuffled", "ddpo-sem", "shuffled-sem", "ddpo-sty", "shuffled-sty")
ARMS += ("orpo", "dorpo", "dorpo-shuffled")
CLIPPED = ("dpo", "ddpo", "shuffled")  # arms that are trained at each level of clipping
AT_KL_OF = {"dpo": "ddpo", "orpo": "dorpo"}


def path_rows(world: Seed, arm: str, adapter: Path) -> list[dict[str, Any]]:
    """One row a checkpoint of an arm, the last one apart, with its step and KL."""
    kl = read_json(adapter / "run.json")["kl"]
    rows = []
    for step in sorted(kl, key=int)[:-1]:
        checkpoint = adapter / "checkpoints" / f"checkpoint-{step}"
        row = world.row(0.0, arm, checkpoint, name=f"{arm}-{step}")
        rows.append(row | {"steps": int(step), "kl": kl[step]})
    return rows


def matched_row(path: Sequence[dict[str, Any]], control: Mapping[str, Any]) -> dict[str, Any]:
    """The path's row whose KL is nearest to the control's, as an arm of its own."""
    kl = {str(row["steps"]): row["kl"] for row in path}
    step = matched_step(kl, {"1": control["kl"]})
    row = next(row for row in path if row["steps"] == step)
    return row | {"arm": f"{row['arm']}-matched"}


def clipping_rows(world: Seed, level: float, unclipped: Sequence[str]) -> list[dict[str, Any]]:
    """One row an arm of CLIPPED at this level; with no level, but for arms that were not clipped.

    Without a limit these would be the same runs again.
    """
    folder = world.folder / f"clipped-{level}"
    # The adapter without its record: SFT had another limit, and is not to be trained again.
    sft = folder / "sft"
    sft.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(world.sft() / name, sft / name)
    rows = []
    for arm in CLIPPED:
        if level == 0 and arm in unclipped:
            continue
        method = "dpo" if arm == "dpo" else "ddpo"
        profile = world.profile(**world.chosen[method], max_grad_norm=level)
        train_arms(profile, world.stories(), folder, [arm], sft)
        name = f"{arm}-clipped-{level}"
        rows.append(world.row(0.0, name, folder / arm, name=name))
    return rows


def run_world(world: Seed, plan: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a world: of every arm's end, and of the checkpoints before it."""
    rows = [world.row(0.0, "sft", world.sft()), world.row(0.0, "start", None)]
    adapters = world.train(0.0, ARMS)
    ends = {arm: world.row(0.0, arm, adapter) for arm, adapter in adapters.items()}
    profile = world.profile(**world.chosen["ddpo"])
    train_arms(profile, world.stories(), world.folder / "rate", ["dpo"], world.sft())
    ends["dpo-rate"] = world.row(0.0, "dpo-rate", world.folder / "rate" / "dpo")
    paths = {arm: path_rows(world, arm, adapters[arm]) for arm in plan["paths"]}
    rows += ends.values()
    for arm, control in AT_KL_OF.items():
        rows.append(matched_row([*paths[arm], ends[arm]], ends[control]))
    if world.seed in plan["clipping_seeds"]:
        unclipped = [arm for arm in CLIPPED if not ends[arm]["clipped_share"]]
        for level in plan["clipping_levels"]:
            rows += clipping_rows(world, level, unclipped)
    return {"rows": rows, "paths": [row for path in paths.values() for row in path]}


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("seeds", nargs="+", type=int, metavar="SEED", help="worlds to make")
    args = flags.parse_args()
    work, data = folders(args, "second_round")
    first, plan = load_plan("claims"), load_plan("second_round")
    first = smaller(first) if args.smoke else first
    known = {*plan["seeds"], *plan["pilot_seeds"]}
    if not set(args.seeds) <= known:
        raise CourseError(f"Name worlds of the plan, data/second_round.json: {sorted(known)}.")
    for seed in args.seeds:
        path = data / "results" / "second_round" / f"{seed}.json"
        with locked(path):
            if not path.is_file():
                world = world_of(seed, first, work)
                rows = run_world(world, plan)
                facts = run_facts(world.profile(), command=f"{COMMAND} {seed}")
                write_json(path, facts | rows)
        print(f"world {seed}: {path.name}", flush=True)


if __name__ == "__main__":
    run(main)
