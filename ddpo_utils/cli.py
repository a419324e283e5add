"""The command line of `python -m ddpo_utils`: each command has its flags, one call, and its output.

A command is a function below; its first line is what `--help` says of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from .extras import needs
from .settings import METHODS, PROFILES, CourseError, Profile, get_profile, work_dir
from .storage.markdown import printable

__all__ = ["main"]

Command = Callable[[argparse.Namespace], bool | None]
COMMANDS: dict[str, tuple[Command, tuple[Any, ...], str, tuple[str, ...]]] = {}
OMITTED = {"default": argparse.SUPPRESS}  # a flag that is not given is no attribute
# The first setting of each group, and the group's title in `--help`.
GROUPS = {
    "model": "models and encoders",
    "data": "data and weights",
    "dtype": "memory and speed",
    "lora_r": "adapter and batches",
    "sft_learning_rate": "SFT",
    "learning_rate": "the preference arms",
    "max_grad_norm": "the optimiser of every run",
    "sample_prompts": "samples, usable stories and chance",
}


def flag(name: str, help: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """One argument of a command, as `add_argument` takes it."""
    return name, {"help": help, **options}


def path_flag(name: str, help: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """An argument that names a file or folder."""
    return flag(name, help, type=Path, **options)


def command(
    *flags: Any, profile: str = "", unread: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """Register a command; `profile` adds --profile ("name"), or each setting too ("settings").

    Groups of settings that the command does not read are accepted, and left out of its help.
    """

    def register(function: Command) -> Command:
        COMMANDS[function.__name__.strip("_")] = (function, flags, profile, unread)
        return function

    return register


def number_or_none(text: str) -> float | None:
    """A number; None for "none", with which a request says nothing of the setting."""
    return None if text == "none" else float(text)


CONDITIONS = ("plain", "iterative", "verbalised")
KEY_FLAG = flag("--key-variable", "environment variable with the key", metavar="NAME")
ENDPOINT_FLAGS = (
    flag("--model", "the endpoint's name of the model", required=True),
    flag("--base-url", "default: OpenAI's; others usually end in /v1", metavar="URL", **OMITTED),
    KEY_FLAG,
    flag("--concurrency", "calls at once (default: %(default)s)", type=int, default=8),
    flag("--timeout", "seconds of silence that end a call", type=float, default=600.0),
    flag("--prices", "of a million tokens", type=float, nargs=2, metavar=("PROMPT", "COMPLETION")),
    flag("--limit-name", "of the longest answer", choices=("max_tokens", "max_completion_tokens")),
    flag("--yes", "do not ask before the first call", action="store_true"),
)


@command(
    flag("--notebooks", "some of them, such as 01 03", nargs="+", default=[], metavar="NN"),
    flag("--set", "change settings of the profile", nargs="+", default=[], metavar="SETTING=VALUE"),
    profile="name",
)
def _run(args: argparse.Namespace) -> bool:
    """run the notebooks; results go to build/<profile>"""
    from .course.notebooks import run

    overrides = {}
    for pair in args.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CourseError(f"--set {pair} gives no value: write SETTING=VALUE, such as seed=7.")
        if value and Path(value).exists():  # notebooks run in their own folder
            value = str(Path(value).resolve())
        overrides[name.replace("-", "_")] = value
    profile = get_profile(args.profile, **overrides)
    typed = {name: getattr(profile, name) for name in overrides}
    return run(profile, args.notebooks, **typed)


@command(
    path_flag("--answers", "instead: NoveltyBench's answers and labels, into this folder"),
    profile="name",
)
def _fetch(args: argparse.Namespace) -> None:
    """fetch the profile's model and encoders, or people's and GPT-4o's answers"""
    from .course.notebooks import fetch
    from .course.noveltybench import fetch_answers

    if args.answers is not None:
        fetch_answers(args.answers)
        print(f"NoveltyBench's answers and labels, with their licence, are in {args.answers}.")
        return
    profile = get_profile(args.profile)
    fetch(profile)
    print(f"Model and encoders of the profile {profile.name} are ready.")


@command(
    flag("--method", "default: ddpo", nargs="+", choices=METHODS),
    path_flag("--config", "a run's config.yaml: its profile, settings and method"),
    path_flag("--output", "folder of the adapters (build/<profile>/adapters)"),
    path_flag("--sft", "folder of an SFT adapter to start from (<output>/sft)"),
    profile="settings",
)
def _train(args: argparse.Namespace) -> None:
    """train adapters, alone or under accelerate launch"""
    from .training.all_arms import train

    train(_profile(args), args.method or ["ddpo"], args.output, args.sft)


@command(
    path_flag("--adapters", "folder of the adapters (build/<profile>/adapters)"),
    path_flag("--output", "folder of samples and table (build/<profile>/evaluation)"),
    path_flag("--reward-model", "folder of a reward model made by `reward`"),
    flag("--base-url", "a server that samples, with adapters by the rows' names", metavar="URL"),
    KEY_FLAG,
    flag("--concurrency", "calls to it at once (default: %(default)s)", type=int, default=64),
    profile="settings",
    unread=("SFT", "the preference arms", "the optimiser of every run"),
)
def _evaluate(args: argparse.Namespace) -> None:
    """sample adapters and make the table"""
    from .corpus.stories import decisions
    from .evaluation.evaluate import evaluate_adapters
    from .evaluation.usability import Thresholds
    from .models.endpoint import Endpoint

    profile = _profile(args)
    thresholds = Thresholds.read(decisions(), profile)
    options = {"key_variable": args.key_variable, "concurrency": args.concurrency}
    server = Endpoint("each row's", args.base_url, **options) if args.base_url else None
    places = args.adapters, args.output, args.reward_model
    evaluate_adapters(profile, thresholds, *places, server)


@command(
    path_flag("--output", "folder of the reward model (build/<profile>/reward)"),
    profile="settings",
    unread=("the preference arms", "samples, usable stories and chance"),
)
def _reward(args: argparse.Namespace) -> None:
    """train the reward model and measure it on unseen prompts and writers"""
    from .corpus.stories import decisions
    from .evaluation.reward_trial import record_reward

    record_reward(_profile(args), decisions()["reward_bound"], args.output)


@command(
    flag("--gpu-memory", "24, 40, 80, 141 (default: 80)", type=float, default=80, metavar="GB"),
    flag("--gpus", "how many (default: 1)", type=int, default=1),
    profile="settings",
)
def _plan(args: argparse.Namespace) -> None:
    """memory, tokens and hours of a training run, offline"""
    from .training.plan import show_plan

    show_plan(_profile(args), args.gpu_memory, args.gpus)


@command(flag("--workshop", "rehearse what a room will do; ends with: ready", action="store_true"))
def _doctor(args: argparse.Namespace) -> bool:
    """what this machine can run, what is missing, and the command that adds it"""
    from .course.doctor import doctor
    from .course.workshop import preflight

    return preflight() if args.workshop else doctor()


@command(
    *ENDPOINT_FLAGS,
    flag("--condition", "default: plain", choices=CONDITIONS, default="plain"),
    flag("--no-system", "for models that take no system message", action="store_true"),
    flag("--samples", "stories per prompt (default: 4)", type=int, default=4),
    path_flag("--prompts", "JSONL of prompt_id and prompt (default: the 40 test prompts)"),
    path_flag("--output", "JSONL file (build/endpoint/<model>-<condition>.jsonl)"),
    flag("--temperature", "none sends none (default: 1.0)", type=number_or_none, default=1.0),
    flag("--top-p", "none sends none (default: 0.95)", type=number_or_none, default=0.95),
    flag("--max-tokens", "of a story (default: 2048)", type=int, default=2048),
)
def _sample(args: argparse.Namespace) -> None:
    """sample stories from a model behind an OpenAI-compatible endpoint"""
    from .corpus.stories import load_prompts
    from .models.endpoint import Decoding, sample_endpoint
    from .models.prompting import read_prompts

    endpoint, decoding = _endpoint(args), Decoding(args.temperature, args.top_p, args.max_tokens)
    prompts = load_prompts() if args.prompts is None else read_prompts(args.prompts)
    name = f"{endpoint.file_name}-{args.condition}.jsonl"
    output = args.output or work_dir("endpoint") / name
    frame = sample_endpoint(prompts, output, endpoint, args.condition, args.samples, decoding)
    print(f"{len(frame)} stories of {len(prompts)} prompts in {os.path.relpath(output)}")


@command(
    flag("samples", "JSONL; SOURCE picks one of several", nargs=2, metavar="FILE[:SOURCE]"),
    flag("--names", "of the two systems; only the key holds them", nargs=2, required=True),
    path_flag("--output", "folder of the comparisons (build/compare)"),
    flag("--per-side", "stories of a set (default: 4)", type=int, default=4, metavar="N"),
    flag("--prompts", "comparisons (default: 10)", type=int, default=10, metavar="N"),
    flag("--seed", "of every draw (default: 0)", type=int, default=0),
)
def _compare(args: argparse.Namespace) -> None:
    """make blind comparisons of two sample files, for human raters"""
    from .human_eval.comparisons import compare

    folder = args.output or work_dir("compare")
    compare(args.samples, args.names, folder, args.per_side, args.prompts, args.seed)


@command(
    *ENDPOINT_FLAGS,
    path_flag("--comparisons", "the file that raters get", required=True, metavar="FILE"),
    path_flag("--output", "ratings (ratings/<model>.json beside for_raters)", metavar="FILE"),
    flag("--temperature", "none sends none (default: 0)", type=number_or_none, default=0.0),
    flag("--max-tokens", "of an answer with the reasoning before it", type=int, default=64),
)
def _judge(args: argparse.Namespace) -> None:
    """have a model behind an endpoint rate blind comparisons, in both orders"""
    from .human_eval.judge import judge_file

    judge_file(args.comparisons, args.output, _endpoint(args), args.max_tokens)


@command(path_flag("folder", "what `compare` wrote (build/compare)", nargs="?"))
def _ratings(args: argparse.Namespace) -> None:
    """what the raters' files say: win rates, agreement, position"""
    from .human_eval.win_rates import show_ratings

    show_ratings(args.folder or work_dir("compare"))


def _endpoint(args: argparse.Namespace) -> Any:
    from .models.endpoint import Endpoint

    names = ("model", "base_url", "temperature", "key_variable", "concurrency", "timeout", "prices")
    options = {name: getattr(args, name) for name in (*names, "limit_name") if hasattr(args, name)}
    confirm = None if args.yes else _confirm
    return Endpoint(**options, system=not getattr(args, "no_system", False), confirm=confirm)


def _confirm(estimate: str) -> bool:
    """Whether the user agrees to the estimate, which has been printed."""
    if not sys.stdin or not sys.stdin.isatty():
        raise CourseError("Nothing was sent: nobody can agree to the estimate; --yes agrees to it.")
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


def _profile(args: argparse.Namespace) -> Profile:
    """The profile with the settings given as flags; those of --config come before them."""
    names = [field.name for field in fields(Profile)[1:]]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if getattr(args, "config", None) is None:
        return get_profile(args.profile, **given)
    from .training.run_folder import read_config

    configured, arm, _ = read_config(args.config)
    args.method = args.method or [arm.command]
    settings = {name: getattr(configured, name) for name in names}
    return get_profile(configured.name, **settings | given)


class Parser(argparse.ArgumentParser):
    """A parser whose faults are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; see `{self.prog} --help`\n")


def _parser() -> Parser:
    parser = Parser(prog="python -m ddpo_utils", description="The DDPO course's commands.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, (function, flags, profile, unread) in COMMANDS.items():
        usage = "%(prog)s [options] [settings]" if profile == "settings" else None
        subparser = subparsers.add_parser(name, help=function.__doc__, usage=usage)
        if profile:
            choices = "smoke, laptop, colab or 8b (DDPO_PROFILE, else laptop)"
            subparser.add_argument("--profile", default="", help=choices)
        if profile == "settings":
            _add_settings(subparser, unread)
        for argument, options in flags:
            subparser.add_argument(argument, **options)
    return parser


def _add_settings(parser: argparse.ArgumentParser, unread: tuple[str, ...]) -> None:
    """A flag for each setting of a profile, in groups; its value changes the profile's."""
    group, title = parser.add_argument_group(), ""
    for field in fields(Profile)[1:]:
        if field.name in GROUPS:
            title = GROUPS[field.name]
            group = parser.add_argument_group(f"settings: {title}")
        laptop, large = (getattr(PROFILES[name], field.name) for name in ("laptop", "8b"))
        text = f"{field.metadata['description']} (laptop: {laptop}, 8b: {large})"
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            metavar=field.type.split(" ")[0].upper(),
            help=argparse.SUPPRESS if title in unread else text,
            **OMITTED,
        )


def _file_fault(fault: OSError) -> str:
    name = fault.filename or "A file or the output"
    reason = fault.strerror or fault
    return f"{name} cannot be used ({reason}): name another, free space or change its permissions."


class PlainOutput:
    """A stream whose text, which may hold text of data, does nothing to a terminal."""

    def __init__(self, stream: Any):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8

    def write(self, text: str) -> int:
        return self.stream.write(printable(text, keep="\n\r\t"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command and return its exit status.

    It is 0; or 1 after a fault, 2 for a wrong command line and 130 after Ctrl-C, with one sentence
    on stderr. Where a reader has closed the pipe, such as `head`, the status is 1 in silence.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(message)}\n"
    if sys.stdout is None:  # closed, as by >&-: print writes nothing
        return _carry_out(arguments)
    with redirect_stdout(PlainOutput(sys.stdout)):
        status = _carry_out(arguments)
        try:
            sys.stdout.flush()
        except OSError as fault:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no flush fails again
            if status == 0 and not isinstance(fault, BrokenPipeError):
                print(f"error: {_file_fault(fault)}", file=sys.stderr)
            status = status or 1
    return status


def _carry_out(arguments: Sequence[str] | None) -> int:
    """The exit status of the command; the sentence about its fault is printed."""
    parser = _parser()
    status = 1
    try:
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.prog += f" {args.command}"  # its help lists its flags
            parser.error(f"unknown arguments: {' '.join(unknown)}")
        with needs("train"):
            succeeded = COMMANDS[args.command][0](args)
        return 1 if succeeded is False else 0
    except SystemExit as leaving:  # argparse has printed help or a sentence
        return int(leaving.code or 0)
    except CourseError as fault:
        message = str(fault)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        status, message = 130, "stopped from the keyboard; what was finished is kept."
    except ImportError as fault:
        message = f"{fault}."
    except OSError as fault:
        message = _file_fault(fault)
    except RuntimeError as fault:
        if "out of memory" not in str(fault):
            raise
        message = (
            "the memory is full; checkpoints are kept. Lower --micro-batch or --max-length, or use "
            "--quantize true (QLoRA); `python -m ddpo_utils plan` shows what fits."
        )
    print(f"error: {printable(message)}", file=sys.stderr)
    return status
