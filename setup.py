"""The package's metadata, read from settings.ini: the one place where it is written down."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]

STATUS = {
    "1": "1 - Planning", "2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta",
    "5": "5 - Production/Stable", "6": "6 - Mature", "7": "7 - Inactive",
}
LICENSES = {"apache2": "Apache-2.0"}
EXTRAS = ["train", "reproduce", "dev"]  # each holds those before it


def words(key: str) -> list[str]:
    "A setting that lists things separated by white space"
    return settings.get(key, "").split()


def extras() -> dict[str, list[str]]:
    "What `pip install fastsums[name]` adds, by name"
    lists, found = {}, []
    for name in EXTRAS:
        found = lists[name] = found + words(f"{name}_requirements")
    return lists


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license=LICENSES[settings["license"]],
    license_files=["LICENSE"],
    keywords=words("keywords"),
    classifiers=[
        f"Development Status :: {STATUS[settings['status']]}",
        f"Intended Audience :: {settings['audience']}",
        "Natural Language :: English",
        *(f"Programming Language :: Python :: {version}" for version in ["3", *words("pythons")]),
    ],
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=["fastsums*"]),
    package_data={"fastsums.kernels": ["lowered/*"]},
    install_requires=words("requirements"),
    extras_require=extras(),
    entry_points={
        "console_scripts": words("console_scripts"),
        # nbdev finds the modules it documents by this entry.
        "nbdev": [f"{settings['lib_name']}={settings['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
