"""The instruction set: the table, its values, costs and rules. Needs no TVM."""
