"""Kernels: layers as TIR with tiles, scopes and explicit copies."""
