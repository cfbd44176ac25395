import subprocess
import sys
from pathlib import Path

from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.listing import write_listing

ROOT = Path(__file__).parents[2]
GOOD = ".target npu-v1\n.input x ddr[0] u8 640\nc0.0 load: load dst=l1[0] u8 640 src=ddr[0] u8 640\n"


def run(tmp_path, text):
    with open(tmp_path / "listing.json", "w", encoding="utf-8") as stream:
        write_listing(parse_program(text), stream)
    command = [sys.executable, "-m", "tests.accountant", str(tmp_path / "listing.json")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_prints_the_account(tmp_path):
    result = run(tmp_path, GOOD)
    assert result.returncode == 0
    assert result.stdout.startswith("cycles 226.000\nentries 1, host 0.0, conflicts 0.0\nbusy load 26, ")
    assert "ddr read 640" in result.stdout and "races 0, unwritten reads 0" in result.stdout


def test_the_command_fails_on_a_hazard_and_on_a_deadlock(tmp_path):
    result = run(tmp_path, GOOD.replace("640\nc0", "64\nc0"))
    assert result.returncode == 1 and "unwritten read: entry 0 in ddr" in result.stdout
    result = run(tmp_path, GOOD.replace("u8 640 src", "u8 640 wait cluster:0 src"))
    assert result.returncode == 1 and result.stdout.startswith("deadlock: c0.0 load at entry 0, waiting for cluster:0")
