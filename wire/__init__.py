"""Translates: bytes and OpenAI-shaped values in, bytes and OpenAI-shaped values out. No I/O, no clock, no chance."""
