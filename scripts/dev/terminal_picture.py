"""Runs a command on a pseudo terminal and draws its screen as SVG; see `terminal_picture`."""

import argparse
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, ROWS = 100, 30

# How long a command that was asked to stop may take before it is killed, in seconds.
PATIENCE = 60

# rich's own frame without its web fonts: a picture in a README may load nothing.
FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def run_on_terminal(command, seconds):
    """The screen of `command` after `seconds`, or when it ended."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ended = copy_output(terminal, stream.feed, seconds)
    if not ended:
        os.killpg(process, signal.SIGTERM)
        if not copy_output(terminal, lambda _: None, PATIENCE):
            os.killpg(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if ended and status != 0:
        said = "\n".join(line.rstrip() for line in screen.display).strip()
        sys.exit(f"{said}\nterminal_picture: the command ended with {status}; no picture")
    return screen


def copy_output(terminal, feed, seconds):
    """Feeds the terminal's output for so many seconds; says whether it ended before."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            return False
        try:
            output = os.read(terminal, 65536)
        except OSError:  # Linux's way of saying that the other side is closed
            return True
        if not output:
            return True
        feed(output)
    return False


def colour(name):
    """A colour of pyte (a name or six hexadecimal digits) as rich has it."""
    if name == "default":
        return None
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name.lower()):
        return f"#{name}"
    name = name.replace("brown", "yellow")  # pyte's word for it
    return f"bright_{name[6:]}" if name.startswith("bright") else name


def as_lines(screen):
    """The screen as styled lines, without the empty ones at its end."""
    lines = []
    for row in range(screen.lines):
        line = Text()
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            style = Style(
                color=colour(cell.fg),
                bgcolor=colour(cell.bg),
                bold=cell.bold,
                italic=cell.italics,
                underline=cell.underscore,
                reverse=cell.reverse,
            )
            line.append(cell.data, style)
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def draw(screen, path, title):
    lines = as_lines(screen)
    if not lines:
        sys.exit("terminal_picture: the screen is empty; give the command more seconds")
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(
            file=nowhere,
            record=True,
            width=screen.columns,
            force_terminal=True,
            color_system="truecolor",
            legacy_windows=False,
        )
        for line in lines:
            console.print(line, no_wrap=True, overflow="crop", highlight=False)
        # A fixed id, so that the same screen makes the same file.
        console.save_svg(
            path, title=title, theme=MONOKAI, code_format=FRAME, unique_id="terminal"
        )


def main():
    parser = argparse.ArgumentParser(
        prog="terminal_picture",
        usage="%(prog)s PICTURE.svg SECONDS -- COMMAND [ARGUMENT…]",
        description="Draws what a command shows on a terminal of 100×30, as SVG.",
    )
    parser.add_argument("picture", metavar="PICTURE.svg")
    parser.add_argument("seconds", type=float, metavar="SECONDS")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    arguments = parser.parse_args()
    screen = run_on_terminal(arguments.command, arguments.seconds)
    os.makedirs(os.path.dirname(os.path.abspath(arguments.picture)), exist_ok=True)
    draw(screen, arguments.picture, os.path.basename(arguments.command[0]))


main()
