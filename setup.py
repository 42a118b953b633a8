"""All metadata lives in pyproject.toml; here is only how ``configs/`` gets into the package that is built."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path(__file__).parent / "configs"


class BuildWithConfigs(build_py):
    """Copy ``configs/`` to ``hyperd/configs``, where ``hyperd.config.shipped`` looks for it in an installation."""

    def run(self) -> None:
        """Copy the modules, then the files."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(CONFIGS, Path(self.build_lib) / "hyperd" / "configs", dirs_exist_ok=True)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return every file of the build."""
        copied = Path(self.build_lib) / "hyperd" / "configs"
        ours = [str(copied / path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*") if path.is_file()]
        return [*super().get_outputs(include_bytecode), *ours]


setup(cmdclass={"build_py": BuildWithConfigs})
