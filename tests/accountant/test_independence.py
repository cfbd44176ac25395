import subprocess
import sys
from pathlib import Path


def test_the_accountant_imports_nothing_of_the_compiler():
    code = (
        "import sys, tests.accountant.account, tests.accountant.__main__; "
        "assert not [m for m in sys.modules if m.startswith('dsa_compiler')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
