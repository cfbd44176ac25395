"""Runs programs: values with NumPy, time event by event, races and deadlocks found. Needs no TVM.

An independent witness of the compiler: it imports `target`, `isa` and `program` alone.
"""
