"""The program: tables, encoding, disassembly and the container file. Needs no TVM."""
