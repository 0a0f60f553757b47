"""Build hook of the distribution: a wheel holds both packages; an editable install holds neither and points to them."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BothPackages(BuildHookInterface):  # type: ignore[type-arg]
    """Both packages lie in the folder above this file's, where Hatch does not look by itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            above = Path(self.root).parent
            build_data["force_include"] |= {str(above / name): name for name in ("ncpress", "ncclass")}
