"""These tests need a venv in which llama.cpp was built: `scripts/test --with-llama` makes it and runs them too."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("UNIGATE_LLAMA_PYTHON") else ["test_llama.py"]
