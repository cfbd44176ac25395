"""Reports of compiled programs; everything in them is derived from the program that runs. Needs no TVM.

    report = build_report(program, timing)      # the dict of `compile --report` and `Executable.report`
    print_report(report, console)               # in `report.text`
"""

from dsa_compiler.report.summary import build_report

__all__ = ["build_report"]
