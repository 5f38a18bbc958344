"""Images in a terminal: what a terminal is asked and sent, seen from its other end."""

import base64
import io
import os
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from terminals import Screen

pytest.importorskip("textual_image")

SIXEL, NO_SIXEL, KITTY, NO_KITTY = "\x1b[?62;4c", "\x1b[?62;22c", "\x1b_Gi=1;OK\x1b\\", "\x1b_Gi=1;ENOTSUP\x1b\\"
ASKED = "\x1b[c"
COLUMNS, LINES, WIDTH, HEIGHT = 80, 24, 800, 480  # a letter is 10 x 20 pixels
# What is started is the session of the terminal, which it opens by its name.
START = """
import os, sys
os.close(os.open(sys.argv[1], os.O_RDWR))
os.execv(sys.executable, [sys.executable, "-m", "clipzs", *sys.argv[2:]])
"""


@pytest.fixture
def shown(monkeypatch):
    """Run the command on a terminal that answers so; what it was sent. `stdin`: bytes in a pipe, else the terminal."""

    def start(*arguments, answers, stdin=None, colours="truecolor"):
        monkeypatch.setenv("COLORTERM", colours)
        monkeypatch.setenv("TERM", "xterm-256color")
        screen = Screen()
        terminal = screen.terminal
        name = os.ttyname(terminal)
        settings = termios.tcgetattr(terminal)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, settings)
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, WIDTH, HEIGHT))
        screen.answer(answers)  # before it is asked, so that it is in time however slow this machine is
        process = subprocess.Popen(
            [sys.executable, "-c", START, name, *map(str, arguments)],
            stdin=terminal if stdin is None else subprocess.PIPE,
            stdout=terminal,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
        sent = screen.shown()
        said = process.stderr.read().decode()
        process.stderr.close()
        return process.wait(), sent, said

    return start


def sixels(text):
    """The picture that a Sixel sequence draws, as RGB."""
    width, height, body = re.fullmatch(r'0;0;0q"1;1;(\d+);(\d+)(.*)', text, re.S).groups()
    image = np.zeros((int(height) + 6, int(width), 3), np.uint8)
    colours, colour, x, y = {}, 0, 0, 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)(.)|([$-])|([?-~])", body):
        number, *rgb, count, repeated, move, once = token.groups()
        if number is not None:
            colour = int(number)
            if rgb[0] is not None:
                colours[colour] = [round(int(one) * 2.55) for one in rgb]
        elif move is not None:
            x, y = 0, y + (6 if move == "-" else 0)
        else:
            bits = ord(repeated or once) - 63
            for row in range(6):
                if bits >> row & 1:
                    image[y + row, x : x + int(count or 1)] = colours[colour]
            x += int(count or 1)
    return Image.fromarray(image[: int(height)])


def assert_is(picture, photo):
    with Image.open(photo) as opened:
        whole = opened.convert("RGB").resize(picture.size)
    difference = np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(whole, float)).mean()
    assert difference < 12, difference


def test_sixel_where_the_terminal_has_it(shown, cat):
    code, sent, said = shown(
        "classify", cat, "--labels", "cat,cup", "--model", "tiny", "--preview", "-q", answers=SIXEL
    )
    assert (code, said) == (0, "")
    (drawn,) = re.findall(r"\x1bP(.*?)\x1b\\", sent, re.S)
    picture = sixels(drawn)
    assert picture.width <= 320
    assert picture.height == 200
    assert_is(picture, cat)


def test_kitty_graphics_where_the_terminal_has_them(shown, cat, coffee):
    code, sent, _ = shown(
        *("classify", cat, coffee, "--labels", "cat,cup", "--model", "tiny", "--preview", "-q"),
        answers=NO_SIXEL + KITTY,
        colours="",  # which it often has not over a network; its pictures have their numbers as colours
    )
    assert code == 0
    transmitted: dict[str, str] = {}
    for number, payload in re.findall(r"\x1b_Gi=(\d+),m=\d,f=100,q=2;(.*?)\x1b\\", sent):
        transmitted[number] = transmitted.get(number, "") + payload
    for (number, encoded), photo in zip(transmitted.items(), (cat, coffee), strict=True):
        assert_is(Image.open(io.BytesIO(base64.b64decode(encoded))), photo)
        red, green, blue = int(number) >> 16 & 255, int(number) >> 8 & 255, int(number) & 255
        assert f"\x1b[38;2;{red};{green};{blue}m\U0010eeee" in sent


def half_blocks(sent):
    """Rows of pairs of colours."""
    cells = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)")
    rows = []
    for line in sent.splitlines():
        found = [(tuple(map(int, one[:6])), len(one[6])) for one in cells.findall(line)]
        if found:
            rows.append([colours for colours, count in found for _ in range(count)])
    return np.array(rows, np.uint8)  # [lines, columns, 6]


def test_half_blocks_elsewhere_and_a_list_of_paths_is_not_taken_for_an_answer(shown, cat):
    code, sent, said = shown(
        *("classify", "-", "--labels", "cat,cup", "--model", "tiny", "--preview", "-q"),
        answers=NO_SIXEL + NO_KITTY,
        stdin=f"{cat}\n".encode(),
    )
    assert (code, said) == (0, "")
    cells = half_blocks(sent)
    lines, columns, _ = cells.shape
    assert lines == 10
    assert columns <= 32
    assert_is(Image.fromarray(cells.reshape(lines, columns, 2, 3).swapaxes(1, 2).reshape(2 * lines, columns, 3)), cat)
    assert "cat" in sent.splitlines()[-2]  # below it, the scores


def test_a_picture_stands_upright_and_keeps_its_proportions(shown, tmp_path):
    lying = Image.new("RGB", (400, 100), "white")
    lying.paste("red", (0, 0, 100, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # what was left is to be above
    lying.save(tmp_path / "lying.jpg", exif=exif)
    arguments = "classify", tmp_path / "lying.jpg", "--labels", "cat,cup", "--model", "tiny", "--preview", "-q"
    _, sent, _ = shown(*arguments, answers=NO_SIXEL + NO_KITTY)
    cells = half_blocks(sent)
    assert cells.shape[:2] == (10, 5)
    assert cells[0].mean(axis=0)[1] < 80  # red above
    assert cells[-1].mean(axis=0)[1] > 180


def test_a_terminal_is_asked_nothing_unless_images_are_to_be_shown(shown, cat):
    code, sent, _ = shown("classify", cat, "--labels", "cat,cup", "--model", "tiny", answers="")
    assert code == 0
    assert ASKED not in sent
    assert "▀" not in sent
    assert "\x1bP" not in sent


def test_what_cannot_be_read_has_no_picture_and_its_reason(shown, tmp_path, cat):
    (tmp_path / "text.jpg").write_text("hello")
    code, sent, _ = shown(
        *("classify", tmp_path / "text.jpg", cat, "--labels", "cat,cup", "--model", "tiny", "--preview", "-q"),
        answers=SIXEL,
    )
    assert code == 3
    assert sent.index("text.jpg") < sent.index("a text file") < sent.index("\x1bP")
    assert sent.count("\x1bP") == 1


@pytest.mark.parametrize("more", [(), ("-f", "table", "-o", "{}/out.txt"), ("--json",)])
def test_elsewhere_it_is_refused_in_one_line(run, cat, tmp_path, more):
    more = [text.format(tmp_path) for text in more]
    done = run("classify", cat, "--labels", "cat,cup", "--model", "tiny", "--preview", *more)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --preview shows images in the table on a terminal")
    assert not (tmp_path / "out.txt").exists()


def test_the_environment_asks_in_vain_where_there_is_no_terminal(run, cat, monkeypatch):
    monkeypatch.setenv("CLIPZS_PREVIEW", "1")
    done = run("classify", cat, "--labels", "cat,cup", "--model", "tiny")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{cat}\tcat\t")


def test_without_the_package_it_is_one_line_that_names_it(process, shown, cat, tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    Path(tmp_path / "none" / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'textual_image' else find(name, *more)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    code, sent, said = shown("classify", cat, "--labels", "cat,cup", "--model", "tiny", "--preview", answers="")
    assert (code, sent) == (2, "")
    assert said == (
        "error: --preview needs textual-image, which is not installed\nhint: pip install 'clipzs[preview]'\n"
    )
