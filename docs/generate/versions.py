"""The folders of the site: a list of them for the choice of a version, and the way from the top to the latest.

python -m docs.generate.versions build/site
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

__all__ = ["order", "write"]

LATEST = "latest"
REDIRECT = """<!doctype html>
<meta charset="utf-8">
<title>mtl_ops</title>
<meta http-equiv="refresh" content="0; url={0}/">
<link rel="canonical" href="{0}/">
<a href="{0}/">mtl_ops</a>
"""


def order(names: list[str]) -> list[str]:
    """``latest``, then releases, the newest first; what is no version is left out."""
    releases = [name for name in names if re.fullmatch(r"v\d+(\.\d+)*", name)]
    newest_first = sorted(releases, key=lambda name: [int(n) for n in name[1:].split(".")])[::-1]
    return [LATEST, *newest_first] if LATEST in names else newest_first


def write(site: Path) -> list[str]:
    """Writes ``versions.json`` and ``index.html`` beside the folders, and returns their order.

    Raises:
        ValueError: If there is no version.
    """
    versions = order([path.parent.name for path in site.glob("*/index.html")])
    if not versions:
        raise ValueError(f"The site should have a folder of a version. Found none in {site}.")
    (site / "versions.json").write_text(json.dumps(versions) + "\n", encoding="utf-8")
    (site / "index.html").write_text(REDIRECT.format(versions[0]), encoding="utf-8")
    (site / ".nojekyll").touch()  # GitHub Pages would leave out folders that begin with _
    return versions


if __name__ == "__main__":
    print(", ".join(write(Path(sys.argv[1]))))
