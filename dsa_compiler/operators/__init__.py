"""Operators: their categories and semantics, shared by every level above the instruction set."""
