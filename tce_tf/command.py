"""How does every command read its flags and end? One flags parser, one place for exit codes.

absl's own `app.run` exits 1 for a bad flag and for `--help`, hides flags that another module
defined, and parses into one global set that two commands in a process share. Here each command
gets a `FlagValues` of its own, made when it starts:

    exit 0  it worked, or `--help` was asked
    exit 1  the input is at fault: one line on stderr, no traceback
    exit 2  a flag or a flag's value is at fault: one line on stderr
    exit 128 + n  signal n ended it, as in 143 for SIGTERM; one line where its work was saved first
"""

import dataclasses
import inspect
import io
import logging as logging_of_python
import math
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence

from absl import flags, logging

from tce_tf import errors


def parse(
    define_flags: Callable[[flags.FlagValues], None], arguments: Sequence[str]
) -> flags.FlagValues:
    """Parses a command's arguments, `--flagfile` included. Where a flag is given twice the last wins.

    Args:
      define_flags: defines the command's flags on the `FlagValues` it is given.
      arguments: what follows the program's name.

    Raises:
      flags.Error: unknown flag, bad value, missing required flag, or stray positional argument.
      errors.UserError: a flag file that cannot be read.
    """
    values = flags.FlagValues()
    define_flags(values)
    try:
        stray = values(["command", *arguments])[1:]
    except OSError as error:
        raise errors.UserError(
            f"--flagfile: cannot read {error.filename}: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise errors.UserError("--flagfile: not a text file of flags") from error
    for name in values:
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise flags.Error(f"flag --{name}={value}: must be a finite number")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not _is_text(text):
                raise flags.Error(
                    f"flag --{name}={text!a}: is not UTF-8 text; rename what it names"
                )
    if stray:
        raise flags.Error(f"unexpected argument '{stray[0]}': every option starts with --")
    return values


def _is_text(value: str) -> bool:
    try:
        value.encode()  # fails on what stands for bytes that are no UTF-8
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def define_from_dataclass(cls: type, flag_values: flags.FlagValues) -> None:
    """Defines one flag for each field made by `config.setting`, typed by the field's default."""
    define = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(cls):
        text, choices = field.metadata["help"], field.metadata["choices"]
        if choices:
            flags.DEFINE_enum(field.name, field.default, choices, text, flag_values=flag_values)
        else:
            define[type(field.default)](field.name, field.default, text, flag_values=flag_values)


def to_dataclass(cls: type, values: flags.FlagValues):
    """The dataclass that the flags of `define_from_dataclass` describe."""
    return cls(**{field.name: values[field.name].value for field in dataclasses.fields(cls)})


def help_text(module_doc: str, program: str, values: flags.FlagValues) -> str:
    """The text of `--help`: what the command does, then each flag with its meaning and default."""
    lines = [inspect.cleandoc(module_doc), "", f"usage: {program} [flags]", "", "flags:"]
    for name in values:
        flag = values[name]
        kind = flag.flag_type()
        shown = f"  --[no]{name}" if kind == "bool" else f"  --{name}=<{_choices(flag) or kind}>"
        default = "" if flag.default in (None, "") else f" (default: {_as_typed(flag)})"
        lines.append(shown)
        lines += textwrap.wrap(
            _meaning(flag) + default,
            width=96,
            initial_indent="      ",
            subsequent_indent="      ",
        )
    lines += [
        "  --flagfile=<path>",
        "      Reads flags from a file, one a line; # starts a comment. May be repeated.",
        "  --help",
        "      Shows this text.",
    ]
    return "\n".join(lines)


def _meaning(flag: flags.Flag) -> str:
    # absl puts the choices before an enum's help; they stand in the line above already.
    return flag.help.removeprefix(f"<{_choices(flag)}>: ")


def _choices(flag: flags.Flag) -> str:
    return "|".join(getattr(flag.parser, "enum_values", None) or ())


def _as_typed(flag: flags.Flag) -> str:
    default = flag.default
    return ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def run(
    main: Callable[[flags.FlagValues], None],
    define_flags: Callable[[flags.FlagValues], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs a command and exits the process with the codes in this file's docstring.

    Args:
      main: takes the parsed flags; raises `errors.UserError` for anything a user can cause.
      define_flags: defines the command's flags.
      arguments: defaults to `sys.argv[1:]`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    module = sys.modules[main.__module__]
    program = f"python -m {module.__spec__.name}" if module.__spec__ else sys.argv[0]
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_printable_arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # names in a locale that lacks their letters
    # absl's global flags stay unused; unless marked it warns of logging before they are parsed.
    flags.FLAGS.mark_as_parsed()
    # It reports every all-reduce it lays out; what a user should know of it comes as a warning.
    logging_of_python.getLogger("tensorflow").setLevel(logging_of_python.WARNING)
    try:
        if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(arguments):
            values = flags.FlagValues()
            define_flags(values)
            print(help_text(module.__doc__ or "", program, values))
        else:
            main(parse(define_flags, arguments))
        sys.stdout.flush()  # here, where a reader that went away can be dealt with
    except flags.Error as error:
        _fail(f"{error} (see {program} --help)", 2)
    except errors.FlagError as error:
        _fail(f"{error} (see {program} --help)", 2)
    except errors.UserError as error:
        _fail(str(error), 1)
    except errors.Stopped as stop:
        _fail(str(stop), 128 + stop.signal_number)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output (head, less) went away; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:  # no file or folder of the user's
            raise
        _fail(f"{error.filename}: {error.strerror}", 1)
    except Exception as error:
        # TensorFlow's own MemoryError; nothing here may import it for that.
        tensorflow = sys.modules.get("tensorflow")
        oom = tensorflow.errors.ResourceExhaustedError if tensorflow else MemoryError
        if not isinstance(error, MemoryError | oom):
            raise
        lines = str(error).splitlines() or ["MemoryError"]
        if "No space left on device" in lines[0]:  # TensorFlow has one error for both
            _fail(f"a disk is full: {lines[0]}", 1)
        reason = next((line for line in lines if "OOM" in line), lines[0])
        _fail(f"not enough memory; make batches, images or --num_negatives smaller ({reason})", 1)


def _printable_arguments(record: logging_of_python.LogRecord) -> bool:
    """A filter of logs that never drops one: names in them cannot speak to the terminal."""
    if isinstance(record.args, tuple):
        record.args = tuple(errors.printable(a) if isinstance(a, str) else a for a in record.args)
    return True


def _fail(message: str, code: int) -> None:
    print(f"error: {errors.printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
