"""Make the recorded trial of rewards: ridge, a lookup of the writer, and the language model's.

    python data/make/reward_trial.py      results/reward.json

Every finished fold is kept in build/recorded/reward: after an interruption, call again. The stored
record also holds a calibration, made by earlier code from the same scores; it is kept as long as
the accuracies are the same.
"""

from __future__ import annotations

from ddpo_utils.corpus.stories import decisions
from ddpo_utils.evaluation.reward_trial import record_reward
from ddpo_utils.settings import data_dir, get_profile
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.storage.locks import locked
from recording import SMOKE_SETTINGS, folders, parser, run

COMMAND = "python data/make/reward_trial.py"


def main() -> None:
    args = parser(__doc__).parse_args()
    work, data = folders(args, "recorded")
    fixed = decisions()
    settings = fixed["settings"] | (SMOKE_SETTINGS if args.smoke else {})
    with locked(data / "results" / "reward.json"):
        record_reward(get_profile("laptop", **settings), fixed["reward_bound"], work / "reward")
        record = read_json(work / "reward" / "reward.json") | {"command": COMMAND}
        stored = read_json(data_dir() / "results" / "reward.json")
        if record["accuracy"] == stored["accuracy"]:
            record["calibration"] = stored["calibration"]
        write_json(data / "results" / "reward.json", record)


if __name__ == "__main__":
    run(main)
