"""Finds the packages: four folders of the checkout install as one package, `systolith`.

Everything else about the project is in pyproject.toml; that the list of packages follows the
folders cannot be said there.
"""

from setuptools import find_namespace_packages, setup

FOLDERS = {
    "systolith": "sw",
    "systolith.hw": "hw",
    "systolith.sim": "sim",
    "systolith.boards": "boards",
}


def packages() -> list[str]:
    """Import names of all packages in the four folders."""
    return [name for package, folder in FOLDERS.items() for name in (
        package, *(f"{package}.{inner}" for inner in find_namespace_packages(
            folder, exclude=["*__pycache__*"])))]


if __name__ == "__main__":
    # A folder of its own under build/, which is emptied before every build: setuptools would put
    # what is left there of deleted files into the wheel.
    setup(packages=packages(), package_dir=FOLDERS,
          options={"build": {"build_base": "build/wheel"}})
