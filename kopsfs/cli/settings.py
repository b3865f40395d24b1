"""Which settings hold here, and where does each come from?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kopsfs import config
from kopsfs.cli import arguments, program
from kopsfs.option import Kind, Option

_EPILOG = """\
examples:
  kopsfs config
  kopsfs config --config /etc/kopsfs/prod.toml --json

A setting comes from, the first that says something counts: the flag, -o, KOPSFS_…, the file of --config (else
/etc/kopsfs/kopsfs.toml, then ~/.config/kopsfs/kopsfs.toml, the latter first), its default. The state store comes
from --state, KOPS_STATE_STORE, such a file, ~/.kops.yaml, ~/.kops/config.

exit status: 0; 2 usage; 78 no state store, or a setting that cannot be used
"""


def register(subparsers: program.Subparsers) -> None:
    """Add `config`."""
    parser = program.add_command(
        subparsers, "config", "Print every setting that a mount would use here, and where it came from.", _EPILOG
    )
    arguments.add_options(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    loaded = arguments.load_config(parsed, require_store=False)
    rows = [(option, getattr(loaded, option.field), loaded.origins[option.field]) for option in config.OPTIONS]
    if parsed.json:
        print(json.dumps({option.key: {"value": _plain(value), "origin": origin} for option, value, origin in rows}))
    else:
        texts = [(option.key, _written(option, value), origin) for option, value, origin in rows]
        key_width = max(len(key) for key, _, _ in texts)
        text_width = min(60, max(len(text) for _, text, _ in texts))
        for key, text, origin in texts:
            print(f"{key:<{key_width}}  {text:<{text_width}}  {origin}")
    if not loaded.state:
        program.complain(config.STATE_STORE_REQUIRED)
        return program.CONFIGURATION
    return 0


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _written(option: Option, value: Any) -> str:
    if value is None or value in {"", Path()}:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if option.kind is Kind.OCTAL:
        return f"{value:03o}"
    if option.kind is Kind.PATTERNS:
        return ",".join(value) or "-"
    return arguments.describe_default(option, value)
