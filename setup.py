"""What pyproject.toml cannot say: configs/ travels in the wheel, as stylenat/configs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["stylenat*", "ops*"]), "stylenat.configs"],
    package_dir={"stylenat.configs": "configs"},
)
