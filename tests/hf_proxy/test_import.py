"""The package imports, and is the workspace's own."""

from pathlib import Path

import hf_proxy


def test_hf_proxy_is_installed_from_the_workspace():
    root = Path(__file__).resolve().parents[2]
    assert Path(hf_proxy.__file__).is_relative_to(root / "hf-proxy" / "src")
