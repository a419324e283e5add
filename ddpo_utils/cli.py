"""The command line of `python -m ddpo_utils`: flags, settings and faults; --help lists the commands."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from .course.commands import fetch, run
from .settings import (
    METHODS,
    PROFILES,
    WRITING_PROMPTS,
    CourseError,
    Profile,
    get_profile,
    work_dir,
)

__all__ = ["main"]


class Parser(argparse.ArgumentParser):
    """A parser whose faults are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see `{self.prog} --help`\n")


def _parser() -> Parser:
    from .models.sample_command import add_arguments

    parser = Parser(prog="python -m ddpo_utils", description="The DDPO course's commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument(
        "--profile", default="", help="smoke, laptop, colab or 8b (DDPO_PROFILE, else laptop)"
    )
    settings = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = settings.add_argument_group(
        "settings", "each overrides the profile's (ddpo_utils/profiles.py)"
    )
    for field in fields(Profile):
        if field.name != "name":
            values = ", ".join(
                f"{name}: {getattr(PROFILES[name], field.name)}" for name in ("laptop", "8b")
            )
            flag, kind = f"--{field.name.replace('_', '-')}", field.type.split(" ")[0].upper()
            group.add_argument(flag, metavar=kind, help=f"{field.metadata['description']} ({values})")

    one = commands.add_parser(
        "run", parents=[profile], help="run the notebooks; results go to build/<profile>"
    )
    one.add_argument(
        "--notebooks", nargs="+", default=[], metavar="NN", help="some of them, such as 01 03"
    )
    one.add_argument(
        "--write-back", action="store_true", help="store the outputs in notebooks/ too"
    )
    one.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SETTING=VALUE",
        help="override settings of the profile",
    )
    one = commands.add_parser(
        "train", parents=[profile, settings], help="train adapters, alone or by accelerate"
    )
    one.add_argument("--method", nargs="+", choices=METHODS, help="default: ddpo")
    one.add_argument(
        "--config", type=Path, help="a run's config.yaml: its profile, settings and method"
    )
    one.add_argument(
        "--output", type=Path, help="folder of the adapters (build/<profile>/adapters)"
    )
    one.add_argument(
        "--sft", type=Path, help="folder of an SFT adapter to start from (<output>/sft)"
    )
    one = commands.add_parser(
        "evaluate", parents=[profile, settings], help="sample adapters and make the table"
    )
    one.add_argument(
        "--adapters", type=Path, help="folder of the adapters (build/<profile>/adapters)"
    )
    one.add_argument(
        "--output", type=Path, help="folder of samples and table (build/<profile>/evaluation)"
    )
    one.add_argument("--reward-model", type=Path, help="folder of a reward model made by `reward`")
    one = commands.add_parser(
        "reward", parents=[profile, settings], help="train the reward model and measure it"
    )
    objectives = ["regression", "bradley-terry"]
    one.add_argument(
        "--objective", nargs="+", choices=objectives, default=objectives, help="default: both"
    )
    one.add_argument(
        "--output", type=Path, help="folder of the reward model (build/<profile>/reward)"
    )
    one = commands.add_parser(
        "plan", parents=[profile, settings], help="memory, tokens and hours of a run, offline"
    )
    one.add_argument(
        "--gpu-memory",
        type=float,
        default=80,
        metavar="GB",
        help="24, 40, 80, 141 ... (default: 80)",
    )
    one.add_argument("--gpus", type=int, default=1)
    one = commands.add_parser(
        "doctor", help="what this machine can run, what is missing, and what mends it"
    )
    one.add_argument(
        "--workshop", action="store_true", help="rehearse what a room will do; ends with: ready"
    )
    one = commands.add_parser(
        "wheelhouse", help="all wheels of the course in a folder, for machines without a network"
    )
    one.add_argument("folder", type=Path)
    commands.add_parser("fetch", parents=[profile], help="fetch the profile's model and encoders")
    add_arguments(
        commands.add_parser("sample", help="sample a model behind an OpenAI-compatible endpoint")
    )
    _add_human_eval(commands)
    commands.add_parser("colab", help="write this clone's address into the notebooks' Colab cells")
    return parser


def _add_human_eval(commands: Any) -> None:
    """The flags of compare, judge and ratings."""
    from .models.sample_command import add_endpoint, number

    one = commands.add_parser(
        "compare", help="blind comparisons of two sample files, for human raters"
    )
    one.add_argument(
        "samples",
        nargs=2,
        metavar="FILE[:SOURCE]",
        help="samples (JSONL); SOURCE picks one of several in a file",
    )
    one.add_argument(
        "--names",
        nargs=2,
        required=True,
        metavar="NAME",
        help="of the two systems; only the key holds them",
    )
    one.add_argument("--output", type=Path, help="folder of what is made (build/compare)")
    one.add_argument(
        "--per-side", type=int, default=4, metavar="N", help="stories of a set (default: 4)"
    )
    one.add_argument(
        "--prompts", type=int, default=10, metavar="N", help="comparisons (default: 10)"
    )
    one.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")
    one = commands.add_parser(
        "judge", help="have a model behind an endpoint rate blind comparisons"
    )
    add_endpoint(one)
    one.add_argument(
        "--comparisons", type=Path, required=True, metavar="FILE", help="the file that raters get"
    )
    one.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="ratings (ratings/<model>.json beside for_raters)",
    )
    one.add_argument("--temperature", type=number, default=0.0, help="none sends none (default: 0)")
    one.add_argument(
        "--max-tokens",
        type=int,
        default=64,
        help="of an answer and a model's reasoning before it (default: 64)",
    )
    one = commands.add_parser(
        "ratings", help="what the raters' files say: win rates, agreement, position"
    )
    one.add_argument("folder", nargs="?", type=Path, help="what `compare` wrote (build/compare)")


def _judge(args: argparse.Namespace) -> None:
    from .human_eval.judge import judge_file
    from .models.calls import Endpoint
    from .models.sample_command import confirm

    endpoint = Endpoint(
        args.model,
        args.base_url,
        args.temperature,
        key_variable=args.key_variable,
        concurrency=args.concurrency,
        timeout=args.timeout,
        prices=args.prices,
        confirm=None if args.yes else confirm,
    )
    judge_file(args.comparisons, args.output, endpoint, args.max_tokens)


def _profile(args: argparse.Namespace) -> Profile:
    """The profile with the settings given as flags; those of --config stand between the two."""
    given = {
        f.name: getattr(args, f.name)
        for f in fields(Profile)
        if f.name != "name" and hasattr(args, f.name)
    }
    if getattr(args, "config", None) is None:
        return get_profile(args.profile, **given)
    from dataclasses import asdict

    from .training.runs import read_config

    profile, arm = read_config(args.config)
    args.method = args.method or [arm.command]
    settings = {k: v for k, v in asdict(profile).items() if k != "name"}
    profile = get_profile(profile.name, **settings | given)
    if profile.data not in ("bundled", WRITING_PROMPTS) and not Path(profile.data).exists():
        raise CourseError(
            f"{args.config} names the data {profile.data!r}, and there are none as seen from {Path.cwd()}: call from "
            "the folder where that run was begun, or say with --data where they lie."
        )
    return profile


def _absolute(value: str) -> str:
    """A path as it is seen from another folder: notebooks run in their own."""
    return str(Path(value).resolve()) if value and Path(value).exists() else value


def _carry_out(args: argparse.Namespace) -> bool:
    if args.command == "run":
        for pair in args.set:
            if "=" not in pair:
                raise CourseError(
                    f"--set {pair} gives no value: write SETTING=VALUE, such as seed=7."
                )
        pairs = [pair.partition("=") for pair in args.set]
        overrides = {name.replace("-", "_"): _absolute(value) for name, _, value in pairs}
        profile = get_profile(args.profile, **overrides)
        return run(
            profile,
            args.notebooks,
            args.write_back,
            **{name: getattr(profile, name) for name in overrides},
        )
    if args.command == "train":
        from .training.train import train

        profile = _profile(args)
        train(profile, args.method or ["ddpo"], args.output, args.sft)
    elif args.command == "evaluate":
        from .evaluation.evaluate import evaluate_adapters

        evaluate_adapters(_profile(args), args.adapters, args.output, args.reward_model)
    elif args.command == "reward":
        from .evaluation.reward_record import record_reward

        record_reward(_profile(args), args.objective, args.output)
    elif args.command == "plan":
        from .training.plan import show_plan

        show_plan(_profile(args), args.gpu_memory, args.gpus)
    elif args.command == "doctor":
        from .course.doctor import doctor
        from .course.workshop import preflight

        return preflight() if args.workshop else doctor()
    elif args.command == "wheelhouse":
        from .course.notebooks import course_root
        from .course.workshop import wheelhouse

        wheelhouse(args.folder, course_root())
    elif args.command == "fetch":
        profile = get_profile(args.profile)
        fetch(profile)
        print(f"Model and encoders of the profile {profile.name} are ready.")
    elif args.command == "sample":
        from .models.sample_command import sample

        sample(args)
    elif args.command == "compare":
        from .human_eval.comparisons import compare

        folder = args.output or work_dir("compare")
        compare(args.samples, args.names, folder, args.per_side, args.prompts, args.seed)
    elif args.command == "judge":
        _judge(args)
    elif args.command == "ratings":
        from .human_eval.win_rates import show_ratings

        show_ratings(args.folder or work_dir("compare"))
    elif args.command == "colab":
        from .course.colab import write_address
        from .course.notebooks import course_root

        print(f"The notebooks' Colab cells now name {write_address(course_root())}.")
    return True


def _of_file(fault: OSError) -> str:
    """What to do about a file that cannot be used."""
    if fault.filename is None:
        return f"cannot use a file ({fault.strerror or fault}): free space or mend its rights."
    advice = {
        IsADirectoryError: "is a folder: name a file.",
        FileExistsError: "is a file where a folder is needed: name another.",
        NotADirectoryError: "needs a folder where a file is: name another.",
        FileNotFoundError: "is not there: check the name.",
    }
    if type(fault) in advice:
        return f"{fault.filename} {advice[type(fault)]}"
    return (
        f"cannot use the file {fault.filename} ({fault.strerror}): free space or mend its rights."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit status is 0, or 1 after a fault, which is one sentence on stderr."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    parser = _parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.prog += f" {args.command}"  # whose help has the flags that there are
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    try:
        return 0 if _carry_out(args) else 1
    except CourseError as fault:
        print(f"error: {fault}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: stopped from the keyboard; what was finished is kept.", file=sys.stderr)
    except ImportError as fault:
        print(
            f"error: {fault}: install what is missing with `pip install -e '.[test]'`.",
            file=sys.stderr,
        )
    except OSError as fault:
        print(f"error: {_of_file(fault)}", file=sys.stderr)
    except RuntimeError as fault:
        if "out of memory" not in str(fault):
            raise
        print(
            "error: the memory is full; checkpoints are kept. Lower --micro-batch or --max-length, or take --quantize "
            "true (QLoRA); `python -m ddpo_utils plan` shows what fits.",
            file=sys.stderr,
        )
    return 1
