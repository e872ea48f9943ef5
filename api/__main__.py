"""The `lyre` command: `serve` the HTTP API, `speak` one text into a file, `bench`: measure, `doctor`: look."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import rich_click as click
from rich.console import Console

from api import __version__
from api.doctor.examine import examine, first_key
from api.doctor.findings import document, show, worst
from api.doctor.remote import remote
from api.serve import serve
from api.settings import ENGINE_FIELDS, PREFIX, Settings, load_settings
from api.speak import Job, speak
from benchmarks.suite import PARTS, Plan, run_parts
from engine import ConfigError, EngineError, InvalidRequest, SamplingParams

Command = TypeVar("Command", bound=Callable[..., Any])

# Keys on a command line would be visible to every user of the machine.
SERVE_FIELDS: Final = tuple(name for name in Settings.model_fields if name != "api_keys")


def settings_options(names: Iterable[str]) -> Callable[[Command], Command]:
    """One option for each of these settings, described as the settings describe themselves."""

    def decorate(command: Command) -> Command:
        for name in reversed(tuple(names)):
            field = Settings.model_fields[name]
            about = f"{field.description} [{PREFIX}{name.upper()}; default {_shown(field.default)}]"
            command = click.option("--" + name.replace("_", "-"), name, metavar="VALUE", help=about)(command)
        return command

    return decorate


def _shown(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lyre")
def main() -> None:
    """Lyre: an OpenAI-compatible streaming speech server for Orpheus TTS."""


@main.command("serve")
@settings_options(SERVE_FIELDS)
def serve_command(**flags: str | None) -> None:
    """Serve POST /v1/audio/speech. Every option can also be set by its environment variable."""
    try:
        code = serve(load_settings(flags))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error.strerror or error}") from None
    sys.exit(code)


@main.command("speak")
@click.argument("text")
@click.option("-o", "--output", default="speech.wav", show_default=True, help="file to write; - is standard output")
@click.option("--voice", help="a voice of the model, or one of OpenAI's names [default: the model's first]")
@click.option("--speed", type=click.FloatRange(0.25, 4.0), default=1.0, show_default=True, help="faster or slower")
@click.option("--seed", type=int, help="makes the audio repeatable")
@click.option("--temperature", type=float, help="how freely to sample, 0 to 2 [default: the model's]")
@settings_options(ENGINE_FIELDS)
def speak_command(
    text: str,
    output: str,
    voice: str | None,
    speed: float,
    seed: int | None,
    temperature: float | None,
    **flags: str | None,
) -> None:
    """Speak TEXT (- reads standard input) into a file; its suffix is the format: wav mp3 flac opus aac pcm."""
    to_stdout = output == "-"
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("the audio would go to the terminal: name a file with -o, or use a pipe")
    console = Console(stderr=True)
    try:
        params = SamplingParams(seed=seed, temperature=temperature)
        spoken = sys.stdin.read() if text == "-" else text
        job = Job(spoken, None if to_stdout else Path(output), voice, params, speed)
        report = asyncio.run(speak(load_settings(flags), job, console))
    except (ConfigError, InvalidRequest) as error:
        raise click.UsageError(str(error)) from None
    except EngineError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'output'}: {error.strerror or error}") from None
    console.print(f"{'standard output' if to_stdout else output}: {report}", highlight=False)


@main.command("bench")
@click.argument("part", type=click.Choice([*PARTS, "all"]), default="all")
@click.option(
    "--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="file for all figures, JSON"
)
@click.option("--url", help="measure a server that runs already [default: one of its own, with the settings below]")
@click.option("--key", help="an API key of that server")
@click.option("--concurrency", help="streams at once in the table of texts [default: 1,16; on a CPU 1,4]")
@click.option("--quick", is_flag=True, help="a few runs of everything: whether it works, not how fast it is")
@settings_options(ENGINE_FIELDS)
def bench_command(
    part: str,
    out: Path | None,
    url: str | None,
    key: str | None,
    concurrency: str | None,
    quick: bool,
    **flags: str | None,
) -> None:
    """Measure decode, codec and prefill (on a GPU), the start-up, and the server over HTTP; or one of them.

    `--model orpheus-3b --load-format dummy` measures random weights of a known shape.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        load_settings(given)
        counts = tuple(map(int, concurrency.split(","))) if concurrency else None
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    except ValueError:
        raise click.UsageError(f"--concurrency: {concurrency!r} is no list of numbers") from None
    report = run_parts(PARTS if part == "all" else [part], Plan(given, url, key, counts, quick))
    if out is not None:
        report.write(out)
    if report.failed:
        raise click.ClickException(f"failed: {', '.join(report.failed)}")
    if report.skipped:
        message = f"this machine cannot measure {', '.join(report.skipped)}"
        if part != "all":
            raise click.ClickException(message)
        print(message, file=sys.stderr)


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="one JSON object instead of lines")
@click.option("--url", help="look at a server that runs, from here, instead of at this machine")
@settings_options(SERVE_FIELDS)
def doctor_command(as_json: bool, url: str | None, **flags: str | None) -> None:
    """Look at this machine, the settings and the files as `lyre serve` would use them, and say what to do.

    Ends with 1 when something will not work. --url asks a server for speech, with the first of the keys that are set,
    or OPENAI_API_KEY.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    findings = list(remote(url, first_key(given)) if url else examine(given))
    if as_json:
        print(document(findings))
    else:
        show(findings, Console())
    sys.exit(worst(findings) == "error")


if __name__ == "__main__":
    main()
